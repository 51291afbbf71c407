"""Encoder bundles: a small file that says all there is to know of an encoder, and whose digest names it.

Reading a bundle needs no network library: a node knows its encoder's id, and whether the weights are at hand,
before anything large is loaded.
"""

import hashlib
import importlib.util
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from config.errors import ConfigError
from indexer.uids import EncoderId

METHOD = 2
"""Of making embeddings: raised whenever a change of the code changes them, so that it is another encoder."""
EMBEDDING_DIM = 256
"""Length of every embedding."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sizes3 = tuple[int, int, int]
Sizes4 = tuple[int, int, int, int]
Axes = Literal["zxy", "zyx", "xyz", "xzy", "yxz", "yzx"]
LAYERS = ("layer1", "layer2", "layer3", "layer4")
"""Names of the layers that features are taken from, the finest first."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResNetSpec(_Table):
    """Arguments of ``monai.networks.nets.resnet.ResNet``.

    Attributes
    ----------
    axes : str
        Order of the patient's axes in the network's tensor; x grows to the right, y to the anterior, z to the
        superior (RAS). Sizes and strides of the first convolution are in this order.
    dilation : tuple of int
        Of the 3 x 3 x 3 convolutions of each layer; a layer of more than 1 does not stride.
    """

    kind: Literal["resnet"]
    axes: Axes = "zxy"
    block: Literal["basic", "bottleneck"]
    layers: Sizes4
    planes: Sizes4
    input_channels: int
    conv1_size: Sizes3
    conv1_stride: Sizes3
    shortcut: Literal["A", "B"] = "B"
    bias_downsample: bool
    dilation: Sizes4 = (1, 1, 1, 1)

    @model_validator(mode="after")
    def _centred(self) -> "ResNetSpec":
        if any(size % 2 == 0 for size in self.conv1_size):
            raise ValueError(
                f"conv1_size must be odd, so that features are centred on voxels; got {self.conv1_size}"
            )
        return self

    def stride(self, layer: str) -> Sizes3:
        """Voxels from one feature to the next, in the order of the network's axes."""
        halving = sum(one == 1 for one in self.dilation[1 : LAYERS.index(layer) + 1])
        z, x, y = (step * 2 ** (1 + halving) for step in self.conv1_stride)
        return z, x, y


class SwinSpec(_Table):
    """Arguments of ``monai.networks.nets.swin_unetr.SwinTransformer``; `axes` as in `ResNetSpec`."""

    kind: Literal["swin"]
    axes: Axes = "xyz"
    input_channels: int
    embed_dim: int
    window_size: int
    depths: Sizes4
    heads: Sizes4
    use_v2: bool = False

    def stride(self, layer: str) -> Sizes3:
        """Voxels from one feature to the next, in the order of the network's axes."""
        side = 2 ** (LAYERS.index(layer) + 2)
        return side, side, side


class EfficientNetSpec(_Table):
    """Arguments of ``monai.networks.nets.EfficientNet`` in two dimensions, run on axial slices.

    A slice has the patient's anterior at the top. Layers 1 to 4 end where one feature stands for 4, 8, 16 and 32
    pixels each way.

    Attributes
    ----------
    blocks : tuple of str
        As MONAI writes them: repeats, kernel, strides, expansion, channels in and out.
    activation : str
        ``swish``, or ``relu6`` as the lite variants have it.
    mean, deviation : float
        Subtracted from, then dividing, intensities of 0 to 1.
    """

    kind: Literal["efficientnet"]
    blocks: tuple[str, ...]
    input_channels: int = 3
    activation: Literal["swish", "relu6"] = "swish"
    mean: float
    deviation: Positive


class Weights(_Table):
    """Where the weights come from; a file or its shards are checked by SHA-256 before they are read.

    Attributes
    ----------
    packages, file
        ``packages``: the shards are the files of this name in installed packages, joined in order;
        ``file``: a path, relative to the bundle file.
    key : str
        Entry of the checkpoint that holds the state dict; empty: the checkpoint itself.
    member : str
        Path of the checkpoint inside a zip archive (a MONAI bundle); empty: the file is the checkpoint.
    prefix : str
        Only entries of the state dict that begin so are used, without it.
    rename : dict
        Part of a key to what the network calls it.
    ignore : list of str
        Beginnings of keys (after prefix and renaming) that the encoder has no use for.
    """

    source: Literal["packages", "file", "random"]
    packages: tuple[str, ...] = ()
    file: str = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    install: str = ""
    member: str = ""
    key: str = ""
    prefix: str = ""
    rename: dict[str, str] = {}
    ignore: tuple[str, ...] = ()
    seed: int = 0

    @model_validator(mode="after")
    def _complete(self) -> "Weights":
        if self.source != "random" and not (self.file and self.sha256):
            raise ValueError("weights need `file` and `sha256`")
        if self.source == "packages" and not self.packages:
            raise ValueError("weights from packages need `packages`")
        return self


class InputSpec(_Table):
    """What the network sees.

    Attributes
    ----------
    spacing_mm : tuple of float
        Along z, x, y.
    window_hu, percentiles : tuple of float
        What becomes 0 and 1: in CT these values, in MR these percentiles of the body.
    standardise : bool
        Then subtract the body's mean and divide by its standard deviation.
    """

    spacing_mm: tuple[Positive, Positive, Positive]
    window_hu: tuple[float, float]
    percentiles: tuple[float, float]
    standardise: bool = False

    @model_validator(mode="after")
    def _rising(self) -> "InputSpec":
        if not self.window_hu[0] < self.window_hu[1]:
            raise ValueError(f"window_hu must rise; got {self.window_hu}")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles must rise within 0 and 100; got {self.percentiles}")
        return self


class Pooling(_Table):
    """Which features, pooled over how much of the body along z.

    Attributes
    ----------
    finer : str
        A layer before `layer` whose features are kept beside it for regional embeddings; empty: none.
    """

    layer: Literal["layer1", "layer2", "layer3", "layer4"]
    finer: Literal["", "layer1", "layer2", "layer3"] = ""
    chunk_mm: Positive
    step_mm: Positive

    @model_validator(mode="after")
    def _before(self) -> "Pooling":
        if self.finer >= self.layer:
            raise ValueError(f"finer must be a layer before {self.layer}, got {self.finer}")
        return self


class Projection(_Table):
    """From pooled features to the embedding: a file beside the bundle, or a matrix drawn from a seed.

    Attributes
    ----------
    acquisitions : int
        When it is fitted, each MR volume is changed so many times, as other sequences and coils might have shown
        it; directions along which that moves the features are evened out.
    """

    file: str = ""
    seed: int | None = None
    acquisitions: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one(self) -> "Projection":
        if bool(self.file) == (self.seed is not None):
            raise ValueError("a projection needs either `file` or `seed`")
        return self


class Regions(_Table):
    """How compartments are embedded: a file beside the bundle."""

    file: Annotated[str, StringConstraints(min_length=1)]


class Findings(_Table):
    """How compartments are embedded by what each of their places looks like: a file beside the bundle."""

    file: Annotated[str, StringConstraints(min_length=1)]


class Levels(_Table):
    """How the place along the body is found, in CT: a file beside the bundle.

    Attributes
    ----------
    dome : bool
        Whether embeddings also say how far from the right dome of the diaphragm they lie.
    """

    dome: bool = True
    file: Annotated[str, StringConstraints(min_length=1)]


class Heads(_Table):
    """How heads are told apart in MR: a file beside the bundle."""

    file: Annotated[str, StringConstraints(min_length=1)]


class Bundle(_Table):
    """An encoder, described completely.

    Attributes
    ----------
    modalities : dict
        Bundles that embed these modalities in this one's stead.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]
    network: ResNetSpec | SwinSpec | EfficientNetSpec = Field(discriminator="kind")
    weights: Weights
    input: InputSpec
    pooling: Pooling
    projection: Projection
    regions: Regions | None = None
    findings: Findings | None = None
    levels: Levels | None = None
    heads: Heads | None = None
    modalities: dict[Literal["CT", "MR"], "Bundle"] = Field(default={}, exclude=True)
    folder: Path = Field(exclude=True)

    @property
    def has_dome(self) -> bool:
        """Whether embeddings say how far from the right dome of the diaphragm they lie."""
        return self.levels is not None and self.levels.dome

    @property
    def encoder_id(self) -> EncoderId:
        """Name and digest of everything that decides the embeddings; fits VR LO."""
        elsewhere = {
            "weights": {"install", "source", "packages", "file"}
        }  # where they lie: `sha256` says what they are
        digest = hashlib.sha256(self.model_dump_json(exclude=elsewhere).encode())
        digest.update(f"method {METHOD}".encode())
        for file in self._fitted_files():
            digest.update(file.read_bytes())
        for modality, other in sorted(self.modalities.items()):
            digest.update(f"{modality}: {other.encoder_id}".encode())
        return EncoderId(f"{self.name}-{digest.hexdigest()[:16]}")

    def _fitted_files(self) -> Iterator[Path]:
        if self.projection.file:
            yield self.projection_file()
        if self.regions:
            yield self.region_file()
        if self.findings:
            yield self.finding_file()
        if self.levels:
            yield self.level_file()
        if self.heads:
            yield self.head_file()

    def projection_file(self) -> Path:
        """File of the projection; these raise ConfigError where the bundle names none, or it is missing."""
        return self._present(self.projection.file, "projection", "fit one with `pacsimile fit`")

    def region_file(self) -> Path:
        """File of what compartments are embedded with."""
        return self._present(
            self.regions.file if self.regions else "", "regions", "fit them with `pacsimile fit --findings`"
        )

    def finding_file(self) -> Path:
        """File of what findings are told by, place by place."""
        return self._present(
            self.findings.file if self.findings else "", "findings", "fit them with `pacsimile fit --findings`"
        )

    def level_file(self) -> Path:
        """File of what places along the body look like."""
        return self._present(
            self.levels.file if self.levels else "", "levels", "fit them with `pacsimile fit --landmarks`"
        )

    def head_file(self) -> Path:
        """File of heads that others are laid on."""
        return self._present(
            self.heads.file if self.heads else "", "heads", "fit them with `pacsimile fit --heads`"
        )

    def _present(self, file: str, what: str, remedy: str) -> Path:
        path = self.folder / file
        if not path.is_file():
            raise ConfigError([f"bundle {self.name}: no {what} at {path}; {remedy}"])
        return path

    def weight_files(self) -> tuple[Path, ...]:
        """Files that hold the network's own weights, in order; empty for random weights.

        Raises
        ------
        ConfigError
            Naming what is missing and how to get it, also for the bundles of other modalities.
        """
        for other in self.modalities.values():
            other.weight_files()
        if self.weights.source == "random":
            return ()
        files = tuple(self._files())
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise ConfigError([f"bundle {self.name}: no weights at {', '.join(missing)}"])
        return files

    def _files(self) -> Iterator[Path]:
        if self.weights.source == "file":
            yield self.folder / self.weights.file
            return
        for package in self.weights.packages:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                hint = f"; install them: {self.weights.install}" if self.weights.install else ""
                raise ConfigError(
                    [f"bundle {self.name}: its weights are not installed (no package {package}){hint}"]
                )
            yield Path(spec.origin).parent / self.weights.file


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the node."""
    folder = Path(str(resources.files("indexer") / "bundles"))
    return sorted(file.stem for file in folder.glob("*.toml"))


def read_bundle(name_or_path: str, *, alone: bool = False) -> Bundle:
    """Read a shipped bundle by name, or one's own by the path of its file.

    Parameters
    ----------
    alone : bool
        Refuse one that leaves a modality to another bundle.

    Raises
    ------
    ConfigError
        With every problem of the file.
    """
    if name_or_path in shipped_bundles():
        path = Path(str(resources.files("indexer") / "bundles" / f"{name_or_path}.toml"))
    else:
        path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(shipped_bundles())
        raise ConfigError([f"bundle {name_or_path}: neither a shipped bundle ({known}) nor a file"])
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        others = table.pop("modalities", {})
        if not (isinstance(others, dict) and all(isinstance(other, str) for other in others.values())):
            raise ConfigError([f"{path}: modalities: expected a table of modality to bundle"])
        if others and alone:
            raise ConfigError([f"{path}: modalities: a bundle for one modality leaves none to another"])
        modalities = {modality: read_bundle(_beside(path, other), alone=True) for modality, other in others.items()}
        return Bundle.model_validate({**table, "modalities": modalities, "folder": path.parent})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read as TOML: {error}"]) from error
    except ValidationError as error:
        raise ConfigError(
            [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        ) from error


def _beside(path: Path, other: str) -> str:
    """Name of a shipped bundle, or path of a bundle relative to the file that names it."""
    return other if other in shipped_bundles() else str(path.parent / other)
