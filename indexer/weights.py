"""The weights of a bundle: checked by their digest, read as tensors only, given the network's own names."""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from config.errors import ConfigError
from indexer.bundle import Bundle, Weights

_PROBLEMS_SHOWN = 5


def load_whole(network: nn.Module, bundle: Bundle) -> None:
    """Load a bundle's weights: every parameter of the network, from every entry that is selected.

    Raises
    ------
    ConfigError
        Weights are missing, are not those that the bundle names, or do not fit the network.
    """
    checkpoint = read_checkpoint(bundle.weight_files(), bundle.weights)
    state = select_state(checkpoint, bundle.weights)
    wanted = network.state_dict()
    problems = [f"missing {key}" for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems += [
        f"{key} holds values that are not finite" for key, value in state.items() if not value.isfinite().all()
    ]
    if problems:
        shown = "; ".join(problems[:_PROBLEMS_SHOWN])
        more = len(problems) - _PROBLEMS_SHOWN
        tail = f"; and {more} more" if more > 0 else ""
        raise ConfigError([f"bundle {bundle.name}: its weights do not fit its network: {shown}{tail}"])
    network.load_state_dict(state, strict=False)


def read_checkpoint(files: tuple[Path, ...], weights: Weights) -> Mapping[str, object]:
    """Join the files, check their SHA-256 and read them as tensors only (``weights_only``).

    Raises
    ------
    ConfigError
        The digest is another, the archive lacks the member, or the file holds more than tensors.
    """
    try:
        data = b"".join(file.read_bytes() for file in files)
    except OSError as error:
        raise ConfigError([f"weights {files[0]}: cannot be read: {error}"]) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != weights.sha256:
        raise ConfigError([f"weights {files[0]}: expected SHA-256 {weights.sha256}, got {digest}"])
    try:
        if weights.member:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(weights.member)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile each raise their own
        raise ConfigError([f"weights {files[0]}: not a checkpoint of tensors: {error}"]) from error
    if not isinstance(loaded, Mapping):
        raise ConfigError([f"weights {files[0]}: expected a mapping of tensors, got {type(loaded).__name__}"])
    return loaded


def select_state(checkpoint: Mapping[str, object], weights: Weights) -> dict[str, Tensor]:
    """Take from a checkpoint what the network loads, under the network's own names.

    Raises
    ------
    ConfigError
        The entry `weights.key` is missing or no state dict, or two entries get one name.
    """
    state = checkpoint.get(weights.key) if weights.key else checkpoint
    if not isinstance(state, Mapping):
        entries = ", ".join(sorted(map(str, checkpoint))[:_PROBLEMS_SHOWN])
        raise ConfigError([f"weights: expected a state dict in entry {weights.key!r}; the entries are {entries}"])
    found: dict[str, Tensor] = {}
    for name, value in _selected(state, weights):
        if name in found:
            raise ConfigError([f"weights: two entries become {name}"])
        found[name] = value
    if not found:
        entries = ", ".join(map(str, list(state)[:_PROBLEMS_SHOWN]))
        raise ConfigError([f"weights: no entry begins with {weights.prefix!r}; the entries are {entries}, …"])
    return found


def _selected(state: Mapping[str, object], weights: Weights) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        if not isinstance(value, Tensor) or not key.startswith(weights.prefix):
            continue
        name = key.removeprefix(weights.prefix)
        for old, new in weights.rename.items():
            name = name.replace(old, new)
        if not name.startswith(weights.ignore):
            yield name, value
