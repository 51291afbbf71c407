"""Slices as numbers, so that the window is set in the browser without asking again."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from node.web.context import Context, InstanceUid, SeriesUid, StudyUid
from node.web.rendering import grey

router = APIRouter(include_in_schema=False)
_WORDS = np.iinfo(np.int16)


@dataclass(frozen=True, eq=False)
class Words:
    """Values as 16-bit numbers: value = `slope` times word + `intercept`.

    Attributes
    ----------
    words : NDArray
        (rows, columns) int16, little endian.
    """

    words: NDArray[np.int16]
    slope: float
    intercept: float


def words_of(values: NDArray[Any]) -> Words:
    """Fit values (rows, columns) into 16 bits: exactly where they are whole and small, else as finely as goes.

    Padding (NaN) becomes the lowest value.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    filled = np.where(np.isfinite(values), values, np.float32(low)).astype(np.float64)
    is_exact = low >= _WORDS.min and high <= _WORDS.max and bool(np.all(filled == np.rint(filled)))
    slope = 1.0 if is_exact else (high - low) / (_WORDS.max - _WORDS.min) or 1.0
    intercept = 0.0 if is_exact else low - _WORDS.min * slope
    words = np.clip(np.rint((filled - intercept) / slope), _WORDS.min, _WORDS.max)
    return Words(words.astype("<i2"), slope, intercept)


@router.get("/ui/values/{study_uid}/{series_uid}/{sop_instance_uid}")
def values(
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
    frame: Annotated[int, Query(ge=1, le=2**31 - 1)] = 1,
) -> Response:
    """Answer with the 16-bit words of a slice; the header `Picture` says how to show them, in JSON."""
    held = context.held_instance(study_uid, series_uid, sop_instance_uid)
    picture = context.pictures.picture(held.path, frame)
    # What has no single values is shown in shades of grey.
    shades = picture.values if not picture.is_colour else grey(picture).mean(axis=2).round()
    packed = words_of(shades)
    described = {
        "rows": packed.words.shape[0],
        "columns": packed.words.shape[1],
        "slope": packed.slope,
        "intercept": packed.intercept,
        "pixel_mm": picture.pixel_mm,
        "window": [picture.window.center, picture.window.width],
        "is_inverted": picture.is_inverted,
    }
    headers = {"Picture": json.dumps(described)}
    return Response(packed.words.tobytes(), media_type="application/octet-stream", headers=headers)
