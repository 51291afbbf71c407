"""Commands that measure what an encoder can tell, and fit what a bundle needs; `node.cli.quality` does the work."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import AsJson, BundleName, ConfigFile, DataDir, settings_from

app = typer.Typer()


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
    both_out: Annotated[
        bool | None,
        typer.Option(
            help="Also fit without either patient that is compared, as for two who are new to an archive: the "
            "strictest row, at one fit for every two patients (folder only). By default up to 150 pairs, "
            "17 patients of one modality.",
            show_default=False,
        ),
    ] = None,
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
    plan = {"within_modality": within_modality, "baselines": baselines, "both_out": both_out}
    run(settings, labels, data, label=label, depth=depth, plan=plan, html=html, as_json=json)


@app.command()
def fit(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold one folder a series.")],
    out: Annotated[Path, typer.Option(help="Projection file to write (.npz).")],
    bundle: BundleName = None,
    findings: Annotated[
        list[str] | None,
        typer.Option(
            help="Fit instead how a compartment is embedded, on findings inserted into these series: LUNGS "
            "(a bundle's regions.file), BRAIN, ORGANS or BONES (findings.file), in MR INNER (findings.file of an "
            "MR bundle); may be given several times for one file.",
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
    both_out: Annotated[
        bool,
        typer.Option(
            help="Fit without the patient who is looked at as well, as for two who are new to an archive; "
            "otherwise only the query's is left out."
        ),
    ] = False,
    bundle: BundleName = None,
    json: AsJson = False,
) -> None:
    """Measure how near the slab around a landmark in one CT finds that landmark in other patients' CTs."""
    from node.cli.levels import localise as run

    run(settings_from(None, bundle=bundle), landmarks, data, both_out=both_out, as_json=json)


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
    """Measure how well slabs with an inserted (synthetic) finding find the same finding in other patients.

    What is fitted never knows the query's patient. Of the gallery's it does, but in the column "trained on neither
    patient": expect that of an archive, whose patients are all new to it.
    """
    from node.cli.quality import compartments_named, findings

    kinds = compartments_named(compartment or ["LUNGS"])
    findings(settings_from(None, bundle=bundle), folder, kinds, all_sizes=all_sizes, as_json=json)
