"""`pacsimile status`, `verify`: what the archive holds, and whether all of it agrees."""

from collections.abc import Sequence
from dataclasses import asdict

import typer

from config.model import Settings
from indexer.catalog import Catalog
from indexer.errors import NotFound
from node import folder, logs
from node.audit import AuditTrail
from node.audit_messages import index_changed
from node.audit_subjects import at_the_command_line
from node.cli.output import console, print_json, print_table, progress_bar
from node.describe import status_json
from node.storage import open_catalog
from node.verification import Finding, check, mend


def status(settings: Settings, *, as_json: bool) -> None:
    """Print what the catalog holds."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        holder = folder.holder(settings.data_dir)
        known = {"node_running": holder is not None and holder.is_node, **status_json(catalog)}
    if as_json:
        print_json(known)
        return
    lists = ("series_by_state", "deliveries", "delivery_problems", "parked", "quarantine", "orthanc")
    rows = [(name.replace("_", " "), value) for name, value in known.items() if name not in lists]
    print_table("Node", ("what", "value"), rows)
    print_table("Series", ("state", "number"), list(known["series_by_state"].items()))
    print_table("Deliveries", ("state", "number"), list(known["deliveries"].items()))
    print_table("Deliveries that did not arrive", ("rule", "target", "study", "state", "tries", "reason"), [
        (one["rule"], one["target"], one["study_instance_uid"], one["state"], one["attempts"], one["note"])
        for one in known["delivery_problems"]
    ])  # fmt: skip
    print_table("Parked series", ("series", "modality", "instances", "reason"), [
        (one["series_instance_uid"], one["modality"], one["instances"], one["reason"]) for one in known["parked"]
    ])  # fmt: skip
    print_table("In quarantine: instances of no series", ("reason", "instances"), [
        (one["reason"], one["instances"]) for one in known["quarantine"]
    ])  # fmt: skip
    print_table("Orthanc", ("studies taken over", "waiting"), [
        (one["taken_over"], one["waiting"]) for one in known["orthanc"]
    ])  # fmt: skip
    print_table("Not taken over from Orthanc so far, or not in full", ("its study", "tries", "reason"), [
        (one["public_id"], one["attempts"], one["note"]) for link in known["orthanc"] for one in link["problems"]
    ])  # fmt: skip


def verify(settings: Settings, *, repair: bool, as_json: bool) -> None:
    """Check the archive; exit status 1 where something is wrong and was not mended."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog, progress_bar() as bar:
        findings = list(check(settings, catalog, lambda what, items: bar.track(items, description=what)))
        if repair and findings:
            trail = AuditTrail(settings.audit, settings.data_dir, settings.dicom.aet)
            trail.add(index_changed(at_the_command_line(), f"{len(findings)} findings of verify are mended"))
            findings = mend(settings, catalog, findings)
    if as_json:
        print_json({"findings": [asdict(one) for one in findings]})
    else:
        _print_findings(findings, repair=repair)
    if any(not one.mended for one in findings):
        raise typer.Exit(1)


def _print_findings(findings: Sequence[Finding], *, repair: bool) -> None:
    if not findings:
        console.print("Every instance, embedding and index entry agrees.")
        return
    rows = [(one.what, one.where, "mended" if one.mended else one.advice) for one in findings]
    print_table("Found", ("what", "where", "what to do" if not repair else ""), rows)


def existing_catalog(settings: Settings) -> Catalog:
    """Open the catalog of a data folder that a node has used.

    Raises
    ------
    NotFound
        There is none.
    """
    if not settings.catalog.url and not (settings.data_dir / "catalog.sqlite").exists():
        raise NotFound(f"no node's data in {settings.data_dir}: give --data-dir, or send it something first")
    return open_catalog(settings)
