"""The commands and their help. What does the work is imported when a command runs: torch takes seconds to load."""

import secrets
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from config.web import Scope
from node.cli.encryption import app as encryption_app
from node.cli.options import AsJson, BundleName, ConfigFile, DataDir, settings_from
from node.processes import interrupt_ends

app = typer.Typer(
    name="pacsimile",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A PACS node that finds studies like this one. Not for diagnosis.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at the settings.")
app.add_typer(config_app, name="config")
orthanc_app = typer.Typer(no_args_is_help=True, help="Work with the Orthanc beside the node.")
app.add_typer(orthanc_app, name="orthanc")
app.add_typer(encryption_app, name="encryption")


@app.command()
def serve(
    data_dir: DataDir = None,
    dicom_port: Annotated[int | None, typer.Option(help="DICOM port.", show_default=False)] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port.", show_default=False)] = None,
    bundle: BundleName = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="receive, work, query; repeatable. Default: all.", show_default=False),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Receive studies, index them, and answer queries until Ctrl-C or SIGTERM.

    Send with any DICOM sender to AE title PACSIMILE; ask by C-FIND at AE title SIMILAR. Every option is also a
    setting ([cyan]pacsimile config defaults[/cyan]) and an environment variable (PACSIMILE_DICOM_PORT). Nodes
    with one PostgreSQL catalog may share the work by --role (docs/scaling.md).
    """
    with interrupt_ends():
        from node.cli.serve import run

    roles = None if not role else ["receive", "work", "query"] if "all" in role else role
    faces = {"dicom__port": dicom_port, "http__port": http_port}
    run(settings_from(config, data_dir=data_dir, bundle=bundle, roles=roles, **faces))


@app.command()
def ingest(
    folders: Annotated[list[Path], typer.Argument(help="Folders or files; folders are searched below.")],
    data_dir: DataDir = None,
    bundle: BundleName = None,
    config: ConfigFile = None,
    index: Annotated[bool, typer.Option(help="Index what was taken in, unless a node that runs will.")] = True,
    json: AsJson = False,
) -> None:
    """Take DICOM files in from disk, as if they had been sent, and index them."""
    from node.cli.indexing import ingest as run

    run(settings_from(config, data_dir=data_dir, bundle=bundle), folders, index=index, as_json=json)


@app.command()
def similar(
    uid: Annotated[str, typer.Argument(help="Study, Series or SOP Instance UID that the node holds.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many studies.")] = 10,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Print the studies that look like one: analogues best first, then the patient's own."""
    from node.cli.ask import similar as run

    run(settings_from(config, data_dir=data_dir), uid, limit, as_json=json)


@app.command()
def report(
    uid: Annotated[str, typer.Argument(help="Study, Series or SOP Instance UID that the node holds.")],
    out: Annotated[Path | None, typer.Option(help="Also write it to this DICOM file.", show_default=False)] = None,
    send: Annotated[
        list[str] | None, typer.Option(help="Send it to this AE title, one of the peers; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many studies.")] = 20,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Write down the studies that look like one, as a DICOM SR of the study that was asked about.

    The node keeps it in that study. It names what was found by UIDs only. Not for diagnosis.
    """
    from node.cli.report import report as run

    run(settings_from(config, data_dir=data_dir), uid, limit, out=out, send=send or [], as_json=json)


@app.command()
def priors(
    uid: Annotated[str, typer.Argument(help="Study Instance UID that the node holds.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many studies.")] = 10,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Print the patient's other studies, newest first, and where they show the same levels."""
    from node.cli.priors import priors as run

    run(settings_from(config, data_dir=data_dir), uid, limit, as_json=json)


@app.command()
def forget(
    uids: Annotated[list[str] | None, typer.Argument(help="Study, Series or SOP Instance UIDs.")] = None,
    patient: Annotated[str | None, typer.Option(help="A Patient ID: all studies.", show_default=False)] = None,
    issuer: Annotated[str | None, typer.Option(help="Issuer of that Patient ID.", show_default=False)] = None,
    allow: Annotated[bool, typer.Option("--allow", help="Let what was forgotten be stored again.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Remove studies, series, instances or a patient for good: files, embeddings, index, database.

    Backups and logs are not touched. A node may run meanwhile.
    """
    from node.cli.forget import allow as run_allow
    from node.cli.forget import forget as run

    if not uids and (patient is None or allow):
        raise typer.BadParameter("give UIDs, or --patient ID")
    settings = settings_from(config, data_dir=data_dir)
    if allow:
        run_allow(settings, uids or [], as_json=json)
    else:
        run(settings, uids or [], patient, issuer, yes=yes, as_json=json)


@app.command()
def status(data_dir: DataDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """Print what the node holds, where every series stands, and why some are parked."""
    from node.cli.archive import status as run

    run(settings_from(config, data_dir=data_dir), as_json=json)


@app.command()
def reindex(
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every series.")] = False,
    parked: Annotated[bool, typer.Option("--parked", help="Only series that are parked.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a re-index stopped.")] = False,
    data_dir: DataDir = None,
    bundle: BundleName = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Embed series again; with another --bundle, beside the old embeddings, which answer until all is done.

    Interrupt it at any time and go on with --resume.
    """
    from node.cli.indexing import reindex as run

    chosen = [bool(study), everything, parked, resume]
    if sum(chosen) != 1:
        raise typer.BadParameter("give one of --study UID, --all, --parked, --resume")
    run(
        settings_from(config, data_dir=data_dir, bundle=bundle),
        study=study,
        parked=parked,
        resume=resume,
        as_json=json,
    )


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Check that every instance, embedding and index entry agrees; exit status 1 where something does not."""
    from node.cli.archive import verify as run

    run(settings_from(config, data_dir=data_dir), repair=repair, as_json=json)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Empty or new folder for the backup.")],
    link: Annotated[
        bool, typer.Option("--link", help="Link files instead of copying, to be copied elsewhere at once.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Copy catalog, stored instances and settings; a node may run meanwhile. See docs/backup.md.

    Backups are patient data: keep them as such. They hold no secrets of the settings.
    """
    from node.cli.backup import backup as run

    run(settings_from(config, data_dir=data_dir), folder, link=link, as_json=json)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Put a backup into an empty data folder, every byte compared, and verify it."""
    from node.cli.backup import restore as run

    run(settings_from(config, data_dir=data_dir), folder, as_json=json)


@app.command()
def export(
    studies: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs to de-identify.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write the embeddings to (.npz).", show_default=False)
    ] = None,
    de_identified: Annotated[
        Path | None, typer.Option(help="Folder for de-identified copies of the studies.", show_default=False)
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="The same pseudonyms as with this file before; made if missing.", show_default=False),
    ] = None,
    keep_characteristics: Annotated[
        bool, typer.Option("--keep-characteristics", help="Keep sex, age, size, weight.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Write the embeddings to a NumPy file (--out), or de-identified copies of studies to a folder.

    Embeddings are patient data: treat them so. Arrays: study_uid, series_uid, modality, kind (text), box_lps_mm
    (N×6: x0 y0 z0 x1 y1 z1), embedding (N×256 float32), encoder_id. What --de-identified does: docs/export.md.
    """
    settings = settings_from(config, data_dir=data_dir)
    if (out is None) == (de_identified is None) or bool(studies) != (de_identified is not None):
        raise typer.BadParameter("give --out FILE, or --de-identified DIR and Study Instance UIDs")
    if de_identified is None and out is not None:
        from node.cli.ask import export as run

        run(settings, out, as_json=json)
    elif de_identified is not None:
        from node.cli.deidentified import export_deidentified

        export_deidentified(
            settings,
            studies or [],
            de_identified,
            secret_file=secret_file,
            keep_characteristics=keep_characteristics,
            as_json=json,
        )


@app.command()
def evaluate(
    labels: Annotated[
        Path, typer.Option("--labels", "--levels", help="Table of labels (TSV, CSV); see docs/evaluation.md.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of one folder a series, embedded now; by default `dicom` beside the table if that has "
            "the series it names, else what the node holds.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the label; by default the last one.", show_default=False)
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Compare hierarchical labels to this branch.", show_default=False)
    ] = None,
    within_modality: Annotated[bool, typer.Option(help="CT among CT, MR among MR, as the node answers.")] = True,
    baselines: Annotated[bool, typer.Option(help="Compare with ways that need no training (folder only).")] = True,
    html: Annotated[
        Path | None, typer.Option(help="Write the report here as one page.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    bundle: BundleName = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Measure how well labelled studies find others of their label, among other patients only.

    A labels table has a column `series` (UID or folder name) or `study`, and a column of labels. The result stands
    beside chance and plain baselines, with confidence intervals over patients.
    """
    from node.cli.quality import evaluate as run

    settings = settings_from(config, data_dir=data_dir, bundle=bundle)
    plan = {"within_modality": within_modality, "baselines": baselines}
    run(settings, labels, data, label=label, depth=depth, plan=plan, html=html, as_json=json)


@app.command()
def fit(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold one folder a series.")],
    out: Annotated[Path, typer.Option(help="Projection file to write (.npz).")],
    bundle: BundleName = None,
    findings: Annotated[
        list[str] | None,
        typer.Option(
            help="Fit instead how a compartment (LUNGS, ORGANS, BRAIN, BONES, INNER) is embedded, on findings "
            "inserted into these series; may be given several times.",
            show_default=False,
        ),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="Fit instead how places along the body are found, on this table.", show_default=False),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Fit instead what heads are laid on, to MR series that all show one.")
    ] = False,
) -> None:
    """Fit a bundle's projection (feature statistics and directions) to a reference archive; no labels needed."""
    from node.cli.levels import fit_heads, fit_levels
    from node.cli.quality import compartments_named, fit_findings
    from node.cli.quality import fit as run

    settings = settings_from(None, bundle=bundle)
    if (heads or landmarks is not None) and (findings or len(folders) != 1 or (heads and landmarks is not None)):
        raise typer.BadParameter("--landmarks and --heads each go with one folder, and with nothing else")
    if heads:
        fit_heads(settings, folders[0], out)
        return
    if landmarks is not None:
        fit_levels(settings, folders[0], landmarks, out)
        return
    if findings:
        fit_findings(settings, folders, compartments_named(findings), out)
        return
    run(settings, folders, out)


@app.command()
def localise(
    landmarks: Annotated[Path, typer.Argument(help="Table of series, landmark and mm_from_inferior_end.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of one folder a series; by default `dicom` beside the table.", show_default=False
        ),
    ] = None,
    bundle: BundleName = None,
    json: AsJson = False,
) -> None:
    """Measure how near the slab around a landmark in one CT finds that landmark in other patients' CTs."""
    from node.cli.levels import localise as run

    run(settings_from(None, bundle=bundle), landmarks, data, as_json=json)


@app.command()
def sensitivity(
    folder: Annotated[Path, typer.Argument(help="Folder that holds one folder a series.")],
    compartment: Annotated[
        list[str] | None,
        typer.Option(
            help="LUNGS, ORGANS, BRAIN, BONES (CT) or INNER (MR); may be given several times. Default: LUNGS.",
            show_default=False,
        ),
    ] = None,
    all_sizes: Annotated[bool, typer.Option(help="Ask with smaller findings, too.")] = False,
    bundle: BundleName = None,
    json: AsJson = False,
) -> None:
    """Measure how well slabs with an inserted (synthetic) finding find the same finding in other patients."""
    from node.cli.quality import compartments_named, findings

    kinds = compartments_named(compartment or ["LUNGS"])
    findings(settings_from(None, bundle=bundle), folder, kinds, all_sizes=all_sizes, as_json=json)


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option(help="Keep the demo's data folder here and look around.", show_default=False)
    ] = None,
    bundle: BundleName = None,
    patients: Annotated[int, typer.Option(min=2, help="Procedural patients to make.")] = 6,
    json: AsJson = False,
) -> None:
    """Try it all without any DICOM at hand: make phantoms, send them to a node, ask, print the answer."""
    from node.cli.demo import run

    run(settings_from(None, bundle=bundle), keep, patients, as_json=json)


@orthanc_app.command("sync")
def orthanc_sync(
    url: Annotated[str | None, typer.Option(help="Address of its REST API.", show_default=False)] = None,
    data_dir: DataDir = None,
    bundle: BundleName = None,
    config: ConfigFile = None,
    index: Annotated[bool, typer.Option(help="Index what was taken over, unless a node that runs will.")] = True,
    json: AsJson = False,
) -> None:
    """Take over every study of an Orthanc that is not here yet, and index it.

    Interrupt it at any time and start it again: what is here is not fetched twice. A node may run meanwhile.
    Credentials are settings: see [cyan]pacsimile config defaults[/cyan], section orthanc.
    """
    from node.cli.orthanc import sync as run

    settings = settings_from(config, data_dir=data_dir, bundle=bundle, orthanc__url=url)
    run(settings, index=index, as_json=json)


@config_app.command("check")
def config_check(config: ConfigFile = None, json: AsJson = False) -> None:
    """Check the settings, all problems at once, that no stranger gets in, and that the encoder's weights are there.

    Prints what is in force and where it comes from; secrets, and addresses that may hold one, are masked.
    """
    from node.cli.settings import check

    check(config, as_json=json)


@config_app.command("token")
def config_token(
    name: Annotated[str, typer.Argument(help="Who is to have it.")],
    scopes: Annotated[list[Scope], typer.Argument(help="What it allows over HTTP.")],
    cohort: Annotated[str, typer.Option(help="Name of one of the cohorts.")] = "",
) -> None:
    """Make a token for HTTP, shown once, and the table for the settings' file, which holds its SHA-256 only."""
    token = secrets.token_hex(32)
    lines = ["[[http.clients]]", f"name = {dumps(name)}", f'sha256 = "{sha256(token.encode()).hexdigest()}"']
    lines += [f"scopes = {dumps([str(one) for one in scopes])}", *([f"cohort = {dumps(cohort)}"] if cohort else [])]
    typer.echo(f"# The token, for who is to have it: {token}", err=True)
    typer.echo("\n".join(lines))


@config_app.command("defaults")
def config_defaults() -> None:
    """Print every setting with its default and meaning, as a file to start from."""
    from config.load import defaults_text

    typer.echo(defaults_text(), nl=False)
