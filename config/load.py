"""Where settings come from: defaults < file < environment < command line, all problems reported at once."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.errors import ConfigError
from config.model import Settings

ENVIRONMENT_PREFIX = "PACSIMILE_"
CONFIG_FILE_VARIABLE = "PACSIMILE_CONFIG"

SECRET = frozenset(
    {
        "catalog.url",
        "vectors.milvus_uri",
        "rules.url",
        "http.tokens",
        "http.clients.sha256",
        "orthanc.url",
        "orthanc.password",
        "orthanc.token",
    }
)
"""Settings that are or may hold secrets: no message repeats them."""

Flat = dict[str, Any]
"""Dotted key (``dicom.port``) to value."""


def load_settings(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge every source and validate the result once.

    Parameters
    ----------
    file : Path, optional
        A TOML file; without it, the one that ``PACSIMILE_CONFIG`` in `environ` names, if any.
    environ : mapping, optional
        Environment variables; those that begin with ``PACSIMILE_`` are settings.
    overrides : mapping, optional
        Dotted key to value, from the command line; ``None`` values are left out.

    Raises
    ------
    ConfigError
        With every problem found in any source.
    """
    values, origin, problems = merged(file, environ, overrides)
    try:
        settings = Settings.model_validate(_nest(values))
    except ValidationError as error:
        problems += [_invalid(e, origin) for e in error.errors()]
    if problems:
        raise ConfigError(problems)
    return settings


def merged(
    file: Path | None, environ: Mapping[str, str] | None, overrides: Mapping[str, Any] | None
) -> tuple[Flat, dict[str, str], list[str]]:
    """Values by dotted key as the sources have them, where those that are no defaults come from, and problems.

    Parameters
    ----------
    file, environ, overrides
        As in `load_settings`.
    """
    environ = environ or {}
    if file is None and environ.get(CONFIG_FILE_VARIABLE):
        file = Path(environ[CONFIG_FILE_VARIABLE])
    problems: list[str] = []
    values = dict(_flatten(tomllib.loads(defaults_text())))
    known = list(values)
    origin: dict[str, str] = {}
    sources = [
        *_from_file(file, problems),
        *_from_environment(environ, values),
        *((k, v, "command line") for k, v in (overrides or {}).items() if v is not None),
    ]
    for key, value, source in sources:
        if key in values:
            values[key], origin[key] = value, source
        else:
            problems.append(_unknown(key, source, known))
    return values, origin, problems


def defaults_text() -> str:
    """Text of the commented defaults, every key with its meaning."""
    return resources.files("config").joinpath("defaults.toml").read_text(encoding="utf-8")


def without_secrets(settings: Settings) -> dict[str, Any]:
    """Describe settings as plain values for JSON; those that are or may hold secrets are left out."""
    shown: dict[str, Any] = _pruned(settings.model_dump(mode="json"), "")
    return shown


def _pruned(value: Any, prefix: str) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        return [_pruned(one, prefix) for one in value]
    if not isinstance(value, dict):
        return value
    keys = {name: f"{prefix}.{name}".lstrip(".") for name in value}
    return {name: _pruned(one, keys[name]) for name, one in value.items() if keys[name] not in SECRET}


def _from_file(file: Path | None, problems: list[str]) -> Iterator[tuple[str, Any, str]]:
    if file is None:
        return
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: cannot be read: {error}")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file}: not valid TOML: {error}")
    else:
        for key, value in _flatten(tables):
            yield key, value, str(file)


def _from_environment(environ: Mapping[str, str], defaults: Flat) -> Iterator[tuple[str, Any, str]]:
    variables = {variable_of(key): key for key in defaults}
    for name, value in environ.items():
        if name.startswith(ENVIRONMENT_PREFIX) and name != CONFIG_FILE_VARIABLE:
            key = variables.get(name)
            if key is None:
                yield name, value, "environment"
            elif isinstance(defaults[key], list):
                yield key, value.replace(",", " ").split(), name
            else:
                yield key, value, name


def variable_of(key: str) -> str:
    """Environment variable of a dotted key: ``dicom.port`` is ``PACSIMILE_DICOM_PORT``."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def _flatten(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nest(values: Flat) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *tables, name = key.split(".")
        branch = tree
        for table in tables:
            branch = branch.setdefault(table, {})
        branch[name] = value
    return tree


def _unknown(key: str, source: str, known: list[str]) -> str:
    names = [variable_of(k) for k in known] if source == "environment" else known
    near = difflib.get_close_matches(key, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key} ({source}): no such setting.{hint}"


def _invalid(error: Any, origin: Mapping[str, str]) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    key = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
    source = next((origin[known] for known in (key, key.split(".")[0]) if known in origin), "together")
    said = f"{key} ({source}): {error['msg'].removeprefix('Value error, ')}"
    hidden = key in SECRET or isinstance(error["input"], dict)
    return f"{said}." if hidden else f"{said}; got {error['input']!r}."
