"""Frames as pictures (PS3.18 8.3.5, 8.7.3.4): `rendered` resources, for the page and for DICOMweb clients."""

import hashlib
import math
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from node.web.context import Context, InstanceUid, SeriesUid, StudyUid, WebContext
from node.web.problems import ProblemError, responses
from node.web.rendering import MOST_PIXELS_A_SIDE, PictureType, Presentation, Window, WindowShape

router = APIRouter(tags=["images"])
_INSTANCE = "/studies/{study_uid}/series/{series_uid}/instances/{sop_instance_uid}"
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture",
        "content": {str(kind): {"schema": {"type": "string", "format": "binary"}} for kind in PictureType},
    },
    304: {"description": "The picture has not changed"},
}
_KEPT = "private, max-age=3600"

WindowQuery = Annotated[
    str | None,
    Query(
        description="Window center, width and function: linear, linear-exact or sigmoid (PS3.18 8.3.5.1.4)",
        examples=["40,400,linear"],
        max_length=100,
    ),
]
ViewportQuery = Annotated[
    str | None, Query(description="Width and height to fit in, pixels", examples=["512,512"], max_length=100)
]
QualityQuery = Annotated[int, Query(ge=1, le=100, description="Of JPEG")]
FrameNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the frame, from 1")]


@router.get(
    f"{_INSTANCE}/rendered", response_class=Response, responses={**_PICTURE, **responses(400, 404, 406, 422, 500)}
)
def rendered_instance(
    request: Request,
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
    window: WindowQuery = None,
    viewport: ViewportQuery = None,
    quality: QualityQuery = 90,
    accept: Annotated[str, Header()] = "*/*",
) -> Response:
    """Render an instance: its first frame, or the middle one of many."""
    presentation = presentation_of(window, viewport, quality, accept)
    return picture_response(request, context, (study_uid, series_uid, sop_instance_uid), None, presentation)


@router.get(
    f"{_INSTANCE}/frames/{{frame}}/rendered",
    response_class=Response,
    responses={**_PICTURE, **responses(400, 404, 406, 422, 500)},
)
def rendered_frame(
    request: Request,
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
    frame: FrameNumber,
    window: WindowQuery = None,
    viewport: ViewportQuery = None,
    quality: QualityQuery = 90,
    accept: Annotated[str, Header()] = "*/*",
) -> Response:
    """Render one frame of an instance."""
    presentation = presentation_of(window, viewport, quality, accept)
    return picture_response(request, context, (study_uid, series_uid, sop_instance_uid), frame, presentation)


def presentation_of(window: str | None, viewport: str | None, quality: int, accept: str) -> Presentation:
    """Read the parameters of a rendered resource.

    Raises
    ------
    ProblemError
        400 for values that cannot be meant, 406 for media types that pictures are not made in.
    """
    return Presentation(_window(window), _viewport(viewport), _media_type(accept), quality)


def picture_response(
    request: Request,
    context: WebContext,
    uids: tuple[str, str, str],
    frame: int | None,
    presentation: Presentation,
) -> Response:
    """Answer with a frame's picture; 304 where the asker has it already.

    Parameters
    ----------
    uids : tuple of str
        Study, Series and SOP Instance UID.
    frame : int or None
        From 1; None for the one that stands for the instance.
    """
    held = context.held_instance(*uids)
    tag = f'"{hashlib.sha256(f"{held.path} {frame} {presentation}".encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": _KEPT, "Vary": "Accept, Authorization, Cookie"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    content = context.pictures.rendered(held.path, frame, presentation)
    return Response(content, media_type=presentation.media_type.value, headers=headers)


def _window(text: str | None) -> Window | None:
    if text is None:
        return None
    parts = text.split(",")
    try:
        center, width = float(parts[0]), float(parts[1])
        shape = WindowShape(parts[2].lower()) if len(parts) > 2 else WindowShape.LINEAR
        least = 1.0 if shape is WindowShape.LINEAR else 0.0
        if len(parts) > 3 or not math.isfinite(center) or not math.isfinite(width) or width < least or width == 0:
            raise ValueError
        if max(abs(center), width) > 1e30:
            raise ValueError
    except (ValueError, IndexError):
        detail = (
            "window: expected center,width[,linear|linear-exact|sigmoid] with a width of at least 1, got another"
        )
        raise ProblemError(400, "bad-window", detail) from None
    return Window(center, width, shape)


def _viewport(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        width, height = (int(part) for part in text.split(","))
        if not (1 <= width <= MOST_PIXELS_A_SIDE and 1 <= height <= MOST_PIXELS_A_SIDE):
            raise ValueError
    except ValueError:
        detail = (
            f"viewport: expected width,height of 1 to {MOST_PIXELS_A_SIDE} (regions are not cut out), got another"
        )
        raise ProblemError(400, "bad-viewport", detail) from None
    return width, height


def _media_type(accept: str) -> PictureType:
    """The first media type asked for that pictures are made in; PNG for whoever takes anything."""
    for part in accept.split(","):
        name = part.split(";")[0].strip().lower()
        if name in set(PictureType):
            return PictureType(name)
        if name in {"*/*", "image/*", ""}:
            return PictureType.PNG
    raise ProblemError(406, "not-acceptable", f"pictures are made as {', '.join(PictureType)}")
