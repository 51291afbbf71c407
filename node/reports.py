"""Making evidence reports: ask, write the answer down as a document of the study, and keep it there.

The node keeps every report that it makes, in the study that was asked about: what is sent, sent again or written to
a file is that one instance. The same question with the same answer over the same archive is the same report, under
the same SOP Instance UID.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from io import BytesIO

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from config.model import Settings
from dicom_scp.evidence import (
    Device,
    DocumentIdentity,
    Query,
    QueryImage,
    ReferenceDatabase,
    evidence_report,
    named_query_images,
)
from dicom_scp.filing import file_at_peer
from dicom_scp.inheritance import inherited, inherited_from_catalog
from dicom_scp.part10 import split_file
from dicom_scp.reception import Receiver, Verdict
from dicom_scp.spool import Spool
from indexer.answer import Answer, Finder, Seed
from indexer.attributes import first_value
from indexer.catalog import Catalog, SeriesState
from indexer.catalog.engine import blocks
from indexer.catalog.lookup import Entity, Level, Prefilter, SeriesInfo
from indexer.errors import Damaged, NotFound, Refused
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from node.orthanc.filing import file_at_orthanc

SOP_CLASS_UID = Comprehensive3DSRStorage
_OF_REPORTS = uuid.UUID("0b8f4b0c-4dbf-4f1c-9c39-5b8f6b1f3f62")
"""Name space of the UIDs of reports and their series (PS3.5 B.2, RFC 9562 section 5.5)."""


@dataclass(frozen=True)
class Report:
    """A report that the node keeps."""

    study_instance_uid: StudyInstanceUID
    series_instance_uid: SeriesInstanceUID
    sop_instance_uid: SOPInstanceUID
    results: int


class Reports:
    """Makes and sends reports; safe to use from several threads.

    Parameters
    ----------
    finder : Finder
        Who answers.
    """

    def __init__(self, settings: Settings, catalog: Catalog, spool: Spool, finder: Finder) -> None:
        self._settings = settings
        self._catalog = catalog
        self._spool = spool
        self._finder = finder
        self._receiver = Receiver(catalog, spool, "keep-first")

    def make(self, seed: Seed, limit: int) -> Report:
        """Ask for at most so many similar studies, and keep the answer as a document of the seed's study.

        Raises
        ------
        NotFound, Parked, Transient
            As `indexer.answer.Finder.similar`.
        Refused
            The study cannot hold a report.
        """
        query_series = self._query_series(seed)
        answer = self._finder.similar(seed, limit=limit)
        database = self._database(answer)
        device = self._device()
        report = _report_of(seed, query_series[0].study_instance_uid, answer, database, device)
        if self._catalog.lookup.instance_path(report.sop_instance_uid) is None:
            self._keep(self._written(seed, query_series, answer, database, device, report))
        return report

    def file(self, sop_instance_uid: SOPInstanceUID) -> tuple[str, bytes]:
        """Transfer Syntax UID and data set of a report that the node keeps.

        Raises
        ------
        NotFound
            It is no longer kept.
        Damaged
            Its file is not what was written.
        """
        path = self._catalog.lookup.instance_path(sop_instance_uid)
        if path is None:
            raise NotFound(f"no report {sop_instance_uid} in the catalog")
        return self._spool.read(path)

    def part10(self, sop_instance_uid: SOPInstanceUID) -> bytes:
        """A report as a DICOM file (PS3.10 section 7); raises as `file`."""
        self.file(sop_instance_uid)
        path = self._catalog.lookup.instance_path(sop_instance_uid)
        return self._spool.file(str(path)).read_bytes()

    def can_send_to(self, aet: str) -> bool:
        """Whether a peer has the AE title, or the Orthanc beside the node has that name."""
        return self._settings.can_file_to(aet)

    def send(self, sop_instance_uid: SOPInstanceUID, aet: str) -> None:
        """Send a report to a peer, or to the Orthanc over its REST API; when this returns, it is stored there.

        Raises
        ------
        Transient, Refused
            As `dicom_scp.filing.file_at_peer`; `Refused` too where no peer has that AE title.
        NotFound, Damaged
            As `file`.
        """
        if self._settings.files_to_orthanc(aet):
            file_at_orthanc(self._settings.orthanc, self.part10(sop_instance_uid))
            return
        peer = self._settings.peer(aet)
        if peer is None:
            raise Refused(f"no peer has the AE title {aet}")
        _, dataset = self.file(sop_instance_uid)
        file_at_peer(self._settings.dicom, peer, SOP_CLASS_UID, sop_instance_uid, dataset)

    def _query_series(self, seed: Seed) -> Sequence[SeriesInfo]:
        """The indexed series that the seed names, of one study."""
        lookup = self._catalog.lookup
        if seed.sop_instance_uids:
            found = lookup.series_of_instances(seed.sop_instance_uids)
        elif seed.series_instance_uid is not None:
            one = lookup.series_by_uid(seed.series_instance_uid)
            found = [one] if one else []
        else:
            found = lookup.series_of_study(str(seed.study_instance_uid or ""))
        if not found:
            raise NotFound("the seed is not in the catalog")
        indexed = [one for one in found if one.state is not SeriesState.STORED]
        return [one for one in indexed or found if one.study_pk == found[0].study_pk]

    def _database(self, answer: Answer) -> ReferenceDatabase:
        counts = self._catalog.progress.counts()
        return ReferenceDatabase(
            studies=counts.studies,
            series=counts.series_by_state.get(SeriesState.INDEXED, 0),
            embeddings=self._catalog.embeddings.count(answer.encoder_id),
            at=datetime.now().astimezone(),
        )

    def _device(self) -> Device:
        return Device(self._catalog.outbox.device_uid(), self._settings.dicom.aet, version("pacsimile"))

    def _written(
        self,
        seed: Seed,
        query_series: Sequence[SeriesInfo],
        answer: Answer,
        database: ReferenceDatabase,
        device: Device,
        report: Report,
    ) -> Dataset:
        source = self._an_image(query_series[0].series_instance_uid)
        images = self._images(named_query_images(answer, seed)) or [source]
        query = Query(
            study_instance_uid=report.study_instance_uid,
            seed=seed,
            series=tuple(one.series_instance_uid for one in query_series),
            images={one.sop_instance_uid: one for one in map(_query_image, images)},
            frame_of_reference_uid=first_value(source.attributes, "FrameOfReferenceUID"),
        )
        identity = DocumentIdentity(
            report.series_instance_uid, report.sop_instance_uid, self._next_number(report.series_instance_uid)
        )
        return evidence_report(self._patient_and_study(source), query, answer, database, device, identity)

    def _an_image(self, series_instance_uid: SeriesInstanceUID) -> Entity:
        found = self._catalog.lookup.entities(Level.IMAGE, Prefilter(series_instance_uid=[series_instance_uid]))
        one = next(iter(found), None)
        if one is None:
            raise NotFound("the study's images are not in the catalog")
        return one

    def _images(self, uids: Sequence[SOPInstanceUID]) -> list[Entity]:
        lookup = self._catalog.lookup
        return [
            entity
            for block in blocks(uids)
            for entity in lookup.entities(Level.IMAGE, Prefilter(sop_instance_uid=block))
        ]

    def _patient_and_study(self, source: Entity) -> Dataset:
        """From the stored instance; from the catalog where only the archive still has it."""
        path = self._catalog.lookup.instance_path(first_value(source.attributes, "SOPInstanceUID"))
        try:
            syntax, dataset = self._spool.read(str(path))
        except Damaged:
            return inherited_from_catalog(source.attributes)
        return inherited(dataset, syntax)

    def _next_number(self, series_instance_uid: SeriesInstanceUID) -> int:
        info = self._catalog.lookup.series_by_uid(series_instance_uid)
        if info is None:
            return 1
        return self._catalog.lookup.summaries(Level.SERIES, [info.series_pk])[info.series_pk].instances + 1

    def _keep(self, report: Dataset) -> None:
        buffer = BytesIO()
        report.save_as(buffer, enforce_file_format=True)
        syntax, dataset = split_file(buffer.getvalue())
        reception = self._receiver.receive(dataset, syntax, source_ae_title=self._settings.dicom.aet)
        if reception.verdict is Verdict.QUARANTINED:
            raise Refused(f"the report was not taken into its study: {reception.reason}")


def _query_image(entity: Entity) -> QueryImage:
    values = entity.attributes
    return QueryImage(
        first_value(values, "SOPClassUID"),
        SOPInstanceUID(first_value(values, "SOPInstanceUID")),
        SeriesInstanceUID(first_value(values, "SeriesInstanceUID")),
    )


def _report_of(
    seed: Seed, study_uid: StudyInstanceUID, answer: Answer, database: ReferenceDatabase, device: Device
) -> Report:
    """Name a report by what it says, its time of day excepted; reports of one version on a study share a series."""
    counts = asdict(replace(database, at=datetime.min))
    said = json.dumps([asdict(seed), asdict(answer), counts, asdict(device)], default=str, sort_keys=True)
    digest = hashlib.sha256(said.encode()).hexdigest()
    return Report(
        study_uid,
        SeriesInstanceUID(_uid_of(device.uid, device.version, study_uid)),
        SOPInstanceUID(_uid_of(device.uid, study_uid, digest)),
        len(answer.hits),
    )


def _uid_of(*parts: str) -> str:
    return f"2.25.{uuid.uuid5(_OF_REPORTS, '/'.join(parts)).int}"
