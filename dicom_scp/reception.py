"""Taking instances in, from the network or from a file: on the disk, in the catalog, and only then acknowledged."""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from dicom_scp.draft import Blank, Draft, content_digest
from dicom_scp.equivalence import same_content
from dicom_scp.errors import Mismatched
from dicom_scp.parsing import parse, quiet
from dicom_scp.part10 import file_header, held_digest, split_file
from dicom_scp.skimming import Skimmer
from dicom_scp.spool import Spool
from indexer.attributes import CATALOGUED_TAGS, InstanceHeader, header_of
from indexer.catalog import Catalog
from indexer.catalog.receipts import KnownInstance, OnConflict, Receipt, StoredFile
from indexer.errors import Damaged, Refused, Transient
from indexer.sealing import StoredPath
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

logger = logging.getLogger(__name__)

_UID = re.compile(r"[0-9.]{1,64}")
"""Leading zeros and other sins against PS3.5 9.1 are common in archives; other characters are not."""
_SOP_CLASS_UID = Tag(0x0008, 0x0016)
_SOP_INSTANCE_UID = Tag(0x0008, 0x0018)
_IDENTITY = {_SOP_CLASS_UID: "SOP Class UID (0008,0016)", _SOP_INSTANCE_UID: "SOP Instance UID (0008,0018)"}
_HIERARCHY = {
    Tag(0x0020, 0x000D): "Study Instance UID (0020,000D)",
    Tag(0x0020, 0x000E): "Series Instance UID (0020,000E)",
}
_TAGS = tuple(Tag(tag) for tag in CATALOGUED_TAGS)


class Verdict(Enum):
    """What became of an instance; a refused one raises instead."""

    STORED = "stored"
    KNOWN = "known"
    """The same content was here already, perhaps in another encoding."""
    KEPT_FIRST = "kept-first"
    """Other content is held under its SOP Instance UID and stays; this was recorded and not taken."""
    REPLACED = "replaced"
    """It took the place of other content under its SOP Instance UID."""
    QUARANTINED = "quarantined"
    """Kept and listed, but it belongs to no series."""


@dataclass(frozen=True)
class Reception:
    """The verdict on one instance and whose it is.

    Attributes
    ----------
    series_instance_uid, study_instance_uid : optional
        None in quarantine.
    reason : str
        Why, if the verdict needs one.
    """

    verdict: Verdict
    sop_instance_uid: SOPInstanceUID
    series_instance_uid: SeriesInstanceUID | None = None
    study_instance_uid: StudyInstanceUID | None = None
    reason: str = ""


@dataclass(frozen=True)
class Affected:
    """What a C-STORE request says of its data set: Affected SOP Class and Instance UID (PS3.7 9.1.1.1)."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class _Candidate:
    """What a data set says of itself.

    Attributes
    ----------
    header : InstanceHeader, optional
        None if `fault` says why it belongs to no series.
    """

    identity: Affected
    header: InstanceHeader | None
    fault: str = ""


class FirstNames(Protocol):
    """Who makes files under names that are durable, and knows when these are needed no more."""

    def blank(self) -> Blank | None:
        """A file for the next instance; None where there is none to be had."""

    def entered(self, draft: Draft, target: str) -> None:
        """A draft has its final name, and its row, neither durable yet."""


class Receiver:
    """Stores instances in a spool and enters them in a catalog.

    Parameters
    ----------
    on_conflict : {"keep-first", "replace"}
        What to do with other content under a SOP Instance UID already stored.
    incoming : FirstNames, optional
        Makes the files; an instance is durable then once its file is, and waits for no other flush.
    """

    def __init__(
        self, catalog: Catalog, spool: Spool, on_conflict: OnConflict, incoming: FirstNames | None = None
    ) -> None:
        self._catalog = catalog
        self._incoming = incoming
        self._spool = spool
        self._on_conflict = on_conflict
        self._skimmer = Skimmer()

    def receive(
        self,
        dataset: bytes,
        transfer_syntax_uid: str,
        *,
        source_ae_title: str = "",
        affected: Affected | None = None,
    ) -> Reception:
        """Take in an encoded data set. When this returns, the verdict is durable.

        Parameters
        ----------
        dataset : bytes
            As it came; stored without a change.
        affected : Affected, optional
            What the request promised.

        Raises
        ------
        Refused
            It is no data set, or names no SOP class and instance.
        dicom_scp.errors.Mismatched
            It is not what the request promised.
        Transient
            It cannot be stored now; nothing of it was kept.
        """
        candidate = self._understand(dataset, transfer_syntax_uid, affected)
        draft = self.draft(candidate.identity, transfer_syntax_uid, source_ae_title)
        try:
            draft.append([dataset])
            return self._store(draft, candidate)
        finally:
            draft.discard()

    def draft(self, affected: Affected, transfer_syntax_uid: str, source_ae_title: str) -> Draft:
        """Begin the file of an instance that is still coming in.

        Parameters
        ----------
        affected : Affected
            What the request promises.
        """
        blank = self._incoming.blank() if self._incoming is not None else None
        uids = (affected.sop_class_uid, affected.sop_instance_uid)
        header = file_header(*uids, transfer_syntax_uid, source_ae_title, with_digest=blank is not None)
        return self._spool.draft(header, transfer_syntax_uid, blank)

    def look(self, draft: Draft) -> None:
        """Look at what has come of a data set, while its sender sends the rest."""
        draft.glance = self._skimmer.glance(draft.head, draft.transfer_syntax_uid)

    def take(self, draft: Draft, affected: Affected) -> Reception:
        """Take in what was written to a draft; otherwise as `receive`, errors included.

        Parameters
        ----------
        draft : Draft
            Whole. The caller discards it, whatever happens.
        """
        syntax = draft.transfer_syntax_uid
        header = self._skimmer.header(draft.head, syntax, draft.dataset_bytes, draft.glance) if draft.head else None
        if header is not None:
            return self._store(draft, _as_promised(_skimmed(header), affected))
        with draft.dataset() as dataset:
            candidate = self._understand(dataset, syntax, affected)
        return self._store(draft, candidate)

    def _understand(
        self, dataset: bytes | memoryview, transfer_syntax_uid: str, affected: Affected | None
    ) -> _Candidate:
        header = self._skimmer.header(dataset, transfer_syntax_uid)
        candidate = _skimmed(header) if header is not None else _parsed(dataset, transfer_syntax_uid)
        return _as_promised(candidate, affected)

    def _store(self, draft: Draft, candidate: _Candidate) -> Reception:
        with self._spool.exclusively(candidate.identity.sop_instance_uid):
            try:
                if candidate.header is None:
                    uid = SOPInstanceUID(candidate.identity.sop_instance_uid)
                    return self._quarantine(draft, uid, candidate.fault)
                return self._enter(draft, candidate.header)
            except BaseException:
                draft.discard()  # in here: it may have its name already, and who comes next may give it to another
                raise

    def take_file(self, path: StoredPath) -> Reception:
        """Take in a DICOM file; its data set and transfer syntax stay as they are.

        Raises
        ------
        Refused, Transient
            As in `receive`; `Refused` too if the file cannot be read.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Refused(f"the file cannot be read: {error.strerror}") from error
        transfer_syntax_uid, dataset = split_file(content)
        return self.receive(dataset, transfer_syntax_uid)

    def _quarantine(self, draft: Draft, uid: SOPInstanceUID, reason: str) -> Reception:
        file = self._spool.keep(draft)
        try:
            self._catalog.receipts.quarantine(uid, file, reason)
        except (Refused, Transient):
            self._discard(file.path)
            raise
        self._discard(file.path)  # the same content may be in quarantine under another name
        return Reception(Verdict.QUARANTINED, uid, reason=reason)

    def _enter(self, draft: Draft, header: InstanceHeader) -> Reception:
        receipt = self._receipt(draft, header)
        if receipt is Receipt.QUARANTINED:
            reason = "the Series Instance UID belongs to another study"
            return Reception(Verdict.QUARANTINED, header.sop_instance_uid, reason=reason)
        uids = header.sop_instance_uid, header.series_instance_uid, header.study_instance_uid
        return Reception(Verdict(receipt.value), *uids)

    def _receipt(self, draft: Draft, header: InstanceHeader) -> Receipt:
        linked = self._spool.link(draft) if draft.proves_itself else None
        file = linked or self._spool.keep(draft)
        try:
            receipt = self._catalog.receipts.enter(header, file, None, is_recoverable=linked is not None)
            if receipt is Receipt.HELD:
                receipt = self._enter_again(draft, file, header)
            elif receipt is Receipt.QUARANTINED:
                self._discard(file.path)
        except (Refused, Transient):
            self._discard(file.path)
            raise
        is_there = receipt is Receipt.STORED or self._spool.holds(file.path)
        if self._incoming is not None and linked is not None and is_there:
            self._incoming.entered(draft, f"{self._spool.folder}/{file.path}")
        return receipt

    def _enter_again(self, draft: Draft, file: StoredFile, header: InstanceHeader) -> Receipt:
        """Enter what has come under a UID that is held already."""
        known = self._catalog.receipts.known(header.sop_instance_uid)
        if self._is_released(header):
            self._spool.remove(file.path)
            return Receipt.KNOWN
        if known is not None and self._holds(draft, known):
            self._discard(file.path)
            return Receipt.KNOWN
        receipt = self._catalog.receipts.enter(header, file, self._on_conflict)
        if receipt is Receipt.KNOWN and known is not None and known.sha256 == file.sha256:
            self._spool.restore(file.path, known.path)
        elif receipt in {Receipt.KEPT_FIRST, Receipt.KNOWN}:
            self._discard(file.path)
        if receipt is Receipt.REPLACED and known is not None:
            self._discard(known.path)
        return receipt

    def _holds(self, draft: Draft, known: KnownInstance) -> bool:
        """Whether the catalog's file is there and says the same; a lost one is welcome again."""
        if known.sha256 == draft.digest:
            return self._spool.holds(known.path)
        try:
            syntax, stored = self._spool.read(known.path)
        except Damaged:
            return False
        return same_content(stored, syntax, draft.read(), draft.transfer_syntax_uid)

    def recover(self, path: Path) -> Path | None:
        """Give a file that came in, and may have been acknowledged, its final name and its row, if it lacks them.

        What was forgotten since, or given up, or is held with other content, stays as it is.

        Parameters
        ----------
        path : Path
            Its first name.

        Returns
        -------
        Path or None
            Its final name, not durable yet; None if it has none.

        Raises
        ------
        OSError, Transient
            It cannot be looked at, or entered.
        """
        content = path.read_bytes()
        try:
            syntax, dataset = split_file(content)
            digest = content_digest(syntax, dataset)
            if held_digest(content).hex() != digest:
                return None
            candidate = self._understand(dataset, syntax, None)
        except Refused:
            return None
        with self._spool.exclusively(candidate.identity.sop_instance_uid):
            return self._recovered(path, digest, candidate)

    def _recovered(self, path: Path, digest: str, candidate: _Candidate) -> Path | None:
        uid = SOPInstanceUID(candidate.identity.sop_instance_uid)
        if self._catalog.holdings.is_released(uid):
            return None
        file = self._spool.link_again(path, digest)
        if not self._catalog.lookup.names_file(file.path):
            if candidate.header is None or not self._catalog.receipts.enter_lost(candidate.header, file):
                self._spool.remove(file.path)
                return None
            logger.warning("instance %s is in the catalog again: the power took its entry", uid)
        return self._spool.path(file.path)

    def _is_released(self, header: InstanceHeader) -> bool:
        """Whether it is known here and its file was given up: its archive has it, there is nothing to compare."""
        return self._catalog.holdings.is_released(header.sop_instance_uid)

    def _discard(self, relative: str) -> None:
        """Remove a file unless the catalog names it, or cannot say."""
        with suppress(Exception):
            if not self._catalog.lookup.names_file(relative):
                self._spool.remove(relative)


def _skimmed(header: InstanceHeader) -> _Candidate:
    return _Candidate(Affected(str(header.sop_class_uid), header.sop_instance_uid), header)


def _as_promised(candidate: _Candidate, affected: Affected | None) -> _Candidate:
    """The candidate, if it is what a request promised; `Mismatched` if it is not."""
    if affected is not None and affected != candidate.identity:
        raise Mismatched("the data set's SOP Class or Instance UID is not the command's")
    return candidate


def _parsed(dataset: bytes | memoryview, transfer_syntax_uid: str) -> _Candidate:
    with quiet():
        parsed = parse(dataset, transfer_syntax_uid, _TAGS)
        identity = _identity(parsed)
        fault = _fault(parsed, _HIERARCHY)
        return _Candidate(identity, None if fault else header_of(parsed, transfer_syntax_uid), fault)


def _value(dataset: Dataset, tag: BaseTag) -> str:
    value: Any = dataset[tag].value if tag in dataset else None
    return "" if value is None else str(value)


def _identity(dataset: Dataset) -> Affected:
    """The SOP Class and Instance UID, without which nothing can be kept."""
    fault = _fault(dataset, _IDENTITY)
    if fault:
        raise Refused(fault)
    return Affected(_value(dataset, _SOP_CLASS_UID), _value(dataset, _SOP_INSTANCE_UID))


def _fault(dataset: Dataset, wanted: dict[BaseTag, str]) -> str:
    """What is wrong with some UIDs; empty if nothing is."""
    missing, invalid = [], []
    for tag, name in wanted.items():
        try:
            value = _value(dataset, tag)
        except Exception:  # a hostile value raises anything at all
            value = "?"
        if not value:
            missing.append(name)
        elif not _UID.fullmatch(value):
            invalid.append(name)
    return "; ".join(
        f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} {what}"
        for names, what in ((missing, "missing"), (invalid, "not 1 to 64 digits and dots"))
        if names
    )
