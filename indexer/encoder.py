"""The encoder: a MONAI network over the whole volume once, its features pooled over the body chunk by chunk."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, cast

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer import heads, levels, projection, regions, scored
from indexer.body import Mask, body_mask
from indexer.bundle import Bundle, InputSpec
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.chunks import Lattice, Slab, share_of, slabs
from indexer.clipping import patient_grid
from indexer.device import Engine, choose
from indexer.errors import Parked
from indexer.feature_map import FeatureMap
from indexer.feature_network import FeatureNetwork, Features
from indexer.heads import HeadFinder, head_view
from indexer.levels import LevelFinder, column_of
from indexer.network import load_network
from indexer.network_specs import ResNetSpec
from indexer.openvino_network import OpenVinoNetwork
from indexer.regional import Regional
from indexer.regions import Region
from indexer.resample import PatientGrid
from indexer.thinned import Thinned
from indexer.uids import EncoderId
from indexer.volume import Volume

log = logging.getLogger(__name__)

_SEGMENT_VOXELS = 2**24
"""Voxels of one pass, halo included: bounds the memory of a whole-body CT."""
_LEAST_SEGMENT_CELLS = 4
_HALO_CELLS = 4
"""Features computed beyond either end of a pass and thrown away, so that its neighbours are seen."""


@dataclass(frozen=True)
class Encoded:
    """The chunks of one volume and where the time went, in seconds by stage."""

    chunks: tuple[EmbeddedChunk, ...]
    seconds: dict[str, float]


class Encoder(Protocol):
    """Turns volumes into embedded chunks.

    Embeddings are (256,) float32 of unit length; those of two encoders are never compared, so every one is stamped
    with `encoder_id`. The same volume gives the same embeddings, up to rounding.
    """

    @property
    def encoder_id(self) -> EncoderId:
        """Digest of everything that decides the embeddings."""
        ...

    def encode(self, volume: Volume, ordinal: int = 0) -> Encoded:
        """Embed a volume's chunks.

        Parameters
        ----------
        ordinal : int
            Which volume of its series it is.

        Raises
        ------
        Parked
            The encoder has no use for the volume's modality, or the volume is empty.
        """
        ...


class MonaiEncoder:
    """A bundle's network, ready to run, and those of the modalities that it leaves to other bundles.

    Parameters
    ----------
    device : str
        ``auto`` takes CUDA where it is present, else the CPU.
    threads : int
        Of the CPU; 0 is one for each core.
    engine : str
        ``torch`` or ``openvino``: what runs residual networks on the CPU; PyTorch runs all others.

    Raises
    ------
    ConfigError
        The bundle's weights are missing or wrong, or the engine is not installed.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int = 0, engine: Engine = "torch") -> None:
        self.bundle = bundle
        self.encoder_id = bundle.encoder_id
        self._others: dict[str, Self] = {}
        for modality, other in bundle.modalities.items():
            self._others[modality] = cast(Self, type(self)(other, device, threads, engine))
        self.device = choose(device)
        if threads:
            torch.set_num_threads(threads)
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        of_findings = scored.load(bundle.finding_file()) if bundle.findings else {}
        network = load_network(bundle, of_findings)
        if engine == "openvino" and self.device.device.type == "cpu" and isinstance(bundle.network, ResNetSpec):
            network = OpenVinoNetwork(network, self.device.dtype, threads)
            self.device = replace(self.device, engine="OpenVINO")
        self._lattice = network.lattice
        self._network: FeatureNetwork = network.to(self.device.device, self.device.dtype).to(
            memory_format=network.memory_format  # type: ignore[call-overload]
        )
        self._projections = _projections(bundle, 2 * network.channels)
        of_regions = _regions(bundle, network.channels + network.finer_channels)
        fine_lattice = network.fine_lattice if of_findings else network.lattice
        self._regional = Regional(of_regions, of_findings, fine_lattice)
        self._levels = _levels(bundle, 2 * network.channels, self._projections)
        self._heads = HeadFinder(heads.load(bundle.head_file())) if bundle.heads else None
        log.info("encoder %s on %s", self.encoder_id, self.device)

    def encode(self, volume: Volume, ordinal: int = 0) -> Encoded:
        """Embed a volume's chunks; see `Encoder.encode`."""
        if volume.modality in self._others:
            return self._others[volume.modality].encode(volume, ordinal)
        project = self._projections.get(volume.modality, self._projections.get(""))
        if project is None:
            raise Parked(f"encoder {self.bundle.name} knows no {volume.modality}")
        seen = self.feature_map(volume)
        start = time.perf_counter()
        cuts = slabs(
            volume,
            seen.grid,
            seen.body,
            cells=seen.features.shape[1],
            lattice=self._lattice,
            chunk_mm=self.bundle.pooling.chunk_mm,
            step_mm=self.bundle.pooling.step_mm,
        )
        vectors = project(seen.pooled([cut.cells for cut in cuts]))
        if (finder := self._levels.get(volume.modality)) is not None:
            column = column_of(seen, dome=self.bundle.has_dome)
            vectors = finder.placed(vectors, column, heights_mm(cuts, seen.grid))
        if self._heads is not None and volume.modality == "MR":
            vectors = self._heads.placed(vectors, head_view(seen.grid, seen.body), heights_mm(cuts, seen.grid))
        parts = self._regional(seen, cuts)
        chunks = tuple(
            EmbeddedChunk(ordinal, position, cut.box_lps_mm, cut.slices, {GLOBAL: vector, **regional})
            for position, (cut, vector, regional) in enumerate(zip(cuts, vectors, parts, strict=True))
        )
        return Encoded(chunks, {**seen.seconds, "pool": time.perf_counter() - start})

    @property
    def lattice(self) -> Lattice:
        """Where the features lie."""
        return self._lattice

    @staticmethod
    def body_of(grid: PatientGrid) -> NDArray[np.bool_]:
        """Where the patient is in a grid; see `indexer.body.body_mask`."""
        return body_mask(grid)

    def fine(self, grid: PatientGrid, body: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Features of the network's first two layers at the places of the first: (C1 + C2, z', x', y').

        Raises
        ------
        ConfigError
            The network has no two layers before the one that is pooled.
        """
        if not all(self._network.fine_channels):
            why = "findings are scored from two layers before the pooled one, of a resnet or an efficientnet"
            raise ConfigError([f"bundle {self.bundle.name}: {why}: `pooling.layer` must be layer3 or layer4"])
        image = _prepared(Thinned(grid, body), self.bundle.input)
        with torch.inference_mode(), self.device.autocast():
            features = self._network.fine(self.device.take(image))
        return np.asarray(features[0].cpu().numpy())

    @property
    def fine_lattice(self) -> Lattice:
        """Where the features of the network's first layer lie."""
        return self._network.fine_lattice

    @property
    def fine_channels(self) -> tuple[int, int]:
        """Features of the network's first and of its second layer."""
        return self._network.fine_channels

    def feature_map(self, volume: Volume) -> FeatureMap:
        """Run the network over a whole volume, once.

        Raises
        ------
        Parked
            The volume is empty, damaged or too large, or the network's result is not finite.
        """
        if volume.modality in self._others:
            return self._others[volume.modality].feature_map(volume)
        start = time.perf_counter()
        grid = patient_grid(volume, self.bundle.input.spacing_mm)
        resampled = time.perf_counter() - start
        seen = self.map_of(grid)
        return replace(seen, seconds={**seen.seconds, "resample": seen.seconds["resample"] + resampled})

    def map_of(self, grid: PatientGrid, body: NDArray[np.bool_] | None = None) -> FeatureMap:
        """Run the network over a volume that is on the bundle's grid already; see `feature_map`.

        Parameters
        ----------
        body : (Z, X, Y) bool, optional
            Where in it the patient is, if that is known.
        """
        start = time.perf_counter()
        body = body_mask(grid) if body is None else body
        thinned = Thinned(grid, body)
        masks = self._regional.masks(thinned)
        image = _prepared(thinned, self.bundle.input)
        asked = self._regional.asked(masks, image.shape)
        prepared = time.perf_counter()
        layer, finer, scores = self._features(image, asked)
        if not all(one.sum().isfinite() for one in (layer, finer, scores)):  # one value is enough, no copy is made
            raise Parked(f"encoder {self.bundle.name} computed values that are not finite")
        seconds = {"resample": prepared - start, "encode": time.perf_counter() - prepared}
        weights = share_of(body[thinned.window], self._lattice, tuple(layer.shape[1:]))
        return FeatureMap(layer, finer, weights, thinned, self._lattice, masks, asked, scores, seconds)

    def _features(self, image: NDArray[np.float32], asked: Mask) -> Features:
        """Run the network over an image (Z, X, Y): features (C, z, x, y) of it alone, on the CPU."""
        stride, count = self._lattice.stride[0], -(-image.shape[0] // self._lattice.stride[0])
        fitting = _SEGMENT_VOXELS // (stride * image[0].size)
        cells = count if fitting >= count else max(_LEAST_SEGMENT_CELLS, fitting - 2 * _HALO_CELLS)
        fine = self._network.score_ratio[0] if len(asked) else 1
        parts = []
        for first in range(0, count, cells):
            last = min(first + cells, count)
            before, after = max(0, first - _HALO_CELLS), min(count, last + _HALO_CELLS)
            part = self._run(image[before * stride : after * stride], asked[:, before * fine : after * fine])
            inner = slice(first - before, last - before)
            of_scores = slice(inner.start * fine, inner.stop * fine)
            parts.append(Features(part.layer[:, inner], part.finer[:, inner], part.scores[:, of_scores]))
        joined = (torch.cat(of_all, dim=1) for of_all in zip(*parts, strict=True))
        return Features(*joined) if len(parts) > 1 else parts[0]

    @torch.inference_mode()
    def _run(self, image: NDArray[np.float32], asked: Mask) -> Features:
        where = torch.from_numpy(asked).to(self.device.device) if len(asked) else None
        with self.device.autocast():
            layer, finer, scores = (one[0].cpu() for one in self._network(self.device.take(image), where))
        return Features(layer.float(), finer, scores.float())


def _projections(bundle: Bundle, features: int) -> dict[str, projection.Projection]:
    """Projection of each modality; under "" one for all."""
    if bundle.projection.file:
        return projection.load(bundle.projection_file(), features)
    return {"": projection.drawn(features, bundle.projection.seed or 0)}


def _regions(bundle: Bundle, features: int) -> dict[str, Region]:
    """Region of each kind that the bundle embeds."""
    return regions.load(bundle.region_file(), features) if bundle.regions else {}


def _levels(
    bundle: Bundle, features: int, projections: Mapping[str, projection.Projection]
) -> dict[str, LevelFinder]:
    """What finds places along the body, of the modality whose series the atlas is made of."""
    if bundle.levels is None:
        return {}
    project = projections["CT"] if "CT" in projections else projections[""]
    return {"CT": LevelFinder(levels.load(bundle.level_file(), features), project)}


def heights_mm(cuts: Sequence[Slab], grid: PatientGrid) -> NDArray[np.float64]:
    """Middles of slabs (N,), above the lower edge of the grid."""
    bottom = float(grid.origin_lps_mm[2] - grid.spacing_mm[0] / 2)
    return np.array([(cut.box_lps_mm[2] + cut.box_lps_mm[5]) / 2 - bottom for cut in cuts])


def _prepared(seen: Thinned, spec: InputSpec) -> NDArray[np.float32]:
    """Cut the grid to the body in-plane and scale its intensities."""
    voxels, body = seen.grid.voxels, seen.body
    if seen.grid.modality == "CT":
        low, high = spec.window_hu
    else:
        low, high = np.percentile(voxels[body], spec.percentiles)
    image = voxels[seen.window] - np.float32(low)
    image *= np.float32(1 / max(high - low, 1e-6))
    np.clip(image, 0.0, 1.0, out=image)
    if spec.standardise:
        shown = image[body[seen.window]]
        image = (image - shown.mean()) / max(float(shown.std()), 1e-6)
    return image
