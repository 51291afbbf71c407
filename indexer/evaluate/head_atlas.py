"""The atlas of heads of a folder of MR series that show heads."""

import logging
from collections.abc import Callable
from pathlib import Path

from indexer.body import body_mask
from indexer.bundle import Bundle
from indexer.errors import Parked
from indexer.evaluate.subjects import subjects_below
from indexer.heads import HeadAtlas, HeadView, fit_heads, head_view
from indexer.resample import resample
from indexer.uids import SeriesInstanceUID
from indexer.volume import load_volume, plan_series

log = logging.getLogger(__name__)


def fit_head_atlas(
    bundle: Bundle, folder: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> HeadAtlas:
    """Lay the heads of a folder that holds one folder a series, heads alone, on each other.

    Raises
    ------
    ConfigError
        There is none.
    """
    views: list[HeadView] = []
    patients: list[str] = []
    series: list[SeriesInstanceUID] = []
    subjects, paths = subjects_below(folder)
    for done, (subject, files) in enumerate(zip(subjects, paths, strict=True), start=1):
        try:
            grid = resample(load_volume(plan_series(files).stacks[0]), bundle.input.spacing_mm)
            view = head_view(grid, body_mask(grid))
        except (Parked, ValueError) as reason:  # ValueError: several series in one folder
            log.warning("a folder is passed over: %s", reason)
            view = None
        if view is not None:
            views.append(view)
            patients.append(subject.patient)
            series.append(SeriesInstanceUID(subject.series_instance_uid))
        on_progress(done, len(subjects))
    return fit_heads(views, patients, series)
