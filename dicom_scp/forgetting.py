"""Forgetting what the node holds: from the catalog in one transaction, then its files."""

from collections.abc import Callable, Collection

from pydicom import Dataset

from config.model import ForgettingSettings
from dicom_scp.parsing import parse, quiet
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.lookup import Level
from indexer.catalog.tombstones import REQUEST, ErasureKind, Removal, Target
from indexer.errors import Damaged, NotFound, Refused

_FILES_AT_ONCE = 256
_PATIENT_ID, _ISSUER, _STUDY, _SERIES = 0x00100020, 0x00100021, 0x0020000D, 0x0020000E


class Forgetter:
    """Removes studies, series, instances and patients; safe to use from several threads and processes.

    The index, its snapshots and the database's pages follow: see `node.forgetting`.
    """

    def __init__(self, settings: ForgettingSettings, catalog: Catalog, spool: Spool) -> None:
        self._settings = settings
        self._catalog = catalog
        self._spool = spool

    def targets_of_uid(self, uid: str) -> list[Target]:
        """What a Study, Series or SOP Instance UID names, and what of it lies in quarantine.

        Raises
        ------
        NotFound
            Nothing of that name is held.
        """
        lookup = self._catalog.lookup
        if lookup.series_of_study(uid):
            level, tag = Level.STUDY, _STUDY
        elif lookup.series_by_uid(uid) is not None:
            level, tag = Level.SERIES, _SERIES
        elif lookup.instance_path(uid) is not None:
            return [Target(Level.IMAGE, uid)]
        else:
            return self._only_in_quarantine(uid)
        return [Target(level, uid), *self._in_quarantine(lambda header: _value(header, tag) == uid)]

    def targets_of_patient(self, patient_id: str, issuer: str | None = None) -> list[Target]:
        """The studies of a patient, and what of them lies in quarantine.

        Raises
        ------
        Refused
            Several issuers gave this Patient ID, and none is named.
        NotFound
            Nothing of the patient is held.
        """

        def is_meant(header: Dataset) -> bool:
            same = _value(header, _PATIENT_ID) == patient_id
            return same and issuer in (None, _value(header, _ISSUER))

        found = self._catalog.tombstones.studies_of_patient(patient_id, issuer)
        found += self._in_quarantine(is_meant)
        if not found:
            raise NotFound("nothing of such a patient is held")
        return found

    def would_remove(self, targets: Collection[Target]) -> Removal:
        """How much forgetting these would remove."""
        return self._catalog.tombstones.would_remove(targets)

    def forget(self, targets: Collection[Target], reason: str = REQUEST) -> Removal:
        """Remove these; when this returns, the catalog and the folder of instances hold nothing of them.

        Parameters
        ----------
        reason : str
            `REQUEST`, or the code value of a rejection note's title.

        Raises
        ------
        Transient
            The catalog cannot be written, and nothing was removed; or a file cannot be deleted now, which is
            then tried again.
        """
        removed = self._catalog.tombstones.forget(targets, reason, refuse=reason in self._settings.refuse_again)
        self.erase_files()
        return removed

    def remove_again(self, targets: Collection[Target]) -> None:
        """Remove what came back although it was forgotten; the tombstones stay as they are."""
        self._catalog.tombstones.remove_again(targets)
        self.erase_files()

    def erase_files(self) -> None:
        """Delete the files that are still to be deleted.

        Raises
        ------
        Transient
            One cannot be deleted now; it stays noted.
        """
        tombstones = self._catalog.tombstones
        waiting = tombstones.erasures(ErasureKind.FILE)
        for start in range(0, len(waiting), _FILES_AT_ONCE):
            batch = waiting[start : start + _FILES_AT_ONCE]
            self._spool.erase([one.name for one in batch], self._catalog.lookup.names_file)
            tombstones.erased(batch)

    def _only_in_quarantine(self, uid: str) -> list[Target]:
        named = {sop for sop, _ in self._catalog.tombstones.quarantined()}
        if uid in named:
            return [Target(Level.IMAGE, uid)]
        found = self._in_quarantine(lambda header: uid in (_value(header, _STUDY), _value(header, _SERIES)))
        if not found:
            raise NotFound(f"no study, series or instance {uid} is held")
        return found

    def _in_quarantine(self, is_meant: Callable[[Dataset], bool]) -> list[Target]:
        found = []
        for sop_instance_uid, path in self._catalog.tombstones.quarantined():
            try:
                syntax, encoded = self._spool.read(path)
                header = parse(encoded, syntax, (_PATIENT_ID, _ISSUER, _STUDY, _SERIES))
            except (Damaged, Refused):
                continue
            if is_meant(header):
                found.append(Target(Level.IMAGE, sop_instance_uid))
        return found


def _value(header: Dataset, tag: int) -> str:
    with quiet():
        try:
            return str(header[tag].value or "").strip() if tag in header else ""
        except Exception:  # a hostile value raises anything at all
            return ""
