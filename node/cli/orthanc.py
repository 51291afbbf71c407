"""`pacsimile orthanc sync`: fill the index from an Orthanc that has been there for long."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import typer

from config.errors import ConfigError
from config.model import Settings
from indexer.catalog import Catalog
from indexer.errors import Transient
from indexer.uids import EncoderId
from node import folder, logs
from node.cli.indexing import usable_encoder, work_off
from node.cli.output import console, errors, print_json, print_table, progress_bar
from node.describe import status_json
from node.orthanc.changes import ChangeReader
from node.orthanc.client import OrthancClient
from node.orthanc.takeover import Takeover, Tally
from node.storage import open_catalog, open_spool

_WATCH_S = 0.5
_FAILURES_IN_A_ROW = 3
"""After so many nothing more is tried: it is not the studies."""
_INTERRUPTED = 130


def sync(settings: Settings, *, index: bool, as_json: bool) -> None:
    """Take over what Orthanc has and the node has not, then index it unless a node runs on the data folder."""
    logs.configure_for_command(settings.log)
    if not settings.orthanc.url:
        raise ConfigError(["orthanc.url: name the address of Orthanc's REST API there, or give --url"])
    encoder_id = usable_encoder(settings) if index else EncoderId("")
    folder.prepare(settings.data_dir)
    with open_catalog(settings) as catalog, closing(OrthancClient(settings.orthanc)) as client:
        tally, failed = _take_over(settings, catalog, client)
        if index:
            work_off(settings, catalog, encoder_id)
        result = _result(catalog, client, tally, failed)
    if as_json:
        print_json(result)
    else:
        _print(result)
    if failed:
        raise typer.Exit(1)


def _take_over(settings: Settings, catalog: Catalog, client: OrthancClient) -> tuple[Tally, int]:
    """Take over every study; what became of those taken over here, and how many failed."""
    spool = open_spool(settings, catalog)
    takeover = Takeover(settings, catalog, spool, client, only_stable=False, stopping=threading.Event())
    try:
        with progress_bar() as bar:
            task = bar.add_task("asking Orthanc for its studies", total=None)
            ChangeReader(catalog.orthanc_studies, client).take_stock()
            stocked_at = time.time()

            def left() -> int:
                number = catalog.orthanc_studies.waiting(client.server, stocked_at)
                total = max(number, int(bar.tasks[task].total or 0))
                bar.update(task, description="taking over studies", total=total, completed=total - number)
                return number

            return _work(takeover, left)
    except KeyboardInterrupt:
        errors.print("interrupted; go on with the same command: what was taken over is not fetched again")
        raise typer.Exit(_INTERRUPTED) from None


def _work(takeover: Takeover, left: Callable[[], int]) -> tuple[Tally, int]:
    """Take over until only those that failed are left."""
    tally, failed, in_a_row = Tally(), 0, 0
    while left() > failed:
        try:
            done = takeover.work_one()
        except Transient as error:
            errors.print(str(error))
            failed, in_a_row = failed + 1, in_a_row + 1
            if in_a_row == _FAILURES_IN_A_ROW:
                raise
            continue
        if done is None:  # another process works on what is left
            time.sleep(_WATCH_S)
        else:
            tally.add(done)
            in_a_row = 0
    return tally, failed


def _result(catalog: Catalog, client: OrthancClient, tally: Tally, failed: int) -> dict[str, Any]:
    studies = catalog.orthanc_studies
    return {
        "studies": tally.studies,
        "failed": failed,
        "instances": dict(tally.verdicts),
        "refused": dict(tally.refused),
        "taken_over": studies.taken_over(client.server),
        "waiting": studies.waiting(client.server),
        "status": status_json(catalog),
    }


def _print(result: dict[str, Any]) -> None:
    counts = [f"{number} instances {verdict}" for verdict, number in result["instances"].items()]
    console.print(f"{result['studies']} studies taken over: {', '.join(counts) or 'nothing new'}")
    print_table("Refused", ("reason", "instances"), list(result["refused"].items()))
    if result["failed"]:
        errors.print(f"{result['failed']} studies failed; run it again later")
