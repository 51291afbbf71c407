"""`pacsimile backup`, `restore`: the archive to another place, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from config.model import Settings
from node import logs
from node.audit_subjects import demand_export
from node.backup import Outcome, back_up
from node.backup import restore as put_back
from node.cli.archive import existing_catalog
from node.cli.archive import verify as run_verify
from node.cli.output import console, errors, print_json, print_table, progress_bar

_MIB = 1 << 20


def backup(settings: Settings, target: Path, *, link: bool, as_json: bool) -> None:
    """Write a backup; exit status 1 where the archive has lost a file that should be in it."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog, progress_bar() as bar:
        demand_export(settings, catalog, target, ())

        def track(what: str, items: Sequence[str]) -> Iterable[str]:
            return bar.track(items, description=what)

        outcome = back_up(settings, catalog, target, link=link, track=track)
    if as_json:
        print_json({"folder": str(target.resolve()), **asdict(outcome)})
    else:
        console.print(f"{_described(outcome)} in {target.resolve()}. They are patient data.")
        print_table("Not in the backup", ("file", "why"), list(outcome.problems.items()))
    if outcome.problems:
        raise typer.Exit(1)


def restore(settings: Settings, source: Path, *, as_json: bool) -> None:
    """Put a backup in place, then verify it; exit status 1 where something does not agree."""
    logs.configure_for_command(settings.log)
    with progress_bar() as bar:
        outcome = put_back(settings, source, lambda what, items: bar.track(items, description=what))
    if not as_json:
        console.print(f"{_described(outcome)} restored to {settings.data_dir.resolve()}.")
    else:
        errors.print(f"{_described(outcome)} restored")
    run_verify(settings, repair=False, as_json=as_json)


def _described(outcome: Outcome) -> str:
    return f"{outcome.files} files ({outcome.bytes / _MIB:.1f} MiB)"
