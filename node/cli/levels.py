"""`pacsimile localise`, `fit --landmarks`, `fit --heads`: what volumes are laid on."""

from pathlib import Path

from rich.table import Table

from config.errors import ConfigError
from config.model import Settings
from indexer import heads
from indexer.bundle import Bundle, read_bundle
from indexer.evaluate.describe import Eye
from indexer.evaluate.head_atlas import fit_head_atlas
from indexer.evaluate.landmarks import NEAR_MM, fit_atlas, summary
from indexer.evaluate.landmarks import localise as look_for
from indexer.evaluate.left_out import BOTH_OUT, LEFT_OUT
from indexer.levels import save
from node import logs
from node.cli.output import console, print_json, progress_bar


def localise(settings: Settings, landmarks: Path, data: Path | None, *, both_out: bool, as_json: bool) -> None:
    """Look for landmarks of each patient's CT in the others'."""
    logs.configure_for_command(settings.log)
    data = data or landmarks.parent / "dicom"
    if not data.is_dir():
        raise ConfigError([f"--data {data}: no such folder"])
    with progress_bar() as bar:
        task = bar.add_task("embedding series", total=None)
        found = look_for(
            _eye(read_bundle(settings.bundle), settings),
            data,
            landmarks,
            lambda done, total: bar.update(task, completed=done, total=total),
            both_out=both_out,
        )
    figures = summary(found)
    if as_json:
        print_json(figures)
        return
    title = f"Landmarks, {BOTH_OUT if both_out else LEFT_OUT}"
    table = Table("landmark", "pairs", "median error (95 %)", f"within {NEAR_MM:g} mm (95 %)", title=title)
    for name, one in figures.items():
        median = f"{one['median_mm']:.0f} ({one['median_mm_low']:.0f}-{one['median_mm_high']:.0f}) mm"
        near = f"{one['near']:.2f} ({one['near_low']:.2f}-{one['near_high']:.2f})"
        table.add_row(name, f"{one['pairs']:.0f}", median, near)
    console.print(table)


def fit_levels(settings: Settings, folder: Path, landmarks: Path, out: Path) -> None:
    """Make the atlas of levels from landmarks, and write it."""
    logs.configure_for_command(settings.log)
    bundle = read_bundle(settings.bundle).model_copy(update={"levels": None})
    with progress_bar() as bar:
        task = bar.add_task("embedding series", total=None)
        atlas = fit_atlas(
            _eye(bundle, settings),
            folder,
            landmarks,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    save(out, atlas)
    console.print(f"{out}: {len(atlas.places_mm)} places of {len(set(atlas.owners.tolist()))} series")


def fit_heads(settings: Settings, folder: Path, out: Path) -> None:
    """Make the atlas of heads, and write it."""
    logs.configure_for_command(settings.log)
    bundle = read_bundle(settings.bundle)
    bundle = bundle.modalities.get("MR", bundle)
    with progress_bar() as bar:
        task = bar.add_task("looking at heads", total=None)
        atlas = fit_head_atlas(bundle, folder, lambda done, total: bar.update(task, completed=done, total=total))
    heads.save(out, atlas)
    console.print(f"{out}: {len(atlas.owners)} series of heads, of {len(set(atlas.patients.tolist()))} patients")


def _eye(bundle: Bundle, settings: Settings) -> Eye:
    return Eye(bundle, settings.indexing.device, settings.indexing.threads)
