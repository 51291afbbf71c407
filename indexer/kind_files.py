"""Files that hold, for each of some compartments, the same arrays: those of a dataclass."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.compartments import OF_MODALITY, Kind

Arrays = TypeVar("Arrays")
_KINDS = frozenset(kind for kinds in OF_MODALITY.values() for kind in kinds)


def save(path: Path, kinds: Mapping[Kind, Any]) -> None:
    """Write dataclasses of arrays, one a kind, to one file; matrices as float16."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for kind, one in sorted(kinds.items()):
        for part in fields(one):
            values = np.asarray(getattr(one, part.name))
            arrays[f"{kind}.{part.name}"] = values.astype(_kept(values))
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as file:  # numpy would append a suffix to a path that has none
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for `allow_pickle`
    unfinished.replace(path)


def load(path: Path, of: type[Arrays], what: str) -> dict[str, Arrays]:
    """Read what `save` wrote: kind to dataclass, numbers as float32.

    Raises
    ------
    ConfigError
        The file is missing or damaged, holds another dataclass or an unknown kind, or values that are not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            kinds = sorted({name.split(".")[0] for name in arrays})
            names = [part.name for part in fields(of)]  # type: ignore[arg-type]  # every dataclass has fields
            _check(f"{what} {path}", kinds, names, arrays.files)
            read = {kind: {name: _read(arrays[f"{kind}.{name}"]) for name in names} for kind in kinds}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ConfigError([f"{what} {path}: cannot be read: {error}"]) from error
    for kind, parts in read.items():
        if not all(np.isfinite(part).all() for part in parts.values() if part.dtype == np.float32):
            raise ConfigError([f"{what} {path}: {kind} holds values that are no embedding's"])
    return {kind: of(**parts) for kind, parts in read.items()}


def _check(file: str, kinds: Sequence[str], names: Sequence[str], held: Collection[str]) -> None:
    """Refuse a file of something else, and one that another version fitted."""
    if unknown := sorted({*kinds} - _KINDS):
        raise ConfigError([f"{file}: expected kinds of {', '.join(sorted(_KINDS))}, got {', '.join(unknown)}"])
    wanted = [f"{kind}.{name}" for kind in kinds for name in names]
    if missing := [one for one in wanted if one not in held]:
        why = "another version fitted it: fit it anew (`pacsimile fit --findings`)"
        raise ConfigError([f"{file}: lacks {', '.join(missing)}; {why}"])


def _kept(values: NDArray[np.generic]) -> np.dtype[np.generic]:
    if values.dtype.kind == "U":
        return values.dtype
    return np.dtype(np.float16 if values.ndim == 2 else np.float32)


def _read(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values if values.dtype.kind == "U" else values.astype(np.float32)
