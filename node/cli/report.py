"""`pacsimile report`: an answer as a DICOM document of the study that was asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from config.errors import ConfigError
from config.model import Settings
from indexer.errors import Refused, Transient
from node import logs
from node.cli.archive import existing_catalog
from node.cli.ask import active_encoder, search_of, seed_of
from node.cli.output import console, print_json, print_problem
from node.reports import Report, Reports
from node.storage import open_spool


def report(
    settings: Settings, uid: str, limit: int, *, out: Path | None, send: Sequence[str], as_json: bool
) -> None:
    """Make a report, keep it, write it to a file, send it; exit status 1 where a peer did not take it."""
    logs.configure_for_command(settings.log)
    unknown = [aet for aet in send if not settings.can_file_to(aet)]
    if unknown:
        raise ConfigError([f"no peer has the AE title {aet}: name it in [[peers]]" for aet in unknown])
    with existing_catalog(settings) as catalog:
        active, seed = active_encoder(catalog), seed_of(catalog, uid)
        search = search_of(settings, catalog, active)
        reports = Reports(settings, catalog, open_spool(settings, catalog), search)
        made = reports.make(seed, limit)
        if out is not None:
            out.write_bytes(reports.part10(made.sop_instance_uid))
        problems = _send(reports, made, send)
    _print(made, out, [aet for aet in send if aet not in problems], problems, as_json=as_json)
    if problems:
        raise typer.Exit(1)


def _send(reports: Reports, made: Report, send: Sequence[str]) -> dict[str, str]:
    """Send to each peer; AE title to what was wrong."""
    problems = {}
    for aet in dict.fromkeys(send):
        try:
            reports.send(made.sop_instance_uid, aet)
        except (Refused, Transient) as error:
            problems[aet] = str(error)
    return problems


def _print(
    made: Report, out: Path | None, sent: Sequence[str], problems: Mapping[str, str], *, as_json: bool
) -> None:
    if as_json:
        print_json({**asdict(made), "file": out and str(out), "sent": sent, "problems": problems})
        return
    console.print(f"Report {made.sop_instance_uid}: {made.results} similar studies")
    if out is not None:
        console.print(f"written to {out}")
    if sent:
        console.print(f"sent to {', '.join(sent)}")
    for problem in problems.values():
        print_problem(problem)
