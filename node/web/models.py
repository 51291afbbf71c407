"""The answers of the HTTP API, as JSON; frozen, and the source of the OpenAPI document."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from config.model import Role
from indexer.answer import Completeness, Relation
from indexer.catalog.outbox import DeliveryState
from node.supervisor import WorkerState
from node.web.jobs import JobState

_UID = "1.2.826.0.1.3680043.8.498.1"
Uid = Annotated[str, Field(examples=[_UID])]
Similarity = Annotated[float, Field(ge=0, le=1, description="0.5 is unrelated, 1 the same images; not calibrated")]
ZRange = Annotated[
    tuple[float, float],
    Field(description="Along the patient's z axis, LPS mm, inferior end first", examples=[(-48, 48)]),
]


class Model(BaseModel):
    """Part of an answer: read from objects or mappings, never changed."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Slice(Model):
    """A single-frame instance, or one frame of a multi-frame instance."""

    sop_instance_uid: Annotated[
        str, Field(examples=[_UID], description="Empty for slices of an uploaded NIfTI volume")
    ]
    frame_number: Annotated[int | None, Field(description="From 1; null in a single-frame instance")]


LevelName = Annotated[
    str, Field(description="Estimated place along the body; empty where unknown", examples=["upper abdomen"])
]


class Match(Model):
    """Why and where: a chunk of the query and a chunk that was found, which look alike."""

    query_series_instance_uid: Uid
    query_slices: Annotated[tuple[Slice, ...], Field(description="Inferior to superior")]
    query_z_mm: ZRange
    found_slices: Annotated[tuple[Slice, ...], Field(description="Inferior to superior")]
    found_z_mm: ZRange
    similarity: Similarity
    query_level: LevelName = ""
    found_level: LevelName = ""


class FoundSeries(Model):
    """A found series."""

    series_instance_uid: Uid
    similarity: Similarity
    matches: Annotated[tuple[Match, ...], Field(description="Best first; empty with explain=false")]


class Hit(Model):
    """A found study."""

    study_instance_uid: Uid
    rank: Annotated[int, Field(ge=1)]
    similarity: Similarity
    relation: Annotated[
        Relation, Field(description="Another patient's, the same patient's, or nearly the same images")
    ]
    completeness: Annotated[
        Completeness, Field(description="PROVISIONAL: instances came in that its embeddings do not know yet")
    ]
    series: Annotated[tuple[FoundSeries, ...], Field(description="Best first")]


class SimilarAnswer(Model):
    """Related studies: other patients' best first, then the query patient's own, best first."""

    encoder_id: Annotated[str, Field(description="Whose embeddings were compared", examples=["tiny-0123456789ab"])]
    is_calibrated: Annotated[
        bool, Field(description="The archive is large enough to say what is usual: 0.5 is two unrelated studies")
    ]
    is_no_good_match: Annotated[bool, Field(description="No other patient's study is alike enough")]
    is_unusual: Annotated[bool, Field(description="The seed is unlike anything the archive holds")]
    hits: tuple[Hit, ...]
    next: Annotated[str | None, Field(description="Path and query of the next page; null on the last")] = None


class Level(Model):
    """The same level in two studies of a patient."""

    query_series_instance_uid: Uid
    query_slices: tuple[Slice, ...]
    query_z_mm: ZRange
    found_slices: tuple[Slice, ...]
    found_z_mm: ZRange
    similarity: Similarity


class PriorSeries(Model):
    """A series of a prior, and the series of the present study that it shows again."""

    series_instance_uid: Uid
    present_series_instance_uid: Uid
    similarity: Similarity
    levels: Annotated[tuple[Level, ...], Field(description="Inferior to superior")]


class PriorStudy(Model):
    """Another study of the patient."""

    study_instance_uid: Uid
    study_date: Annotated[str, Field(description="YYYYMMDD; empty where unknown", examples=["20240131"])]
    similarity: Similarity
    relation: Relation
    completeness: Completeness
    series: tuple[PriorSeries, ...]


class PriorsAnswer(Model):
    """A patient's other studies, newest first."""

    encoder_id: str
    priors: tuple[PriorStudy, ...]
    duplicates: tuple[PriorStudy, ...]


class Worker(Model):
    """The process that indexes."""

    state: WorkerState
    problem: Annotated[str, Field(description="What was wrong when it last ended")] = ""
    runs_on: Annotated[str, Field(description="Processor and arithmetic of the encoder, once it runs")] = ""


class Disk(Model):
    """Room where instances are stored."""

    free_mib: int
    reserve_mib: Annotated[int, Field(description="Below this, instances are refused and snapshots wait")]
    is_full: Annotated[bool, Field(description="Whether the reserve is used up")]


class Health(Model):
    """Whether every part of the node is ready; the rest only for who has a token."""

    ready: Annotated[bool, Field(description="DICOM face, catalog, index and worker are ready")]
    roles: Annotated[tuple[Role, ...] | None, Field(description="What this node does")] = None
    dicom: Annotated[bool | None, Field(description="Whether associations are accepted")] = None
    catalog: Annotated[bool | None, Field(description="Whether the catalog answers")] = None
    worker: Worker | None = None
    disk: Disk | None = None
    encoder_id: str | None = None
    index_size: Annotated[int | None, Field(description="Embeddings in the index")] = None
    outstanding_series: Annotated[int | None, Field(description="Series that are not indexed yet")] = None


class DeliveryProblem(Model):
    """A delivery that failed so far, or for good."""

    study_instance_uid: Uid
    rule: str
    target: str
    state: DeliveryState
    attempts: int
    note: str


class ParkedSeries(Model):
    """A series that waits for a person."""

    study_instance_uid: Uid
    series_instance_uid: Uid
    modality: str
    instances: int
    reason: str


class Quarantine(Model):
    """Instances that name no study or series."""

    reason: str
    instances: int


class PullProblem(Model):
    """A study of an Orthanc that could not be taken over so far, or only in part."""

    public_id: Annotated[str, Field(description="Orthanc's identifier of the study")]
    attempts: int
    note: str


class OrthancLink(Model):
    """An Orthanc that studies are taken over from, and how many."""

    waiting: int
    taken_over: int
    problems: tuple[PullProblem, ...]


class Status(Model):
    """What the node holds and what waits for a person."""

    encoder_id: str | None
    embeddings: int
    studies: int
    instances: int
    quarantined_instances: int
    conflicts: int
    series_by_state: Annotated[dict[str, int], Field(examples=[{"INDEXED": 12, "PARKED": 1}])]
    deliveries: dict[str, int]
    delivery_problems: tuple[DeliveryProblem, ...]
    parked: tuple[ParkedSeries, ...]
    quarantine: tuple[Quarantine, ...]
    orthanc: tuple[OrthancLink, ...]


class Removed(Model):
    """How much was removed."""

    studies: int
    series: int
    instances: int
    quarantined: int


class SentReport(Model):
    """A report that is being sent."""

    study_instance_uid: Uid
    series_instance_uid: Uid
    sop_instance_uid: Uid
    results: Annotated[int, Field(description="Studies that it names")]
    send: Annotated[tuple[str, ...], Field(description="AE titles", examples=[["PACS"]])]


class JobStatus(Model):
    """How a question stands that takes long."""

    id: Annotated[str, Field(examples=["0123456789abcdef0123456789abcdef"])]
    state: JobState
    stage: Annotated[str, Field(examples=["embedding"])]
    progress: Annotated[float, Field(ge=0, le=1)]
    answer: Annotated[SimilarAnswer | None, Field(description="Once it is DONE")]
    problem: Annotated[str | None, Field(description="Why it FAILED")]
