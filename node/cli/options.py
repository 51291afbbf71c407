"""Options that several commands share, and the settings they make."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from config.load import load_settings
from config.model import Settings

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the node: catalog, stored instances, index.", show_default=False)
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).", show_default=False)]
BundleName = Annotated[
    str | None,
    typer.Option("--bundle", help="Encoder: a shipped bundle or the path of a bundle file.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def settings_from(config: Path | None, **overrides: Any) -> Settings:  # noqa: ANN401 - any setting's value
    """Load settings from the file, the environment and a command's options.

    Parameters
    ----------
    overrides
        Setting with ``__`` for the dot: ``dicom__port=11112``; None where the option was not given.

    Raises
    ------
    config.errors.ConfigError
        With every problem.
    """
    given = {name.replace("__", "."): _plain(value) for name, value in overrides.items()}
    return load_settings(config, os.environ, given)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any setting's value
    return str(value) if isinstance(value, Path) else value
