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

from pydantic import Field, StringConstraints, ValidationError, model_validator

from config.errors import ConfigError
from indexer.network_specs import EfficientNetSpec, Positive, ResNetSpec, SwinSpec, Table
from indexer.uids import EncoderId

METHOD = 3
"""Of making embeddings: raised whenever a change of the code changes them, so that it is another encoder."""
EMBEDDING_DIM = 256
"""Length of every embedding."""


class Weights(Table):
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
    rename: dict[str, str] = Field(default={})
    ignore: tuple[str, ...] = ()
    seed: int = 0

    @model_validator(mode="after")
    def _complete(self) -> "Weights":
        if self.source != "random" and not (self.file and self.sha256):
            raise ValueError("weights need `file` and `sha256`")
        if self.source == "packages" and not self.packages:
            raise ValueError("weights from packages need `packages`")
        return self


class InputSpec(Table):
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


class Pooling(Table):
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


class Projection(Table):
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


class Regions(Table):
    """How compartments are embedded: a file beside the bundle."""

    file: Annotated[str, StringConstraints(min_length=1)]


class Findings(Table):
    """How compartments are embedded by what each of their places looks like: a file beside the bundle."""

    file: Annotated[str, StringConstraints(min_length=1)]


class Levels(Table):
    """How the place along the body is found, in CT: a file beside the bundle.

    Attributes
    ----------
    dome : bool
        Whether embeddings also say how far from the right dome of the diaphragm they lie.
    """

    dome: bool = True
    file: Annotated[str, StringConstraints(min_length=1)]


class Heads(Table):
    """How heads are told apart in MR: a file beside the bundle."""

    file: Annotated[str, StringConstraints(min_length=1)]


class Bundle(Table):
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
