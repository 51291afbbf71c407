"""What each method sees of a volume: pooled features of a network, and the plain descriptions beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer import heads, levels
from indexer.bundle import Bundle, Weights
from indexer.chunks import Lattice, slabs
from indexer.encoder import MonaiEncoder, heights_mm
from indexer.errors import Parked
from indexer.evaluate.items import SpanMm
from indexer.evaluate.similarity import Rows
from indexer.feature_map import FeatureMap, pool
from indexer.fit import ReferenceFeatures, reference_features
from indexer.heads import HeadAtlas, HeadView, head_view
from indexer.levels import Atlas, Column, column_of
from indexer.network import ResNetFeatures, load_network
from indexer.projection import Projection
from indexer.resample import PatientGrid
from indexer.volume import Volume

LAST_LAYER = "layer4"
_BINS = 64
_THUMBNAIL = (16, 16, 16)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Pooled features of one volume's chunks or slab, and what tells where along the body they lie.

    Attributes
    ----------
    rows : (n, 2 C) float32
    heights_mm : (n,) float64
        Of their middles, above the lower edge of the grid.
    column : Column or None
        Of the volume; None where its bundle has no atlas.
    head : HeadView or None
        What may be a head in it; None where nothing may, or the bundle tells no heads apart.
    """

    rows: Rows
    heights_mm: NDArray[np.float64]
    column: Column | None
    head: HeadView | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """A volume, and what one network makes of it in one pass.

    Attributes
    ----------
    bundle : Bundle
        Whose network it was.
    reference : ReferenceFeatures
        What a projection is fitted to.
    """

    volume: Volume
    map: FeatureMap
    bundle: Bundle
    reference: ReferenceFeatures

    @property
    def lattice(self) -> Lattice:
        """Where the features lie in the grid."""
        return self.map.lattice

    def of_chunks(self) -> Pooled:
        """Pool the features of every chunk that the node would make."""
        cuts = slabs(
            self.volume,
            self.map.grid,
            self.map.body,
            cells=self.map.features.shape[1],
            lattice=self.lattice,
            chunk_mm=self.bundle.pooling.chunk_mm,
            step_mm=self.bundle.pooling.step_mm,
        )
        return Pooled(
            self.map.pooled([cut.cells for cut in cuts]), heights_mm(cuts, self.map.grid), self._column, self._head
        )

    def of_slab(self, span_mm: SpanMm) -> Pooled:
        """Pool over the body within a slab, features at its ends by their share in it.

        Parameters
        ----------
        span_mm : SpanMm
            From the lower edge of the grid.
        """
        share = _share_of_cells(self.map.features.shape[1], self.lattice, self.map.grid, span_mm)
        weights = self.map.weights * share[:, None, None]
        if not weights.any():  # no body there: all of the slab, and not of the volume
            weights = np.broadcast_to(share[:, None, None], self.map.weights.shape)
        return Pooled(
            pool(self.map.features, weights)[None], np.array([sum(span_mm) / 2]), self._column, self._head
        )

    @cached_property
    def _column(self) -> Column | None:
        has_atlas = self.bundle.levels is not None and self.volume.modality == "CT"
        return column_of(self.map, dome=self.bundle.has_dome) if has_atlas else None

    @cached_property
    def _head(self) -> HeadView | None:
        has_heads = self.bundle.heads is not None and self.volume.modality == "MR"
        return head_view(self.map.grid, self.map.body) if has_heads else None


class Eye(MonaiEncoder):
    """A bundle's encoder that shows its features rather than embeddings."""

    @property
    def projections(self) -> Mapping[str, Projection]:
        """What the bundle projects with: modality to projection; under "" one for all."""
        return self._projections | {modality: one.projections[modality] for modality, one in self._others.items()}

    @property
    def atlas(self) -> Atlas | None:
        """What the bundle finds places along the body with."""
        return levels.load(self.bundle.level_file(), 2 * self._network.channels) if self.bundle.levels else None

    @property
    def heads(self) -> HeadAtlas | None:
        """Heads that the bundle, or the one that embeds MR in its stead, lays others on."""
        bundle = self.bundle.modalities.get("MR", self.bundle)
        return heads.load(bundle.head_file()) if bundle.heads else None

    def see(self, volume: Volume) -> Seen:
        """Run the network over a volume, once.

        Raises
        ------
        Parked
            The encoder has no use for the volume's modality, or the volume is empty.
        """
        if volume.modality in self._others:
            return self._others[volume.modality].see(volume)
        if not self._projections.keys() & {volume.modality, ""}:
            raise Parked(f"encoder {self.bundle.name} knows no {volume.modality}")
        seen = self.feature_map(volume)
        return Seen(volume, seen, self.bundle, reference_features(self, seen))


class _Tail(nn.Module):
    """The deepest layers of a residual network, run on features (B, C, z, x, y) of the layer before them.

    Parameters
    ----------
    axes : str
        Order of the patient's axes in the network's tensors.
    """

    def __init__(self, axes: str, layers: nn.Module) -> None:
        super().__init__()
        self._inwards = (0, 1, *(2 + "zxy".index(axis) for axis in axes))
        self._outwards = (0, 1, *(2 + axes.index(axis) for axis in "zxy"))
        self.layers = layers

    def forward(self, features: Tensor) -> Tensor:
        """Features of the last layer, axes as they came."""
        deeper: Tensor = self.layers(features.permute(self._inwards))
        return deeper.permute(self._outwards)


class LastLayer:
    """Global average pooling of a network's last layer as it was loaded: no mask, no standardisation.

    A residual network's last layer is computed from the features that the encoder pools, without a second pass over
    the volume; another network runs again.
    """

    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        self._others = {m: LastLayer(other, device, threads) for m, other in bundle.modalities.items()}
        bundle = bundle.model_copy(update={"modalities": {}, "levels": None, "heads": None})
        deeper = bundle.model_copy(update={"pooling": bundle.pooling.model_copy(update={"layer": LAST_LAYER})})
        network = load_network(deeper)
        self._lattice = network.lattice
        self._tail: _Tail | None = None
        self._eye: Eye | None = None
        if isinstance(network, ResNetFeatures):
            pooled = int(bundle.pooling.layer.removeprefix("layer"))
            self._tail = _Tail(network.axes, nn.Sequential(*list(network.layers)[pooled:]))
        else:
            self._eye = Eye(_without_projection(deeper), device, threads)

    @torch.inference_mode()
    def describe(self, seen: Seen, spans_mm: Sequence[SpanMm | None]) -> list[Rows]:
        """Average over all features of a slab, or of everything: (1, C) each."""
        if seen.volume.modality in self._others:
            return self._others[seen.volume.modality].describe(seen, spans_mm)
        profile = self._features(seen).mean(dim=(2, 3)).numpy()
        found: list[Rows] = []
        for span in spans_mm:
            share = np.ones(profile.shape[1], np.float32)
            if span is not None:
                share = _share_of_cells(profile.shape[1], self._lattice, seen.map.grid, span)
            found.append(np.asarray((profile @ share / share.sum())[None], dtype=np.float32))
        return found

    def _features(self, seen: Seen) -> Tensor:
        if self._tail is not None:
            features: Tensor = self._tail(seen.map.features[None])[0]
            return features
        assert self._eye is not None  # noqa: S101 - one of the two is made
        return self._eye.see(seen.volume).map.features


def untrained(bundle: Bundle, seed: int) -> Bundle:
    """The same encoder with random weights."""
    others = {modality: untrained(other, seed) for modality, other in bundle.modalities.items()}
    drawn = Weights(source="random", seed=seed)
    return bundle.model_copy(update={"weights": drawn, "modalities": others, "levels": None, "heads": None})


def histogram(seen: Seen, window: tuple[float, float], span_mm: SpanMm | None) -> Rows:
    """Describe by the intensities of the body within a slab: (1, 64), square roots of shares.

    The cosine of two of them is their Bhattacharyya coefficient.
    """
    cut = _voxels_of(seen.map.grid, span_mm)
    scaled = _scaled(seen.map.grid.voxels[cut], window)
    body = seen.map.body[cut]
    values = scaled[body] if body.any() else scaled.ravel()
    counts, _ = np.histogram(values, bins=_BINS, range=(0.0, 1.0))
    return np.asarray(np.sqrt(counts / max(counts.sum(), 1))[None], dtype=np.float32)


def thumbnail(seen: Seen, window: tuple[float, float], span_mm: SpanMm | None) -> Rows:
    """Describe by the body's box within a slab, shrunk to 16 x 16 x 16 voxels less their mean: (1, 4096)."""
    body = seen.map.body
    xs, ys = np.flatnonzero(body.any(axis=(0, 2))), np.flatnonzero(body.any(axis=(0, 1)))
    if not xs.size:
        raise Parked("the volume is empty: no voxel of it was imaged")
    zs = _voxels_of(seen.map.grid, span_mm)
    box = seen.map.grid.voxels[zs, xs[0] : xs[-1] + 1, ys[0] : ys[-1] + 1]
    image = torch.from_numpy(_scaled(box, window))[None]
    small = functional.adaptive_avg_pool3d(image, _THUMBNAIL).numpy().reshape(1, -1)
    return np.asarray(small - small.mean(), dtype=np.float32)


def window_of(seen: Seen) -> tuple[float, float]:
    """The intensities that the encoder takes for 0 and 1."""
    if seen.volume.modality == "CT":
        return seen.bundle.input.window_hu
    low, high = np.percentile(seen.map.grid.voxels[seen.map.body], seen.bundle.input.percentiles)
    return float(low), float(high)


def overlap_mm(first: SpanMm, second: SpanMm) -> float:
    """Length that two spans share, mm."""
    return max(0.0, min(first[1], second[1]) - max(first[0], second[0]))


def _without_projection(bundle: Bundle) -> Bundle:
    drawn = bundle.projection.model_copy(update={"file": "", "seed": 0})
    return bundle.model_copy(update={"projection": drawn})


def _share_of_cells(count: int, lattice: Lattice, grid: PatientGrid, span_mm: SpanMm) -> NDArray[np.float32]:
    """Share of every feature's surroundings along z that lies in a span, (count,)."""
    edges = np.array([lattice.edges_z(slice(cell, cell + 1)) for cell in range(count)])
    lower, upper = ((edges + 0.5) * grid.spacing_mm[0]).T
    inside = np.minimum(upper, span_mm[1]) - np.maximum(lower, span_mm[0])
    share = np.clip(inside / (upper - lower), 0.0, 1.0)
    if not share.any():
        raise Parked("the labelled slab lies outside the imaged volume")
    return np.asarray(share, dtype=np.float32)


def _voxels_of(grid: PatientGrid, span_mm: SpanMm | None) -> slice:
    """The voxels along z whose centres lie in a span; the nearest one where none does."""
    if span_mm is None:
        return slice(None)
    centres = (np.arange(grid.voxels.shape[0]) + 0.5) * grid.spacing_mm[0]
    inside = np.flatnonzero((centres >= span_mm[0]) & (centres <= span_mm[1]))
    if not inside.size:
        inside = np.array([np.abs(centres - sum(span_mm) / 2).argmin()])
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _scaled(voxels: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.float32]:
    low, high = window
    scaled = (voxels - np.float32(low)) / np.float32(max(high - low, 1e-6))
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)
