"""The settings in force, for people to read: where each comes from, and nothing of what is secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.load import SECRET, merged
from config.model import Settings

MASK = "********"
"""What stands for a secret that is set."""


@dataclass(frozen=True)
class Effective:
    """One setting.

    Attributes
    ----------
    key : str
        Dotted: ``dicom.port``.
    value : Any
        As JSON has it, secrets masked.
    source : str
        A file, an environment variable, ``command line`` or ``default``.
    """

    key: str
    value: Any
    source: str


def effective(
    settings: Settings,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Effective]:
    """Every setting, in the order of the defaults; the other arguments are those it was loaded with."""
    values, origin, _ = merged(file, environ, overrides)
    shown = masked(settings)
    return [Effective(key, _at(shown, key), origin.get(key, "default")) for key in values]


def masked(settings: Settings) -> dict[str, Any]:
    """Settings as plain values for JSON; for those that are or may hold secrets, and are set, `MASK`."""
    found: dict[str, Any] = _masked(settings.model_dump(mode="json"), "")
    return found


def _masked(value: Any, key: str) -> Any:  # noqa: ANN401 - any JSON
    if key in SECRET:
        return [MASK for _ in value] if isinstance(value, list) else MASK if value else value
    if isinstance(value, dict):
        return {name: _masked(one, f"{key}.{name}".lstrip(".")) for name, one in value.items()}
    return [_masked(one, key) for one in value] if isinstance(value, list) else value


def _at(tree: Any, key: str) -> Any:  # noqa: ANN401 - any JSON
    for name in key.split("."):
        tree = tree[name]
    return tree
