"""`pacsimile export --de-identified`: copies of studies that do not say whom they are of."""

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from config.errors import ConfigError
from config.model import Settings
from indexer.deidentification.profile import Options
from indexer.deidentification.pseudonyms import SECRET_BYTES, Pseudonyms
from node import logs
from node.audit_subjects import demand_export
from node.cli.archive import existing_catalog
from node.cli.output import console, print_json, print_table, progress_bar
from node.deidentified import export
from node.storage import open_spool


def export_deidentified(
    settings: Settings,
    studies: Sequence[str],
    target: Path,
    *,
    secret_file: Path | None,
    keep_characteristics: bool,
    as_json: bool,
) -> None:
    """Write de-identified copies of studies; exit status 1 where instances were left out."""
    logs.configure_for_command(settings.log)
    pseudonyms = Pseudonyms(_secret(secret_file))
    options = Options(keep_patient_characteristics=keep_characteristics)
    with existing_catalog(settings) as catalog, progress_bar() as bar:
        demand_export(settings, catalog, target, studies)
        outcome = export(
            catalog,
            open_spool(settings, catalog),
            studies,
            target,
            pseudonyms,
            options,
            lambda what, items: bar.track(items, description=what),
        )
    if as_json:
        print_json(
            {
                "folder": str(target.resolve()),
                "patients": len(outcome.patients),
                "instances": outcome.instances,
                "left_out": dict(outcome.left_out),
            }
        )
    else:
        console.print(f"{outcome.instances} instances of {len(outcome.patients)} patients in {target.resolve()}.")
        print_table("Left out", ("reason", "instances"), outcome.left_out.most_common())
    if outcome.left_out:
        raise typer.Exit(1)


def _secret(file: Path | None) -> bytes:
    """The secret of a file, which is made if it is missing; without a file one that nobody keeps."""
    if file is None:
        return os.urandom(SECRET_BYTES)
    try:
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as opened:  # noqa: PTH123 - a descriptor
                opened.write(os.urandom(SECRET_BYTES).hex().encode())
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError([f"--secret-file {file}: cannot be used: {error.strerror}"]) from error
    if len(secret) < SECRET_BYTES:
        raise ConfigError([f"--secret-file {file}: expected {SECRET_BYTES} bytes or more, got {len(secret)}"])
    return secret
