"""`pacsimile ingest`, `reindex`: what makes a node's series go through its encoder."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from config.errors import ConfigError
from config.model import Settings
from dicom_scp.reception import Receiver, Verdict
from indexer.bundle import read_bundle
from indexer.catalog import Catalog
from indexer.errors import Refused
from indexer.uids import EncoderId, StudyInstanceUID
from node import folder, logs
from node.audit import AuditTrail
from node.audit_messages import index_changed
from node.audit_subjects import at_the_command_line
from node.cli.archive import existing_catalog
from node.cli.output import console, errors, print_json, print_table, progress_bar
from node.describe import status_json
from node.storage import open_catalog, open_spool
from node.worker import limit_memory, make_pipeline

_WATCH_S = 0.5
_SHOWN_REFUSALS = 20
_INTERRUPTED = 130


def ingest(settings: Settings, paths: Sequence[Path], *, index: bool, as_json: bool) -> None:
    """Take files in, then index them unless a node runs on the data folder."""
    logs.configure_for_command(settings.log)
    encoder_id = usable_encoder(settings) if index else EncoderId("")
    folder.prepare(settings.data_dir)
    refused: dict[str, str] = {}
    files = sorted({file for one in paths for file in _files(one, refused)})
    with open_catalog(settings) as catalog:
        verdicts = _take_in(settings, catalog, files, refused)
        if index:
            work_off(settings, catalog, encoder_id)
        result = {"files": len(files), **verdicts, "refused": refused, "status": status_json(catalog)}
    if as_json:
        print_json(result)
        return
    console.print(", ".join(f"{n} {verdict}" for verdict, n in verdicts.items() if n) or "nothing taken in")
    print_table("Refused", ("file", "reason"), list(refused.items())[:_SHOWN_REFUSALS])
    if len(refused) > _SHOWN_REFUSALS:
        console.print(f"… and {len(refused) - _SHOWN_REFUSALS} more (--json lists all)")


def reindex(settings: Settings, *, study: str | None, parked: bool, resume: bool, as_json: bool) -> None:
    """Send series through indexing again and watch, or do it here where no node runs."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        encoder_id = usable_encoder(settings)
        _demand_same_encoder(settings, encoder_id)
        trail = AuditTrail(settings.audit, settings.data_dir, settings.dicom.aet)
        trail.add(
            index_changed(at_the_command_line(), f"{study or 'the archive'} is embedded again by {encoder_id}")
        )
        if not resume:
            uid = StudyInstanceUID(study) if study else None
            number = catalog.progress.settle_again(uid, parked_only=parked)
            errors.print(f"{number} series to embed again")
            if given_up := catalog.holdings.released_series():
                errors.print(f"not those whose files were given up (storage.keep): {given_up} series in all")
        work_off(settings, catalog, encoder_id)
        known = status_json(catalog)
    if as_json:
        print_json(known)
    else:
        console.print(", ".join(f"{number} {state}" for state, number in known["series_by_state"].items()))


def _take_in(
    settings: Settings, catalog: Catalog, files: Sequence[Path], refused: dict[str, str]
) -> dict[str, int]:
    """Receive files; how often each verdict was given."""
    receiver = Receiver(catalog, open_spool(settings, catalog), settings.storage.on_conflict)
    verdicts: Counter[str] = Counter()
    limit_mib = settings.dicom.max_object_mib
    with progress_bar() as bar:
        for file in bar.track(files, description="taking in"):
            try:
                if _size_bytes(file) > limit_mib << 20:
                    raise Refused(f"the file is larger than dicom.max_object_mib allows ({limit_mib} MiB)")
                verdicts[receiver.take_file(file).verdict.value] += 1
            except Refused as error:
                refused[str(file)] = str(error)
    return {verdict.value: verdicts[verdict.value] for verdict in Verdict}


def _files(path: Path, refused: dict[str, str]) -> Iterator[Path]:
    """Find the regular files at or below a path; a folder that cannot be listed is refused by name."""

    def unlistable(error: OSError) -> None:
        refused[str(error.filename)] = f"the folder cannot be listed: {error.strerror}"

    if path.is_file():
        yield path
    elif path.is_dir():
        for parent, _, names in os.walk(path, onerror=unlistable):
            yield from (file for name in names if (file := Path(parent, name)).is_file())
    else:
        raise typer.BadParameter(f"{path}: no such file or folder")


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise Refused(f"the file cannot be read: {error.strerror}") from error


def usable_encoder(settings: Settings) -> EncoderId:
    """Name the encoder, before anything is done, if its weights are at hand."""
    bundle = read_bundle(settings.bundle)
    bundle.weight_files()
    return bundle.encoder_id


def _demand_same_encoder(settings: Settings, encoder_id: EncoderId) -> None:
    holder = folder.holder(settings.data_dir)
    if holder is not None and holder.encoder_id not in ("", encoder_id):
        raise ConfigError(
            [
                f"the process that works on {settings.data_dir} embeds with {holder.encoder_id}, not {encoder_id}: "
                "stop it first, or start the node with that bundle"
            ]
        )


def work_off(settings: Settings, catalog: Catalog, encoder_id: EncoderId) -> None:
    """Index what waits, here; where a node or another command does, watch until all is done or it has gone."""
    me = folder.Holder(is_node=False, encoder_id=encoder_id)
    while True:
        try:
            with folder.exclusively(settings.data_dir, me):
                _index_here(settings, catalog)
                return
        except folder.InUse as error:
            errors.print(f"{error}, and indexes with {error.holder.encoder_id}; this only watches")
            if _watch(settings, catalog):
                return


def _index_here(settings: Settings, catalog: Catalog) -> None:
    indexing, name = settings.indexing, folder.worker_name(settings.data_dir)
    catalog.progress.release(name, indexing.max_attempts, blame=False)
    catalog.progress.settle(0.0)
    limit_memory(indexing.memory_limit_mib)
    pipeline = make_pipeline(settings, catalog)
    if catalog.embeddings.active_encoder() is None:
        pipeline.embed_again()
    try:
        with progress_bar() as bar:
            task = bar.add_task("indexing", total=catalog.progress.outstanding())
            while pipeline.work_one() is not None:
                done = bar.tasks[task].completed + 1
                bar.update(task, completed=done, total=done + catalog.progress.outstanding())
            other = bar.add_task("embedding with the new encoder", total=None, visible=False)
            while pipeline.embed_again() is not None:
                bar.update(other, advance=1, visible=True)
    except KeyboardInterrupt:
        catalog.progress.release(name, indexing.max_attempts, blame=False)
        errors.print("interrupted; go on with: pacsimile reindex --resume, and the same --data-dir and --bundle")
        raise typer.Exit(_INTERRUPTED) from None


def _watch(settings: Settings, catalog: Catalog) -> bool:
    """Watch another process index; whether all is done, else that process has gone."""
    with progress_bar() as bar:
        total = catalog.progress.outstanding()
        task = bar.add_task("indexing", total=total)
        while left := catalog.progress.outstanding():
            total = max(total, left)
            bar.update(task, completed=total - left, total=total)
            if folder.holder(settings.data_dir) is None:
                return False
            time.sleep(_WATCH_S)
        bar.update(task, completed=total)
    return True
