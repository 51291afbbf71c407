"""Slabs of real volumes, clean and with inserted findings, to fit and to test a compartment's embedding with."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from indexer.body import Mask, around
from indexer.chunks import share_of
from indexer.compartments import BONES, BRAIN, LUNGS, Kind, compartments
from indexer.encoder import MonaiEncoder
from indexer.feature_map import FeatureMap, pool
from indexer.insertion.findings import CLEAN, Finding, of_compartment
from indexer.insertion.insert import insert
from indexer.insertion.scene import NoPlace, Scanner, scanner_of
from indexer.insertion.slabs import Slab, slabs_of
from indexer.insertion.styles import TESTING, TRAINING, Style
from indexer.insertion.variants import Variant
from indexer.region_fit import Example
from indexer.regions import LEAST_SHARE
from indexer.resample import PatientGrid, resample
from indexer.scored import SCORED, SHOWN
from indexer.scored_fit import FineExample
from indexer.thinned import Thinned
from indexer.volume import Volume

Role = Literal["clean", "training", "testing"]
_COMPOSITES, _TOGETHER = 8, 3
"""Training slabs with several findings at once, and how many: they teach cells at the price of one pass."""
_VARIED: tuple[Kind, ...] = (LUNGS, BRAIN, BONES)
"""Compartments fitted to slabs as other patients and scanners have them: the others do not gain by it."""
_VARIANTS = 2
"""Of each finding, and of a clean slab."""
_DRAWS = 2
"""Of every finding and size that galleries hold: other sites, sides and shapes."""
_OF_BODY = 0.5
"""Share of the body in cells beside a compartment."""
_BINS = np.linspace(-1024, 1024, 65)
_SHOWN = 0.3
"""Share of a finding from which on a voxel belongs to it."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """One slab, seen by the encoder.

    Attributes
    ----------
    slab : str
        Names the place: the same for a slab's clean and inserted versions.
    example : Example
        Cells of the compartment; none if it is embedded by scores, and the slab with findings is there to teach.
    finding : Finding or None
        The one inserted; None: as scanned, or several.
    histogram : (64,) float32
        Of the body's intensities, square roots of shares.
    places : (n, 3) int64
        Of the example's cells in the feature map.
    whole : (2 C,) float32
        Features pooled over the body, as the embedding of the whole is made of; empty where there are no cells.
    fine : FineExample or None
        Places of the network's first layer; None for a compartment that is not embedded by scores.
    """

    role: Role
    slab: str
    example: Example
    finding: Finding | None
    size_mm: float
    histogram: NDArray[np.float32]
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    whole: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    fine: FineExample | None = None

    @property
    def in_gallery(self) -> bool:
        """Whether others' queries may find it."""
        shown = self.finding is not None and self.size_mm in self.finding.shown_mm
        return self.role == "clean" or (self.role == "testing" and shown)


def specimens_of(
    volume: Volume,
    patient: str,
    name: str,
    encoder: MonaiEncoder,
    kind: Kind,
    roles: Sequence[Role],
    *,
    all_sizes: bool = False,
) -> Iterator[Specimen]:
    """Make all specimens of one volume; the same arguments give the same ones.

    Parameters
    ----------
    name : str
        Of the series: together with what is inserted it seeds the drawing.
    roles : sequence of Role
        Clean slabs come always.
    all_sizes : bool
        Test with every size of a finding, not only those that galleries hold.

    Raises
    ------
    Parked
        The volume is empty or damaged.
    """
    grid = resample(volume, encoder.bundle.input.spacing_mm)
    bench = _Bench(encoder, kind, patient, volume)
    for number, slab in enumerate(bench.slabs(grid)):
        place = f"{name}/{number}"
        clean = bench.look("clean", place, slab, slab.grid, {})
        if clean is None:
            continue
        yield clean
        for style, role in ((TRAINING, "training"), (TESTING, "testing")):
            if role in roles:
                yield from bench.single(style, place, slab, all_sizes=all_sizes and style is TESTING)
        if "training" in roles:
            yield from bench.composite(place, slab)
            yield from bench.varied(place, slab)


class _Bench:
    """Inserts into one volume and looks at the result."""

    def __init__(self, encoder: MonaiEncoder, kind: Kind, patient: str, volume: Volume) -> None:
        self._encoder, self._kind, self._patient = encoder, kind, patient
        spacing = volume.spacing_mm
        self._slice_mm = (float(spacing[0]), float(spacing[2]), float(spacing[1]))
        self._findings = [one for one in of_compartment(kind) if one.modality == volume.modality]
        self._scanner = Scanner(np.zeros(3), 0.0)

    def slabs(self, grid: PatientGrid) -> Iterator[Slab]:
        body = self._encoder.body_of(grid)
        self._scanner = scanner_of(grid, body, self._slice_mm)
        if self._findings:
            yield from slabs_of(grid, body, compartments(Thinned(grid, body)), self._kind)

    def single(self, style: Style, place: str, slab: Slab, *, all_sizes: bool) -> Iterator[Specimen]:
        """One finding a slab."""
        role: Role = "training" if style is TRAINING else "testing"
        for finding in self._findings:
            for size in finding.sizes_mm if all_sizes else finding.shown_mm:
                for draw in range(_DRAWS if role == "testing" and size in finding.shown_mm else 1):
                    seed = (role, place, finding.name, size, *([draw] if draw else []))
                    found = self._inserted(slab, slab.grid, finding, size, style, seed)
                    if found is not None:
                        shares = {finding.name: found[1]}
                        seen = self.look(role, place, slab, found[0], shares, finding, size)
                        if seen is not None:
                            yield seen

    def composite(self, place: str, clean: Slab) -> Iterator[Specimen]:
        """Several findings in one slab."""
        for number in range(_COMPOSITES):
            rng = np.random.default_rng(_seed("composite", place, number))
            slab, scan = self._as_others(clean, "composite", place, number)
            grid, shares = slab.grid, dict[str, NDArray[np.float32]]()
            for turn in range(_TOGETHER):
                # Every second one is of the first kind, the focal one: few cells show it.
                finding = self._findings[0 if (number + turn) % 2 else int(rng.integers(len(self._findings)))]
                size = float(rng.uniform(0.6 * finding.shown_mm[0], 1.1 * finding.shown_mm[-1]))
                seed = ("composite", place, number, turn)
                found = self._inserted(slab, grid, finding, size, TRAINING, seed)
                if found is not None:
                    grid = found[0]
                    earlier = shares.get(finding.name, np.zeros_like(found[1]))
                    shares[finding.name] = np.maximum(earlier, found[1])
            seen = self.look("training", place, slab, scan(grid), shares) if shares else None
            if seen is not None:
                yield seen

    def varied(self, place: str, clean: Slab) -> Iterator[Specimen]:
        """Slabs with one finding as other patients and scanners have them.

        Clean ones, too, where places are scored: elsewhere what varies ordinarily is learnt from slabs as scanned.
        """
        none: list[Finding | None] = [None] if self._kind in SCORED else []
        for number in range(_VARIANTS if self._kind in _VARIED else 0):
            for finding in (*none, *self._findings):
                name, size = (finding.name, finding.shown_mm[-1]) if finding else (CLEAN, 0.0)
                seed = ("varied", place, name, number)
                slab, scan = self._as_others(clean, *seed)
                found = self._inserted(slab, slab.grid, finding, size, TRAINING, seed) if finding else None
                if finding and found is None:
                    continue
                grid, shares = (found[0], {name: found[1]}) if found else (slab.grid, {})
                seen = self.look("training", place, slab, scan(grid), shares, finding, size)
                if seen is not None:
                    yield seen

    def _as_others(self, slab: Slab, *seed: object) -> tuple[Slab, Callable[[PatientGrid], PatientGrid]]:
        """A slab as another patient has it, and what scans it on another scanner; see `_VARIED`."""
        if self._kind not in _VARIED:
            return slab, lambda grid: grid
        variant = Variant(np.random.default_rng(_seed("variant", *seed)))
        return variant.posed(slab), lambda grid: variant.scanned(grid, self._scanner)

    def look(
        self,
        role: Role,
        place: str,
        slab: Slab,
        grid: PatientGrid,
        shares: dict[str, NDArray[np.float32]],
        finding: Finding | None = None,
        size_mm: float = 0.0,
    ) -> Specimen | None:
        """Run the network; None where the changed slab no longer shows the compartment."""
        body = self._encoder.body_of(grid)
        mask = compartments(Thinned(grid, body), {self._kind}).get(self._kind)
        if mask is None:
            return None
        label = finding.label(size_mm) if finding else ("" if shares else CLEAN)
        fine = self._fine(grid, body, mask, slab.span, label, shares)
        if fine is not None and not len(fine.first):
            return None
        histogram = _histogram(grid.voxels[slab.span][body[slab.span]])
        seen = Specimen(
            role, place, _no_cells(self._patient, label, shares), finding, size_mm, histogram, fine=fine
        )
        if fine is not None and role == "training" and shares:
            return replace(seen, fine=fine if label else fine.teaching())
        features = self._encoder.map_of(grid, body)
        share = self._share(features, mask, slab.span)
        at = share > LEAST_SHARE
        inserted = {name: self._share(features, one > _SHOWN, slab.span)[at] for name, one in shares.items()}
        of_body = self._share(features, body, slab.span)
        others = features.cells((of_body > _OF_BODY) & ~at if role == "clean" else np.zeros_like(at))
        return replace(
            seen,
            example=Example(self._patient, features.cells(at), share[at], label, inserted, others),
            places=np.argwhere(at),
            whole=pool(features.features, of_body),
        )

    def _share(self, seen: FeatureMap, mask: Mask, span: slice) -> NDArray[np.float32]:
        cut = _cut(mask, span, seen.body)
        return share_of(cut, self._encoder.lattice, tuple(seen.features.shape[1:]))

    def _fine(
        self,
        grid: PatientGrid,
        body: Mask,
        mask: Mask,
        span: slice,
        label: str,
        shares: dict[str, NDArray[np.float32]],
    ) -> FineExample | None:
        if self._kind not in SCORED:
            return None
        features = self._encoder.fine(grid, body)
        places, lattice = features.shape[1:], self._encoder.fine_lattice
        at = share_of(_cut(mask, span, body), lattice, places) > SHOWN
        rows = features[:, at].T.astype(np.float16)
        first, second = np.split(rows, [self._encoder.fine_channels[0]], axis=1)
        findings = {
            name: share_of(_cut(one > _SHOWN, span, body), lattice, places)[at] for name, one in shares.items()
        }
        return FineExample(self._patient, first, second, label, findings)

    def _inserted(
        self,
        slab: Slab,
        grid: PatientGrid,
        finding: Finding,
        size_mm: float,
        style: Style,
        seed: tuple[object, ...],
    ) -> tuple[PatientGrid, NDArray[np.float32]] | None:
        try:
            found = insert(
                grid, slab.body, slab.place, slab.span, finding, size_mm, style, self._scanner, (_seed(*seed),)
            )
        except NoPlace:
            return None
        return found.grid, found.share


def _no_cells(patient: str, label: str, findings: Iterable[str]) -> Example:
    none = np.zeros(0, np.float32)
    return Example(patient, none[:, None], none, label, dict.fromkeys(findings, none))


def _cut(mask: Mask, span: slice, body: Mask) -> Mask:
    """A mask within a span along z, cut to the body in-plane as the encoder cuts."""
    within = np.zeros_like(mask)
    within[span] = mask[span]
    return np.ascontiguousarray(within[around(body)])


def _seed(*parts: object) -> int:
    return zlib.crc32("/".join(map(str, parts)).encode())


def _histogram(values: NDArray[np.float32]) -> NDArray[np.float32]:
    counts, _ = np.histogram(values, bins=_BINS)
    return np.asarray(np.sqrt(counts / max(counts.sum(), 1)), dtype=np.float32)
