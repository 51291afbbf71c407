"""A study's page: its series, the studies that look like it, and the patient's other ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from indexer.answer import Answer, ChunkMatch, Completeness, Relation, Seed, StudyHit
from indexer.errors import NotFound, Parked, Transient
from indexer.priors import PriorAnswer
from indexer.uids import EncoderId, SliceRef, StudyInstanceUID
from node.web.context import Context, StudyUid, WebContext
from node.web.pages import words
from node.web.pages.html import PageRoute, html, is_fragment
from node.web.pages.lines import StudyLine, picture_url, study_line, window_for
from node.web.pages.numbering import numbers_of, span

_FEW, _MOST = 12, 120
_PRIORS = 50
_LEVELS_SHOWN = 5
router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class MatchedSlices:
    """A matched level in words: which slices here, which there, and where along the body, if that is known."""

    here: str
    there: str
    level: str
    similarity: float


@dataclass(frozen=True)
class Hit:
    """A found study as it is shown.

    Attributes
    ----------
    rank : int
        Among its kind, from 1.
    levels : tuple of MatchedSlices
        Why, best first.
    matched : int
        How many levels match in all.
    """

    rank: int
    study: StudyLine
    similarity: float
    is_provisional: bool
    series_uid: str
    query_series_uid: str
    query_picture: str
    picture: str
    levels: tuple[MatchedSlices, ...]
    matched: int
    apart: str


@dataclass(frozen=True)
class _Found:
    """A study and the best of its series, before it is put in words."""

    study_uid: str
    similarity: float
    completeness: Completeness
    query_series_uid: str
    series_uid: str
    matches: Sequence[ChunkMatch]


@router.get("/ui/studies/{study_uid}")
def study_page(
    request: Request,
    context: Context,
    study_uid: StudyUid,
    limit: Annotated[int, Query(ge=1, le=_MOST)] = _FEW,
) -> Response:
    """Show a study and what it is like; only the latter for htmx."""
    seed = _study(context, study_uid)
    values: dict[str, object] = {
        "study": seed,
        "limit": limit,
        "next_limit": 0,
        "hits": (),
        "priors": (),
        "copies": (),
    }
    values |= {"waiting": "", "problem": "", "is_unusual": False}
    try:
        values |= _related(context, seed, limit)
    except Transient as error:
        values["waiting"] = str(error)
    except Parked as error:
        values["problem"] = str(error)
    return html("related.html" if is_fragment(request) else "study.html", **values)


def _study(context: WebContext, uid: str) -> StudyLine:
    found = context.view.browse.by_uid([uid]).get(uid)
    if found is None:
        raise NotFound("No such study is held here.")
    return study_line(found, context.settings.http.viewer_urls)


def _related(context: WebContext, seed: StudyLine, limit: int) -> dict[str, object]:
    """Analogues, copies among other patients, and the patient's own studies."""
    uid = StudyInstanceUID(seed.uid)
    answer = context.search.similar(Seed(study_instance_uid=uid), limit=limit + 1)
    analogues = [_of_hit(hit) for hit in answer.hits if hit.relation is Relation.ANALOGUE]
    own = context.priors.of_study(uid, _PRIORS)
    others = _copies(answer, own)
    similarities = {hit.study_instance_uid: hit.similarity for hit in answer.hits}
    hits = _shown(context, seed, analogues[:limit], answer.encoder_id)
    return {
        "hits": hits,
        "priors": _shown(context, seed, _of_priors(own, similarities), answer.encoder_id),
        "is_unusual": answer.is_unusual,
        "copies": _shown(context, seed, others, answer.encoder_id),
        "next_limit": min(2 * limit, _MOST) if len(analogues) > limit and limit < _MOST else 0,
    }


def _of_hit(hit: StudyHit) -> _Found:
    best = hit.series[0]
    query_series = best.matches[0].query_series_instance_uid if best.matches else ""
    return _Found(
        hit.study_instance_uid,
        hit.similarity,
        hit.completeness,
        query_series,
        best.series_instance_uid,
        best.matches,
    )


def _of_priors(answer: PriorAnswer, similarities: Mapping[StudyInstanceUID, float]) -> list[_Found]:
    """Newest first; similarities as in the list of others where it knows them."""
    studies = sorted((*answer.priors, *answer.duplicates), key=lambda one: one.study_date, reverse=True)
    found = []
    for study in studies:
        best = study.series[0]
        levels = sorted(best.levels, key=lambda level: -level.similarity)
        uids = (best.present_series_instance_uid, best.series_instance_uid)
        similarity = similarities.get(study.study_instance_uid, study.similarity)
        found.append(_Found(study.study_instance_uid, similarity, study.completeness, *uids, levels))
    return found


def _copies(answer: Answer, own: PriorAnswer) -> list[_Found]:
    """Studies of other patients that show nearly the same images."""
    of_patient = {one.study_instance_uid for one in (*own.priors, *own.duplicates)}
    return [
        _of_hit(hit)
        for hit in answer.hits
        if hit.relation is Relation.DUPLICATE and hit.study_instance_uid not in of_patient
    ]


def _shown(context: WebContext, seed: StudyLine, found: Sequence[_Found], encoder_id: EncoderId) -> tuple[Hit, ...]:
    studies = context.view.browse.by_uid([one.study_uid for one in found])
    series_uids = {uid for one in found for uid in (one.query_series_uid, one.series_uid)}
    infos = [info for uid in series_uids if (info := context.view.lookup.series_by_uid(uid)) is not None]
    pks = [info.series_pk for info in infos]
    numbers = numbers_of(context.catalog.embeddings.chunks(pks, encoder_id))
    shown: list[Hit] = []
    for one in found:
        if one.study_uid not in studies or not one.matches:  # forgotten or replaced meanwhile
            continue
        study = study_line(studies[one.study_uid], context.settings.http.viewer_urls)
        shown.append(_hit(len(shown) + 1, seed, study, one, numbers))
    return tuple(shown)


def _hit(rank: int, seed: StudyLine, study: StudyLine, found: _Found, numbers: Mapping[SliceRef, int]) -> Hit:
    best = found.matches[0]
    series = next((one for one in study.series if one.uid == found.series_uid), study.series[0])
    window = window_for(series.modality, series.body_part)
    pictures = (
        picture_url(seed.uid, found.query_series_uid, _middle(best.query_slices), window),
        picture_url(study.uid, found.series_uid, _middle(best.found_slices), window),
    )
    return Hit(
        rank=rank,
        study=study,
        similarity=found.similarity,
        is_provisional=found.completeness is Completeness.PROVISIONAL,
        series_uid=found.series_uid,
        query_series_uid=found.query_series_uid,
        query_picture=pictures[0],
        picture=pictures[1],
        levels=tuple(_level(match, numbers) for match in found.matches[:_LEVELS_SHOWN]),
        matched=len(found.matches),
        apart=words.apart(study.date, seed.date),
    )


def _level(match: ChunkMatch, numbers: Mapping[SliceRef, int]) -> MatchedSlices:
    here, there = span(match.query_slices, numbers), span(match.found_slices, numbers)
    return MatchedSlices(here, there, words.level(match.query_level, match.found_level), match.similarity)


def _middle(slices: Sequence[SliceRef]) -> SliceRef:
    return slices[len(slices) // 2]
