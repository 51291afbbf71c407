"""`pacsimile forget`: remove for good, after asking."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict

import typer

from config.model import Settings
from dicom_scp.forgetting import Forgetter
from indexer.catalog import Catalog
from indexer.catalog.tombstones import Removal
from indexer.errors import NotFound, Transient
from indexer.keeper import IndexKeeper
from indexer.uids import EncoderId
from indexer.vectors import milvus
from node import folder, logs
from node.audit import AuditTrail
from node.audit_subjects import at_the_command_line, deletion
from node.cli.archive import existing_catalog
from node.cli.output import console, errors, print_json
from node.forgetting import Eraser
from node.storage import open_spool
from node.together import MILVUS_KEEPER

_PATIENCE_S = 120.0
_POLL_S = 0.25


def forget(
    settings: Settings,
    uids: Sequence[str],
    patient_id: str | None,
    issuer: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove studies, series, instances or a patient, and wait until nothing of them is left."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        forgetter = Forgetter(settings.forgetting, catalog, open_spool(settings, catalog))
        targets = [target for uid in uids for target in forgetter.targets_of_uid(uid)]
        if patient_id is not None:
            targets += forgetter.targets_of_patient(patient_id, issuer)
        what = _described(forgetter.would_remove(targets))
        if not yes and not typer.confirm(f"Remove {what} for good?", err=True):
            raise typer.Exit(1)
        trail = AuditTrail(settings.audit, settings.data_dir, settings.dicom.aet)
        with deletion(trail, catalog.lookup, [at_the_command_line()], targets):
            removed = forgetter.forget(targets)
        is_complete = _erased(settings, catalog, forgetter)
    if as_json:
        print_json({**asdict(removed), "erased": is_complete})
    else:
        console.print(f"Removed {_described(removed)}.")
    if not is_complete:
        errors.print("Index snapshots or free pages of the database still hold some of it; a running node goes on.")
        raise typer.Exit(1)


def allow(settings: Settings, uids: Sequence[str], *, as_json: bool) -> None:
    """Let what was forgotten be stored again."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        lifted = [uid for uid in uids if catalog.tombstones.lift(uid)]
    if not lifted:
        raise NotFound("none of these was forgotten")
    if as_json:
        print_json({"allowed": lifted})
    else:
        console.print(f"{len(lifted)} of {len(uids)} may be stored again.")


def _erased(settings: Settings, catalog: Catalog, forgetter: Forgetter) -> bool:
    """Erase what is left, or wait until the running node has; whether all is done."""
    deadline = time.monotonic() + _PATIENCE_S
    while catalog.tombstones.erasures():
        try:
            with (
                folder.exclusively(settings.data_dir, folder.Holder(is_node=False, encoder_id=EncoderId(""))),
                _server_index(settings, catalog) as keeper,
            ):
                Eraser(settings, catalog, forgetter, keeper).work_off()
        except folder.InUse:
            pass  # whoever works there does it
        except Transient as error:
            errors.print(f"{error}; tried again")
        if time.monotonic() > deadline:
            return not catalog.tombstones.erasures()
        time.sleep(_POLL_S)
    return True


@contextmanager
def _server_index(settings: Settings, catalog: Catalog) -> Iterator[IndexKeeper | None]:
    """The index on a server that no node keeps: what is forgotten has to go from there as well."""
    active = catalog.embeddings.active_encoder()
    if settings.vectors.kind != milvus.KIND or active is None or not catalog.hold(MILVUS_KEEPER):
        yield None
        return
    with closing(IndexKeeper(catalog, settings.vectors, settings.snapshot_dir, active)) as keeper:
        yield keeper


def _described(removal: Removal) -> str:
    counts = {
        "study": removal.studies,
        "series": removal.series,
        "instance": removal.instances,
        "instance in quarantine": removal.quarantined,
    }
    plural = {"study": "studies", "series": "series", "instance": "instances"}
    parts = [
        f"{number} {name if number == 1 else plural.get(name, 'instances in quarantine')}"
        for name, number in counts.items()
        if number
    ]
    return ", ".join(parts) or "nothing"
