"""Two studies side by side at matched slices."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from indexer.comparison import Comparison, Comparisons
from indexer.errors import NotFound, Refused
from indexer.hanging import HungSeries
from node.web.context import Context, WebContext
from node.web.pages import words
from node.web.pages.html import PageRoute, html
from node.web.pages.lines import SeriesLine, StudyLine, study_line, window_for

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_Uid = Annotated[str, Query(pattern=r"^[0-9.]{1,64}$")]


@dataclass(frozen=True)
class Preset:
    """A window by name: for CT in HU; else as shifts and shares of the window that the images ask for."""

    name: str
    center: float
    width: float


CT_PRESETS = (
    Preset("Soft tissue", 40, 400),
    Preset("Lung", -600, 1500),
    Preset("Bone", 400, 1800),
    Preset("Brain", 40, 80),
    Preset("Liver", 70, 170),
)
RELATIVE_PRESETS = (
    Preset("Standard", 0, 1),
    Preset("High contrast", 0, 0.6),
    Preset("Low contrast", 0, 1.6),
    Preset("Brighter", -0.25, 1),
    Preset("Darker", 0.25, 1),
)


@dataclass(frozen=True)
class Side:
    """One of the two sides as it is shown."""

    study: StudyLine
    series: SeriesLine
    plane: str
    choices: tuple[SeriesLine, ...]


@router.get("/ui/compare")
def compare(
    context: Context,
    a: _Uid | None = None,
    b: _Uid | None = None,
    pick: Annotated[list[_Uid] | None, Query()] = None,
) -> Response:
    """Show two studies or series, by UID: `a` and `b`, or two that were picked."""
    chosen = [uid for uid in (a, b, *(pick or ())) if uid is not None]
    if len(chosen) != 2:
        raise Refused(f"Choose two studies to compare; {len(chosen)} were chosen.")
    comparisons = Comparisons(context.catalog, context.spool.files, context.search.scales, context.view.cohort)
    comparison = comparisons.of(chosen[0], chosen[1])
    sides = (_side(context, comparison.left), _side(context, comparison.right))
    is_ct = all(side.series.modality == "CT" for side in sides)
    presets = CT_PRESETS if is_ct else RELATIVE_PRESETS
    data = _data(comparison, sides, presets, is_ct=is_ct)
    values = {
        "sides": sides,
        "similarity": comparison.similarity,
        "apart": words.apart(sides[1].study.date, sides[0].study.date),
        "is_same_patient": sides[0].study.patient_pk == sides[1].study.patient_pk,
        "presets": presets,
        "first_values": [side["slices"][side["start"]][0] for side in data["sides"]],
    }
    return html("compare.html", data=data, **values)


def _side(context: WebContext, hung: HungSeries) -> Side:
    uid = hung.info.study_instance_uid
    listed = context.view.browse.by_uid([uid]).get(uid)
    if listed is None:
        raise NotFound("The study has been forgotten.")
    study = study_line(listed, context.settings.http.viewer_urls)
    series = next(one for one in study.series if one.uid == hung.info.series_instance_uid)
    choices = tuple(one for one in study.series if one.modality in ("CT", "MR"))
    return Side(study, series, str(hung.plane), choices)


def _data(
    comparison: Comparison, sides: tuple[Side, Side], presets: tuple[Preset, ...], *, is_ct: bool
) -> dict[str, Any]:
    """What the page's script works with."""
    best = comparison.levels[0] if comparison.levels else None
    centres = (sum(best.left_mm) / 2, sum(best.right_mm) / 2) if best else (None, None)
    window = window_for("CT", sides[0].series.body_part) if is_ct else None
    hung = (comparison.left, comparison.right)
    return {
        "sides": [_side_data(one, centre) for one, centre in zip(hung, centres, strict=True)],
        "anchors": [[anchor.left_mm, anchor.right_mm] for anchor in comparison.anchors],
        "levels": [asdict(level) for level in comparison.levels],
        "presets": [asdict(preset) for preset in presets],
        "isRelative": not is_ct,
        "window": window,
    }


def _side_data(hung: HungSeries, centre_mm: float | None) -> dict[str, Any]:
    path = f"/ui/values/{words.segment(hung.info.study_instance_uid)}/"
    path += f"{words.segment(hung.info.series_instance_uid)}/"
    slices = []
    for one in hung.slices:
        frame = "" if one.ref.frame_number is None else f"?frame={one.ref.frame_number}"
        slices.append([path + words.segment(one.ref.sop_instance_uid) + frame, one.at_mm])
    start = len(slices) // 2
    if centre_mm is not None:
        start = min(range(len(slices)), key=lambda k: abs(hung.slices[k].at_mm - centre_mm))
    return {"slices": slices, "start": start, "towards": hung.towards}
