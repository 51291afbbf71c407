"""`pacsimile evaluate`, `fit`: what decides how good the answers are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rich.progress import Progress, TaskID

from config.errors import ConfigError
from config.model import Settings
from indexer.bundle import read_bundle
from indexer.compartments import OF_MODALITY, Kind
from indexer.encoder import MonaiEncoder
from indexer.evaluate import BASELINES, CatalogSource, FolderSource, Plan, Source
from indexer.evaluate import evaluate as measure
from indexer.evaluate.labels import read_labels
from indexer.evaluate.sensitivity import sensitivities, specimens_below
from indexer.evaluate.sensitivity_figures import Sensitivity
from indexer.fit import fit as fit_projection
from indexer.fit import volumes_below
from indexer.region_fit import Example, fit_region
from indexer.regions import save as save_regions
from indexer.scored import SCORED, ScoredKind
from indexer.scored import save as save_scored
from indexer.scored_fit import fit_scored
from indexer.specimens import Role, Specimen
from indexer.volume import Volume
from node import logs
from node.cli.archive import existing_catalog
from node.cli.output import console, errors, print_json, printable, progress_bar
from node.storage import instance_folder


def evaluate(
    settings: Settings,
    labels: Path,
    data: Path | None,
    *,
    label: str | None,
    depth: int | None,
    plan: Mapping[str, bool | None],
    html: Path | None,
    as_json: bool,
) -> None:
    """Evaluate on labels: a folder embedded now, or what a node holds.

    A table that names the folders of a folder ``dicom`` beside it is about those.
    """
    logs.configure_for_command(settings.log)
    if html is not None and not html.parent.is_dir():
        raise ConfigError([f"--html {html}: no such folder"])
    how = Plan(
        within_modality=bool(plan["within_modality"]),
        both_out=plan["both_out"],
        baselines=BASELINES if plan["baselines"] else (),
    )
    named = [row.series for row in read_labels(labels, label, depth).rows]  # what is wrong with it comes first
    data = data or _beside(labels, named)
    with ExitStack() as open_things:
        if data is None:
            catalog = open_things.enter_context(existing_catalog(settings))
            source: Source = CatalogSource(catalog, spool=instance_folder(settings, catalog))
        else:
            source = _folder(settings, data, open_things.enter_context(progress_bar()))
        evaluation = measure(source, labels, label=label, depth=depth, plan=how)
    if html is not None:
        evaluation.write_html(html)
    if as_json:
        print_json(json.loads(evaluation.to_json()))
        return
    for warning in evaluation.warnings:
        errors.print(f"note: {printable(warning)}")
    for table in evaluation.tables():
        console.print(table, soft_wrap=False)
    if html is not None:
        console.print(f"The report is in {html}")


def _beside(labels: Path, named: Sequence[str]) -> Path | None:
    """Folder of the series beside a table of labels, where the table names any of its folders."""
    folder = labels.parent / "dicom"
    return folder if any((folder / name).is_dir() for name in named if name) else None


def _folder(settings: Settings, data: Path, bar: Progress) -> FolderSource:
    if not data.is_dir():
        raise ConfigError([f"--data {data}: no such folder"])
    indexing, task = settings.indexing, bar.add_task("embedding series", total=None)
    return FolderSource(
        data,
        read_bundle(settings.bundle),
        device=indexing.device,
        threads=indexing.threads,
        on_progress=lambda done, total: bar.update(task, completed=done, total=total),
    )


def compartments_named(names: Sequence[str]) -> list[Kind]:
    """Compartments by their names.

    Raises
    ------
    ConfigError
        One is unknown.
    """
    known = {kind: kind for kinds in OF_MODALITY.values() for kind in kinds}
    if unknown := [name for name in names if name.upper() not in known]:
        raise ConfigError([f"expected compartments of {', '.join(known)}, got {', '.join(unknown)}"])
    return [kind for kind in known if kind in {name.upper() for name in names}]


def findings(settings: Settings, folder: Path, kinds: list[Kind], *, all_sizes: bool, as_json: bool) -> None:
    """Measure sensitivity to inserted findings of some compartments, and of all of them together."""
    logs.configure_for_command(settings.log)
    roles: tuple[Role, ...] = ("training", "testing")
    with progress_bar() as bar:
        asking: dict[str, TaskID] = {
            kind: bar.add_task(f"comparing slabs: {kind}", total=None, visible=False) for kind in kinds
        }
        found, together = sensitivities(
            {kind: _specimens(settings, folder, kind, roles, bar, all_sizes=all_sizes) for kind in kinds},
            lambda kind, done, total: bar.update(asking[kind], completed=done, total=total, visible=True),
        )
    if as_json:
        several = {"compartments": [one.to_json() for one in found], "together": asdict(together)}
        print_json(found[0].to_json() if len(found) == 1 else several)
        return
    for one in found:
        _print_sensitivity(one)
    if len(found) > 1:
        console.print(together.table(), soft_wrap=False)


def _print_sensitivity(found: Sensitivity) -> None:
    for table in found.tables():
        console.print(table, soft_wrap=False)
    for finding, size_mm in found.smallest_mm.items():
        found_from = "at no size" if size_mm is None else f"from {size_mm:g} mm"
        console.print(f"{finding}: P@1 of at least 0.8 {found_from}")
    for finding, share in found.on_finding.items():
        console.print(f"{finding}: the most telling place lies on it in {share:.0%} of right first hits")


def fit_findings(settings: Settings, folders: list[Path], kinds: list[Kind], out: Path) -> None:
    """Fit how compartments are embedded, and write it.

    Raises
    ------
    ConfigError
        No series shows a compartment, or they are not embedded by one file.
    """
    logs.configure_for_command(settings.log)
    if len({(kind in SCORED, kind in OF_MODALITY["MR"]) for kind in kinds}) > 1:
        files = "LUNGS have a file, BRAIN, ORGANS and BONES another, INNER a third"
        raise ConfigError([f"{', '.join(kinds)} are not embedded by one file: {files}, fit them apart"])
    with progress_bar() as bar:
        if kinds[0] in SCORED:
            save_scored(out, {kind: _fitted(settings, folders, kind, bar) for kind in kinds})
        else:
            save_regions(out, {kind: fit_region(_examples(settings, folders, kind, bar)) for kind in kinds})
    console.print(f"{out}: fitted {', '.join(kinds)}")


def _examples(settings: Settings, folders: list[Path], kind: Kind, bar: Progress) -> list[Example]:
    return [one.example for one in _to_fit(settings, folders, kind, bar)]


def _fitted(settings: Settings, folders: list[Path], kind: Kind, bar: Progress) -> ScoredKind:
    made = _to_fit(settings, folders, kind, bar)
    return fit_scored(kind, [one.fine for one in made if one.fine is not None])


def _to_fit(settings: Settings, folders: list[Path], kind: Kind, bar: Progress) -> list[Specimen]:
    made = [_specimens(settings, folder, kind, ("training",), bar) for folder in folders]
    specimens = list(chain.from_iterable(made))
    if not specimens:
        raise ConfigError([f"no series shows enough of {kind}"])
    return specimens


def _specimens(
    settings: Settings, folder: Path, kind: Kind, roles: Sequence[Role], bar: Progress, *, all_sizes: bool = False
) -> Iterator[Specimen]:
    bundle = read_bundle(settings.bundle)
    bundle = next((other for modality, other in bundle.modalities.items() if kind in OF_MODALITY[modality]), bundle)
    alone = bundle.model_copy(
        update={"regions": None, "findings": None, "modalities": {}, "levels": None, "heads": None}
    )
    encoder = MonaiEncoder(alone, settings.indexing.device, settings.indexing.threads)
    task = bar.add_task(f"inserting findings: {kind}", total=None)
    return specimens_below(
        folder,
        encoder,
        kind,
        roles,
        all_sizes=all_sizes,
        on_progress=lambda done, total: bar.update(task, completed=done, total=total),
    )


def fit(settings: Settings, folders: list[Path], out: Path) -> None:
    """Fit a projection and write it."""
    logs.configure_for_command(settings.log)
    with progress_bar() as bar:
        total = sum(1 for folder in folders for path in folder.iterdir() if path.is_dir())
        task = bar.add_task("reading volumes", total=total)

        def shown() -> Iterator[tuple[str, Volume]]:
            for name, volume in chain.from_iterable(map(volumes_below, folders)):
                bar.update(task, advance=1, description=name)
                yield name, volume

        windows = fit_projection(read_bundle(settings.bundle), shown(), out)
    counts = ", ".join(f"{number} windows of {modality}" for modality, number in windows.items())
    console.print(f"{out}: fitted on {counts}")
