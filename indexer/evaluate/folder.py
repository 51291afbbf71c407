"""Embeddings of a folder of series, made on the fly: one pass of each network over each labelled series."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.errors import ConfigError
from indexer.bundle import Bundle
from indexer.errors import Parked
from indexer.evaluate.collection import (
    BASELINES,
    ENCODER,
    HISTOGRAM,
    LAST_LAYER,
    RANDOM_WEIGHTS,
    THUMBNAIL,
    Collection,
    Plan,
    Way,
)
from indexer.evaluate.describe import (
    Eye,
    LastLayer,
    Pooled,
    Seen,
    histogram,
    overlap_mm,
    thumbnail,
    untrained,
    window_of,
)
from indexer.evaluate.items import Item, SpanMm, Subject, Wanted, item_of, match, span_of
from indexer.evaluate.labels import LabelTable
from indexer.evaluate.left_out import LEFT_OUT, MOST_PAIRS, LeftOut
from indexer.evaluate.pictures import Picture, pictures
from indexer.evaluate.refit import Anatomy, PooledEvidence, Projections, Reference, Refit, embed, same_fit, unit
from indexer.evaluate.similarity import Evidence, Rows, similarities_of
from indexer.evaluate.subjects import subjects_below
from indexer.volume import SeriesPlan, load_volume, plan_series

Described = dict[str, list[list[Rows]]]
"""Method without a network to, for each wanted span, the rows of each volume that shows it."""
Looked = dict[str, list[list[Pooled]]]
"""Network to, for each wanted span, the pooled features of each volume that shows it."""


@dataclass(frozen=True, eq=False)
class _Series:
    """One embedded series.

    Attributes
    ----------
    spans : tuple
        What was wanted of it; None is all.
    described, pooled : Described, Looked
        Lists in the order of `spans`.
    references : dict of str to list of Reference
        Network to what its projection may be fitted to.
    pictures : tuple
        In the order of `spans`.
    """

    spans: tuple[SpanMm | None, ...]
    described: Described
    pooled: Looked
    references: dict[str, list[Reference]]
    pictures: tuple[tuple[Picture, ...], ...]


class FolderSource:
    """A folder that holds one folder of DICOM files a series.

    Parameters
    ----------
    folder : Path
        Of the series' folders.
    bundle : Bundle
        The encoder that is evaluated.
    device, threads : str, int
        As for `indexer.encoder.MonaiEncoder`.
    on_progress : callable, optional
        Told after each series how many are done, and of how many.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        *,
        device: str = "auto",
        threads: int = 0,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._folder = folder
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._on_progress = on_progress

    def collect(self, table: LabelTable, plan: Plan) -> Collection:
        """Embed every labelled series; see `indexer.evaluate.collection.Source`."""
        if unknown := set(plan.baselines) - set(BASELINES):
            raise ConfigError([f"expected baselines of {', '.join(BASELINES)}, got {', '.join(sorted(unknown))}"])
        subjects, paths = subjects_below(self._folder)
        wanted, unmatched = match(table.rows, subjects)
        if not wanted:
            raise ConfigError(["none of the labelled series or studies is in the folder"])
        excluded = Counter({"no such series or study in the folder": unmatched} if unmatched else {})
        spans = _spans(wanted, plan.slab_mm)
        workbench = _Workbench(self._bundle, plan, self._device, self._threads)
        embedded: dict[int, _Series] = {}
        reasons: dict[int, str] = {}
        for index, of_series in spans.items():
            try:
                embedded[index] = workbench.describe(subjects[index], paths[index], of_series)
            except (Parked, ValueError) as reason:  # ValueError: several series in one folder
                reasons[index] = str(reason)
            self._on_progress(len(embedded) + len(reasons), len(spans))
        return _Assembly(workbench.encoder, plan, subjects, embedded, reasons).collection(wanted, excluded)


class _Workbench:
    """The networks of a run, each loaded once."""

    def __init__(self, bundle: Bundle, plan: Plan, device: str, threads: int) -> None:
        self._bundle, self._plan = bundle, plan
        self._eyes = {ENCODER: Eye(bundle, device, threads)}
        if RANDOM_WEIGHTS in plan.baselines:
            self._eyes[RANDOM_WEIGHTS] = Eye(untrained(bundle, plan.seed), device, threads)
        self._last = LastLayer(bundle, device, threads) if LAST_LAYER in plan.baselines else None

    @property
    def encoder(self) -> Eye:
        """The bundle's encoder as it was loaded."""
        return self._eyes[ENCODER]

    def describe(self, subject: Subject, paths: Sequence[Path], spans: tuple[SpanMm | None, ...]) -> _Series:
        """Look at a series with every method.

        Raises
        ------
        Parked
            It holds no volume, or a span lies outside all of them.
        """
        plan = plan_series(paths)
        extents = _extents_mm(plan)
        bottom = min(low for low, _ in extents)
        described: Described = {key: [[] for _ in spans] for key in self._plan.baselines if key not in self._eyes}
        pooled: Looked = {key: [[] for _ in spans] for key in self._eyes}
        references: dict[str, list[Reference]] = {key: [] for key in self._eyes}
        shown: list[tuple[Picture, ...]] = [() for _ in spans]
        failures: list[str] = []
        for number, stack in enumerate(plan.stacks):
            rows = [row for row, span in enumerate(spans) if _belongs(span, number, extents, bottom)]
            local = [_local(spans[row], extents[number], bottom) for row in rows]
            try:
                volume = load_volume(stack)
                seen = {key: eye.see(volume) for key, eye in self._eyes.items()}
                looked = {key: [_pooled(one, span) for span in local] for key, one in seen.items()}
                found = self._rows(seen[ENCODER], local)
            except Parked as reason:
                failures.append(str(reason))
                continue
            for key, one in seen.items():
                references[key].append(Reference(subject.patient, volume.modality, one.reference))
            for key, of_spans in found.items():
                for row, vector in zip(rows, of_spans, strict=True):
                    described[key][row].append(vector)
            for key, features in looked.items():
                for row, one_span in zip(rows, features, strict=True):
                    pooled[key][row].append(one_span)
            for row, span in zip(rows, local, strict=True):
                shown[row] = shown[row] or pictures(seen[ENCODER].map.grid, span)
        if not any(pooled[ENCODER]):
            raise Parked("; ".join(dict.fromkeys(failures)) or "the series holds no volume")
        return _Series(spans, described, pooled, references, tuple(shown))

    def _rows(self, trained: Seen, spans: Sequence[SpanMm | None]) -> dict[str, list[Rows]]:
        """Rows of one volume: method to one matrix a span."""
        found: dict[str, list[Rows]] = {}
        window = window_of(trained)
        if HISTOGRAM in self._plan.baselines:
            found[HISTOGRAM] = [histogram(trained, window, span) for span in spans]
        if THUMBNAIL in self._plan.baselines:
            found[THUMBNAIL] = [thumbnail(trained, window, span) for span in spans]
        if self._last is not None:
            found[LAST_LAYER] = self._last.describe(trained, spans)
        return found


class _Assembly:
    """Items and ways from the embedded series."""

    def __init__(
        self,
        encoder: Eye,
        plan: Plan,
        subjects: Sequence[Subject],
        embedded: dict[int, _Series],
        reasons: dict[int, str],
    ) -> None:
        self._encoder, self._bundle, self._plan = encoder, encoder.bundle, plan
        self._subjects, self._embedded, self._reasons = subjects, embedded, reasons
        networks = {key for series in embedded.values() for key in series.references}
        self._refits = {
            key: Refit([one for series in embedded.values() for one in series.references[key]]) for key in networks
        }

    def collection(self, wanted: Sequence[Wanted], excluded: Counter[str]) -> Collection:
        """Make an item of every row of which some series shows what it labels."""
        items: list[Item] = []
        places: list[list[tuple[_Series, int]]] = []
        for one in wanted:
            found = self._places(one)
            if not found:
                reason = next((self._reasons[index] for index in one.subjects if index in self._reasons), "")
                excluded[f"not embedded: {reason or 'the labelled slab lies outside the imaged volume'}"] += 1
                continue
            items.append(item_of(one.row, [self._subjects[index] for index, _, _ in found], self._plan.slab_mm))
            places.append([(series, row) for _, series, row in found])
        if not items:
            raise ConfigError([f"no labelled series can be embedded: {'; '.join(excluded)}"])
        ways, facts = self._ways(items, places)
        keys = [way.key for way in ways]
        left_out = f"{ENCODER}, {LEFT_OUT}"
        return Collection(
            items=tuple(items),
            ways=tuple(ways),
            headline=left_out if left_out in keys else ENCODER,
            pictures=tuple(_showing(of_item[0][0].pictures[of_item[0][1]]) for of_item in places),
            excluded=dict(excluded),
            facts=facts,
        )

    def _places(self, one: Wanted) -> list[tuple[int, _Series, int]]:
        """Series, and which of their spans, that show what a row labels."""
        span = span_of(one.row, self._plan.slab_mm)
        found = []
        for index in one.subjects:
            series = self._embedded.get(index)
            if series is not None and series.pooled[ENCODER][series.spans.index(span)]:
                found.append((index, series, series.spans.index(span)))
        return found

    def _ways(
        self, items: Sequence[Item], places: Sequence[Sequence[tuple[_Series, int]]]
    ) -> tuple[list[Way], dict[str, str]]:
        def evidence(key: str) -> list[Evidence]:
            return [tuple(tuple(series.described[key][row]) for series, row in of_item) for of_item in places]

        def looked(key: str) -> list[PooledEvidence]:
            return [tuple(tuple(series.pooled[key][row]) for series, row in of_item) for of_item in places]

        trained, anatomy = looked(ENCODER), Anatomy(self._encoder.atlas, self._encoder.heads)
        projections = self._encoder.projections
        origin, name = self._origin(projections), self._bundle.name
        ways = [Way(ENCODER, f"{name} as shipped", origin, _ranked(items, trained, projections, anatomy))]
        fitted = bool(self._bundle.projection.file)
        refit, validated = self._refits_for(items), "no"
        if refit:
            left_out = LeftOut(self._refits[ENCODER], anatomy, self._subjects, items, trained)
            ways.append(left_out.query(ENCODER, name, self._plan.folds))
            validated = "yes"
            if self._leaves_both_out(left_out.pairs):
                ways.append(left_out.both(ENCODER, name))
            else:
                validated += f"; not without both patients, who make {left_out.pairs} pairs: --both-out does so"
        if RANDOM_WEIGHTS in self._plan.baselines:
            rows = looked(RANDOM_WEIGHTS)
            own = self._refits[RANDOM_WEIGHTS].whole() if fitted else projections
            how = "projection fitted to the evaluated series" if fitted else origin
            ways.append(Way(RANDOM_WEIGHTS, "random weights", how, _ranked(items, rows, own, Anatomy())))
            if refit:
                drawn = LeftOut(self._refits[RANDOM_WEIGHTS], Anatomy(), self._subjects, items, rows)
                ways.append(drawn.query(RANDOM_WEIGHTS, "random weights", self._plan.folds))
        titles = {LAST_LAYER: "last layer, averaged", HISTOGRAM: "intensity histogram", THUMBNAIL: "3-D thumbnail"}
        for key, title in titles.items():
            if key in self._plan.baselines:
                ways.append(Way(key, title, "nothing fitted", similarities_of(unit(evidence(key)))))
        facts = {
            "source": "a folder of series, embedded for this evaluation",
            "encoder": str(self._encoder.encoder_id),
            "projection": origin,
            "cross-validated": validated,
            "z-level labels": f"pooled over exactly the labelled slab of {self._plan.slab_mm:g} mm",
        }
        return ways, facts

    def _refits_for(self, items: Sequence[Item]) -> bool:
        """Whether to refit without patients.

        Raises
        ------
        ConfigError
            It was asked for where it would mislead; see `Plan.cross_validate`.
        """
        mixed = not self._plan.within_modality and len({one for item in items for one in item.modalities}) > 1
        if mixed and self._plan.cross_validate:
            raise ConfigError(["galleries of several modalities cannot be cross-validated: keep within a modality"])
        wanted = self._plan.cross_validate
        return not mixed and (bool(self._bundle.projection.file) if wanted is None else wanted)

    def _leaves_both_out(self, pairs: int) -> bool:
        return pairs <= MOST_PAIRS if self._plan.both_out is None else self._plan.both_out

    def _origin(self, projections: Projections) -> str:
        """Say in words what the bundle's projection was fitted to."""
        if not self._bundle.projection.file:
            return "projection drawn from a seed, fitted to nothing"
        if same_fit(projections, self._refits[ENCODER].whole()):
            return "projection fitted to these very series (its means and scales are theirs)"
        return "projection fitted to other series, or to more than these; whether to some of them is not known"


def _spans(wanted: Sequence[Wanted], slab_mm: float) -> dict[int, tuple[SpanMm | None, ...]]:
    """Series to what is wanted of it."""
    found: dict[int, dict[SpanMm | None, None]] = {}
    for one in wanted:
        for index in one.subjects:
            found.setdefault(index, {})[span_of(one.row, slab_mm)] = None
    return {index: tuple(spans) for index, spans in sorted(found.items())}


def _extents_mm(plan: SeriesPlan) -> list[SpanMm]:
    """Lowest and highest edge of every volume along the patient's z axis, LPS mm."""
    found = []
    for stack in plan.stacks:
        grid = stack.grid()
        corners = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in grid.shape), indexing="ij")).reshape(3, -1)
        z_mm = grid.affine_lps_mm[2, :3] @ corners + grid.affine_lps_mm[2, 3]
        found.append((float(z_mm.min()), float(z_mm.max())))
    return found


def _belongs(span: SpanMm | None, number: int, extents: Sequence[SpanMm], bottom: float) -> bool:
    """Whether a volume shows a span, and more of it than the volumes before it; every volume is part of all."""
    if span is None:
        return True
    shared = [overlap_mm((span[0] + bottom, span[1] + bottom), extent) for extent in extents]
    return max(shared) > 0 and shared.index(max(shared)) == number


def _local(span: SpanMm | None, extent: SpanMm, bottom: float) -> SpanMm | None:
    """A span from the lower edge of one volume, rather than of the series."""
    return None if span is None else (span[0] + bottom - extent[0], span[1] + bottom - extent[0])


def _pooled(seen: Seen, span: SpanMm | None) -> Pooled:
    return seen.of_chunks() if span is None else seen.of_slab(span)


def _ranked(
    items: Sequence[Item], rows: Sequence[PooledEvidence], projections: Projections, anatomy: Anatomy
) -> Callable[[int], np.typing.NDArray[np.float64]]:
    return similarities_of(embed(items, rows, projections, anatomy))


def _showing(shown: tuple[Picture, ...]) -> Callable[[], tuple[Picture, ...]]:
    return lambda: shown
