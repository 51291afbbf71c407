"""What pages show of a study, whichever page it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.catalog.browse import ListedSeries, ListedStudy
from indexer.catalog.states import SeriesState
from indexer.uids import SliceRef
from node.web.pages import words

_ON_THE_WAY = (SeriesState.RECEIVING, SeriesState.SETTLED, SeriesState.INDEXING)
_HEADS = ("HEAD", "BRAIN", "SKULL")
_BRAIN_WINDOW, _SOFT_TISSUE_WINDOW = (40, 80), (40, 400)


@dataclass(frozen=True)
class ViewerLink:
    """A link that opens a study in a viewer."""

    name: str
    url: str


@dataclass(frozen=True)
class SeriesLine:
    """A series in a few words."""

    uid: str
    number: str
    modality: str
    description: str
    body_part: str
    instances: int
    state: SeriesState
    reason: str

    @property
    def label(self) -> str:
        """Number, description and size in one line."""
        named = " ".join(filter(None, (self.number, self.description or self.body_part or self.modality)))
        return f"{named} · {self.instances} images"


@dataclass(frozen=True)
class StudyLine:
    """A study in a few words."""

    uid: str
    patient_pk: int
    patient: str
    patient_id: str
    sex: str
    age: str
    birth_date: str
    date: str
    time: str
    description: str
    accession: str
    modalities: str
    body_parts: str
    instances: int
    state: str
    state_kind: str
    series: tuple[SeriesLine, ...]
    viewers: tuple[ViewerLink, ...]


def study_line(study: ListedStudy, viewer_urls: Sequence[str] = ()) -> StudyLine:
    """Put a study in words."""
    attributes = study.attributes
    series = tuple(_series_line(one) for one in study.series)
    state, kind = _state(study)
    return StudyLine(
        uid=study.study_instance_uid,
        patient_pk=study.patient_pk,
        patient=words.person(attributes),
        patient_id=words.value(attributes, "PatientID"),
        sex=words.sex(words.value(attributes, "PatientSex")),
        age=words.age(words.value(attributes, "PatientAge")),
        birth_date=words.value(attributes, "PatientBirthDate"),
        date=words.value(attributes, "StudyDate"),
        time=words.clock(words.value(attributes, "StudyTime")),
        description=words.value(attributes, "StudyDescription"),
        accession=words.value(attributes, "AccessionNumber"),
        modalities=", ".join(dict.fromkeys(one.modality for one in series if one.modality)),
        body_parts=", ".join(dict.fromkeys(one.body_part for one in series if one.body_part)),
        instances=study.instances,
        state=state,
        state_kind=kind,
        series=series,
        viewers=tuple(_viewer_link(one, study) for one in viewer_urls),
    )


def _series_line(one: ListedSeries) -> SeriesLine:
    return SeriesLine(
        uid=one.series_instance_uid,
        number=words.value(one.attributes, "SeriesNumber"),
        modality=one.modality,
        description=words.value(one.attributes, "SeriesDescription"),
        body_part=words.value(one.attributes, "BodyPartExamined").capitalize(),
        instances=one.instances,
        state=one.state,
        reason=one.reason,
    )


def _state(study: ListedStudy) -> tuple[str, str]:
    """Where the study as a whole stands, and what kind of news that is."""
    states = study.states
    if waiting := sum(states.get(state, 0) for state in _ON_THE_WAY):
        return ("being indexed" if waiting == 1 else f"{waiting} series on the way"), "wait"
    if parked := states.get(SeriesState.PARKED, 0):
        return ("parked" if len(study.series) == parked else f"{parked} series parked"), "warn"
    if states.get(SeriesState.INDEXED, 0):
        return "indexed", "good"
    return "stored", "plain"


def _viewer_link(setting: str, study: ListedStudy) -> ViewerLink:
    name, _, url = setting.partition("=")
    filled = {
        "{study}": study.study_instance_uid,
        "{accession}": words.value(study.attributes, "AccessionNumber"),
    }
    for field, text in filled.items():
        url = url.replace(field, words.segment(text))
    return ViewerLink(name.strip(), url)


def window_for(modality: str, body_part: str) -> tuple[int, int] | None:
    """Center and width in which CT of a part of the body is usually looked at; None: whatever the images say."""
    if modality != "CT":
        return None
    is_head = any(name in body_part.upper() for name in _HEADS)
    return _BRAIN_WINDOW if is_head else _SOFT_TISSUE_WINDOW


def picture_url(
    study_uid: str, series_uid: str, ref: SliceRef, window: tuple[int, int] | None, side: int = 384
) -> str:
    """Address of a slice as a picture (PS3.18 8.3.5)."""
    path = f"/studies/{words.segment(study_uid)}/series/{words.segment(series_uid)}"
    path += f"/instances/{words.segment(ref.sop_instance_uid)}"
    if ref.frame_number is not None:
        path += f"/frames/{ref.frame_number}"
    shown = f"&window={window[0]},{window[1]},linear" if window else ""
    return f"{path}/rendered?viewport={side},{side}{shown}"
