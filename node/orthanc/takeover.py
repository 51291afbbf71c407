"""Taking studies over from Orthanc: what is not here yet is fetched and stored as if it had been sent."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event

from config.model import Settings
from dicom_scp.part10 import split_file
from dicom_scp.reception import Receiver, Verdict
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.orthanc_studies import WaitingStudy
from indexer.errors import NotFound, Refused, Transient
from indexer.uids import SeriesInstanceUID
from node.orthanc import changes
from node.orthanc.client import OrthancClient, RemoteInstance

_LEASE_S = 15.0
"""Studies of a process that died are taken over by the next one so long after."""
_LOOK_S = 0.25
_MOST_FAILURES = 10
"""With so many the rest of a study is not tried: it is not the instances."""


@dataclass
class Tally:
    """What became of studies and of their instances.

    Attributes
    ----------
    verdicts : Counter of str
        Instances by `dicom_scp.reception.Verdict`; those that were here already are not fetched, and not counted.
    refused : Counter of str
        Instances that were not accepted, by reason.
    gone : set of str
        Instances, by Orthanc's identifier, that it did not have.
    failures : list of Transient
        What went wrong with instances; a few do not keep the others of their study from being fetched.
    """

    studies: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    gone: set[str] = field(default_factory=set)
    failures: list[Transient] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count what another one counted as well."""
        self.studies += other.studies
        self.verdicts.update(other.verdicts)
        self.refused.update(other.refused)


class Takeover:
    """Takes over one study after the other, several instances at the same time.

    Parameters
    ----------
    only_stable : bool
        Wait for studies that Orthanc still receives.
    stopping : Event
        Once set, a study is given back half-done; what was fetched stays.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        spool: Spool,
        client: OrthancClient,
        *,
        only_stable: bool,
        stopping: Event,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._studies = catalog.orthanc_studies
        self._spool = spool
        self._client = client
        self._receiver = Receiver(catalog, spool, settings.storage.on_conflict)
        self._limit_bytes = settings.dicom.max_object_mib << 20
        self._only_stable = only_stable
        self._stopping = stopping
        self._aet = ""
        self.being_taken: frozenset[SeriesInstanceUID] = frozenset()
        """Series that are just being fetched: they do not settle."""

    def work_one(self) -> Tally | None:
        """Take over the study that has waited longest; None if none is due.

        Raises
        ------
        Transient
            It cannot be taken over now; it was postponed, and what was fetched of it stays.
        """
        taken = self._studies.take(self._client.server, _LEASE_S)
        if taken is None:
            return None
        try:
            return self._work(taken)
        except NotFound:
            self._studies.gone(taken)
            return Tally()
        except (Refused, Transient) as error:
            settings = self._settings.orthanc
            pause_s = min(settings.first_retry_s * 2.0 ** min(taken.attempts, 64), settings.longest_retry_s)
            self._studies.postpone(taken, time.time() + pause_s, str(error))
            raise Transient(f"study {taken.public_id} of Orthanc: {error}") from error
        except BaseException:
            self._studies.keep(taken, 0.0)
            raise
        finally:
            self.being_taken = frozenset()

    def _work(self, taken: WaitingStudy) -> Tally:
        self._aet = self._aet or self._client.system().aet
        remote = self._client.study(taken.public_id)
        if self._only_stable and not remote.is_stable:
            self._studies.postpone(taken, time.time() + changes.STABLE_CHECK_S)
            return Tally()
        wanted = self._missing(self._client.instances_of(taken.public_id))
        if wanted:
            self.being_taken = frozenset(self._client.series_uids_of(taken.public_id))
        tally = self._fetch_all(taken, wanted)
        if self._stopping.is_set():
            self._studies.keep(taken, 0.0)
            return tally
        if tally.failures:
            raise tally.failures[0]
        if tally.gone:
            self._demand_deleted(taken, tally.gone)
        note = "; ".join(f"{number} refused: {reason}" for reason, number in tally.refused.items())
        last_update = remote.last_update if remote.is_stable else ""
        self._studies.done(taken, remote.study_instance_uid, last_update, note)
        tally.studies = 1
        return tally

    def _demand_deleted(self, taken: WaitingStudy, gone: set[str]) -> None:
        """Instances that could not be had were deleted meanwhile; else Orthanc has lost their files."""
        lost = gone.intersection(one.public_id for one in self._client.instances_of(taken.public_id))
        if lost:
            raise Transient(f"it lists {len(lost)} instances that it does not have")

    def _missing(self, listed: Sequence[RemoteInstance]) -> list[RemoteInstance]:
        """Which instances are not here; all of them where other content would take the place of what is here."""
        if self._settings.storage.on_conflict == "replace":
            return list(listed)
        held = self._catalog.commitments.held([one.sop_instance_uid for one in listed])
        return [
            one
            for one in listed
            if (known := held.get(one.sop_instance_uid)) is None
            or not (self._spool.holds(known.path) or self._catalog.holdings.is_released(one.sop_instance_uid))
        ]

    def _fetch_all(self, taken: WaitingStudy, wanted: Sequence[RemoteInstance]) -> Tally:
        tally, kept_at = Tally(), time.monotonic()
        with ThreadPoolExecutor(self._settings.orthanc.parallel, "orthanc") as pool:
            fetching = {pool.submit(self._fetch, one): one.public_id for one in wanted}
            waiting = set(fetching)
            try:
                while waiting and not self._stopping.is_set() and len(tally.failures) < _MOST_FAILURES:
                    done, waiting = wait(waiting, _LOOK_S, FIRST_COMPLETED)
                    for one in done:
                        _count(fetching[one], one, tally)
                    if time.monotonic() - kept_at > _LEASE_S / 3:
                        self._studies.keep(taken, _LEASE_S)
                        kept_at = time.monotonic()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return tally

    def _fetch(self, instance: RemoteInstance) -> Verdict:
        """Fetch and store one instance."""
        if instance.size_bytes > self._limit_bytes:
            raise Refused(f"larger than dicom.max_object_mib allows ({self._limit_bytes >> 20} MiB)")
        syntax, dataset = split_file(self._client.file_of(instance.public_id, self._limit_bytes))
        return self._receiver.receive(dataset, syntax, source_ae_title=self._aet).verdict


def _count(public_id: str, fetched: Future[Verdict], tally: Tally) -> None:
    try:
        tally.verdicts[fetched.result().value] += 1
    except NotFound:
        tally.gone.add(public_id)
    except Transient as error:
        tally.failures.append(error)
    except Refused as error:
        tally.refused[str(error)] += 1
