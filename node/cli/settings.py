"""`pacsimile config check`: what is in force, where it comes from, and what of it is refused."""

import json
import os
from pathlib import Path

from config.effective import effective, masked
from config.errors import ConfigError
from config.exposure import findings
from config.model import Settings
from dicom_scp.tls import client_context, server_context
from indexer.bundle import read_bundle
from node.cli.options import settings_from
from node.cli.output import console, print_json, printable


def check(config: Path | None, *, as_json: bool) -> None:
    """Print the settings in force.

    Raises
    ------
    ConfigError
        They are not usable, or let strangers in, or files that they name cannot be used; with every problem.
    """
    settings = settings_from(config)
    shown = effective(settings, config, os.environ)
    if not as_json:
        for one in shown:
            console.print(printable(f"{one.key} = {json.dumps(one.value, ensure_ascii=False)}  # {one.source}"))
    problems = [*findings(settings), *_unusable(settings)]
    if problems:
        raise ConfigError(problems)
    bundle = read_bundle(settings.bundle)
    bundle.weight_files()
    if as_json:
        sources = {one.key: one.source for one in shown}
        print_json({"settings": masked(settings), "sources": sources, "encoder_id": bundle.encoder_id})
    else:
        console.print(f"The settings are usable. Encoder {bundle.encoder_id}.")


def _unusable(settings: Settings) -> list[str]:
    """What is wrong with the files of TLS."""
    try:
        server_context(settings.dicom.tls)
        for peer in settings.peers:
            client_context(settings.dicom.tls, peer)
    except ConfigError as error:
        return error.problems
    return []
