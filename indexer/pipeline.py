"""One series at a time from stored instances to embeddings in the catalog."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from indexer.catalog import Catalog, SeriesState
from indexer.catalog.embeddings import EmbeddedChunk
from indexer.catalog.progress import LeasedSeries
from indexer.encoder import Encoder
from indexer.errors import Damaged, Parked, Transient
from indexer.reading import ReadAhead, SeriesVolumes
from indexer.sealing import InstanceFolder, StoredPath
from indexer.uids import SeriesInstanceUID

log = logging.getLogger(__name__)

_PAUSE_S = 60.0
"""A series that cannot be read for now lets the others pass for so long."""


@dataclass(frozen=True)
class Outcome:
    """What became of one series."""

    series_instance_uid: SeriesInstanceUID
    state: SeriesState
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """A whole series embedded: its chunks, seconds by stage, and what was noticed."""

    chunks: Sequence[EmbeddedChunk]
    seconds: dict[str, float]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Failure:
    """Why a series has no embeddings; trying again may help where the reason is not understood."""

    reason: str
    understood: bool


def embed_series(paths: Sequence[StoredPath], encoder: Encoder) -> Embedded:
    """Read, assemble and embed one series.

    A volume of several that cannot be used is left out, with a note.

    Raises
    ------
    Parked
        Nothing of the series can be embedded; the message says why.
    """
    return _embed_volumes(SeriesVolumes(paths), encoder)


def _embed_volumes(volumes: SeriesVolumes, encoder: Encoder) -> Embedded:
    notes, seconds = list(volumes.notes), volumes.seconds
    chunks: list[EmbeddedChunk] = []
    failures: list[str] = []
    for ordinal, volume in enumerate(volumes):
        if isinstance(volume, Parked):
            failures.append(str(volume))
            continue
        try:
            encoded = encoder.encode(volume, ordinal)
        except Parked as error:
            failures.append(str(error))
            continue
        notes += volume.notes
        chunks += encoded.chunks
        for stage, took in encoded.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + took
    if not chunks:
        raise Parked("; ".join(dict.fromkeys(failures)) or "the series holds no volume")
    notes += [f"a volume was left out: {failure}" for failure in failures]
    return Embedded(chunks, seconds, list(dict.fromkeys(notes)))


class Pipeline:
    """Works on the series that the catalog leases.

    Parameters
    ----------
    spool : InstanceFolder
        Folder of the stored instances.
    owner : str
        Name of this worker in leases.
    lease_s : float
        A series not finished by then may be taken by another worker.
    max_attempts : int
        Tries of a series whose failure is not understood, before it is parked.
    read_ahead : bool
        Whether the next series is leased and read while one is embedded. Only series that were never tried are
        worked on so: one that ends the process costs the other one attempt, and each is then tried alone.
    """

    def __init__(
        self,
        catalog: Catalog,
        encoder: Encoder,
        spool: InstanceFolder,
        owner: str,
        *,
        lease_s: float,
        max_attempts: int,
        read_ahead: bool = False,
    ) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._spool = spool
        self._owner = owner
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._complete_at = -1
        self._reads_ahead = read_ahead and max_attempts > 1
        self._ahead = ReadAhead(self._read)

    def work_one(self) -> Outcome | None:
        """Index the series that has waited longest; None if none waits.

        Raises
        ------
        Transient
            The catalog cannot be reached; a series that was leased is tried again when its lease has run out.
        """
        leased, reading = self._ahead.take() or (self._catalog.progress.lease(self._owner, self._lease_s), None)
        if leased is None:
            return None
        if self._reads_ahead and leased.attempts == 1:
            self._read_next()
        outcome = self._index(leased, reading)
        log.info("series %s: %s %s", outcome.series_instance_uid, outcome.state, outcome.reason)
        return outcome

    def close(self) -> None:
        """Give back the series that was read ahead, if there is one."""
        waiting = self._ahead.close()
        try:
            if waiting is not None:
                self._give_back(waiting, "", blame=False)
        except Transient as error:
            log.warning("a series that was read ahead waits for its lease to run out: %s", error)

    def _read_next(self) -> None:
        try:  # the one at work may take all of its lease before the turn of this one comes
            following = self._catalog.progress.lease(self._owner, 2 * self._lease_s, untried=True)
        except Transient as error:
            log.warning("nothing is read ahead: %s", error)
            return
        if following is not None:
            self._ahead.begin(following)

    def embed_again(self) -> Outcome | None:
        """Embed one indexed series that this encoder has not seen, while another encoder answers; others do others.

        A series that cannot be embedded is noted as seen, with the reason, so that it stops no other one. None if
        there is none left: then this encoder answers from now on.

        Raises
        ------
        Transient
            The catalog or a file cannot be reached for now.
        """
        encoder_id = self._encoder.encoder_id
        position = self._catalog.journal.last()
        unchanged = position == self._complete_at  # asked when idle: going through every series would be dear
        progress = self._catalog.progress
        series = None if unchanged else progress.lease_again(self._owner, self._lease_s, encoder_id)
        if series is None:
            if unchanged or not progress.not_yet_by(encoder_id, 1):  # else others are at work on the last
                self._complete_at = position
                self._activate_if_complete()
            return None
        try:
            return self._embed_by_this_encoder(series)
        finally:
            progress.let_go(series, self._owner)

    def _activate_if_complete(self) -> None:
        encoder_id, embeddings = self._encoder.encoder_id, self._catalog.embeddings
        if embeddings.active_encoder() != encoder_id and embeddings.activate_if_complete(encoder_id):
            log.info("encoder %s answers from now on", encoder_id)

    def _embed_by_this_encoder(self, series: LeasedSeries) -> Outcome:
        done, reason = self._embed(series), ""
        if isinstance(done, _Failure):
            reason = f"not embedded by this encoder: {done.reason}"
            done = Embedded((), {}, [reason])
        self._catalog.embeddings.finish(
            series, None, self._encoder.encoder_id, done.chunks, seconds=done.seconds, notes=done.notes
        )
        return Outcome(series.series_instance_uid, SeriesState.INDEXED, reason, done.seconds)

    def _index(self, leased: LeasedSeries, reading: Future[SeriesVolumes] | None) -> Outcome:
        if leased.attempts > self._max_attempts:  # whoever leased it before never came back to say why
            return self._park(leased, f"its worker was lost while indexing it, {self._max_attempts} times")
        try:
            done = self._embed(leased, reading)
        except Transient as error:
            return self._give_back(leased, str(error), blame=False, pause_s=_PAUSE_S)
        if isinstance(done, _Failure):
            if done.understood:
                return self._park(leased, done.reason)
            if leased.attempts >= self._max_attempts:
                return self._park(leased, f"{done.reason}, {leased.attempts} times")
            return self._give_back(leased, done.reason, blame=True)
        start = time.perf_counter()
        self._catalog.embeddings.finish(
            leased, self._owner, self._encoder.encoder_id, done.chunks, seconds=done.seconds, notes=done.notes
        )
        seconds = {**done.seconds, "index": time.perf_counter() - start}
        return Outcome(leased.series_instance_uid, SeriesState.INDEXED, seconds=seconds)

    def _embed(self, series: LeasedSeries, reading: Future[SeriesVolumes] | None = None) -> Embedded | _Failure:
        """Embed a series, read or not; whatever is wrong with it never stops the others.

        Raises
        ------
        Transient
            A file cannot be reached for now.
        """
        try:
            return self._with_all_memory(series, reading)
        except Transient:
            raise
        except Parked as error:
            return _Failure(str(error), understood=True)
        except MemoryError:
            reason = "it needs more memory than the worker may use (indexing.memory_limit_mib)"
            return _Failure(reason, understood=True)
        except Exception as error:
            log.exception("series %s", series.series_instance_uid)
            reason = f"unexpected {type(error).__name__} while indexing it; see the log"
            return _Failure(reason, understood=False)

    def _with_all_memory(self, series: LeasedSeries, reading: Future[SeriesVolumes] | None) -> Embedded:
        """Embed a series; where two are too much at once, that one alone."""
        try:
            return _embed_volumes(reading.result() if reading else self._read(series), self._encoder)
        except MemoryError:
            if reading is None and not self._ahead.is_busy:
                raise
        self._ahead.let_go()
        return _embed_volumes(self._read(series), self._encoder)

    def _read(self, series: LeasedSeries) -> SeriesVolumes:
        return SeriesVolumes(self._files(series))

    def _files(self, series: LeasedSeries) -> list[StoredPath]:
        """The files of a series, all there: part of a series must not pass for the whole."""
        if not self._spool.is_dir():
            raise Transient("the spool folder is not there")
        if given_up := self._catalog.holdings.released_instances(series.series_pk):
            raise Parked(f"{given_up} of its files were given up (storage.keep): its archive has them")
        try:
            files: list[StoredPath] = [self._spool / path for path in series.paths]
        except Damaged as error:
            raise Parked(f"one of its {len(series.paths)} files is damaged: {error}") from error
        missing = sum(not file.exists() for file in files)
        if missing:
            raise Parked(f"{missing} of its {len(files)} files are missing from the spool")
        return files

    def _give_back(self, leased: LeasedSeries, reason: str, *, blame: bool, pause_s: float = 0.0) -> Outcome:
        self._catalog.progress.give_back(leased, self._owner, reason, blame=blame, pause_s=pause_s)
        return Outcome(leased.series_instance_uid, SeriesState.SETTLED, reason)

    def _park(self, leased: LeasedSeries, reason: str) -> Outcome:
        self._catalog.progress.park(leased, self._owner, reason)
        return Outcome(leased.series_instance_uid, SeriesState.PARKED, reason)
