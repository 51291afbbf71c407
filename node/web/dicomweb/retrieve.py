"""WADO-RS (PS3.18 10.4): instances, their metadata, frames and bulk data, for what the node holds."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from config.errors import PacsimileError
from dicom_scp.part10 import file_header, split_file
from indexer.attributes import JsonObject
from indexer.catalog.holdings import HeldInstance
from indexer.catalog.lookup import Level
from indexer.errors import Damaged, NotFound, Refused
from indexer.headers import text
from node.web.context import Context, InstanceUid, SeriesUid, StudyUid, WebContext
from node.web.dicomweb.acceptance import ANY, DICOM, MULTIPART, OCTETS, Wanted, dicom_wanted, frames_wanted
from node.web.dicomweb.metadata import bulk_value, json_of
from node.web.dicomweb.parts import Part, multipart_response
from node.web.dicomweb.results import DICOM_JSON, JSON_ANSWER, array, demand_json, root_url
from node.web.images import StoredImage
from node.web.problems import ProblemError, responses

log = logging.getLogger(__name__)
router = APIRouter(tags=["dicomweb"])

_STUDY = "/dicomweb/studies/{study_uid}"
_SERIES = f"{_STUDY}/series/{{series_uid}}"
_INSTANCE = f"{_SERIES}/instances/{{sop_instance_uid}}"
_MOST_INSTANCES = 100_000
_PIECE_BYTES = 1 << 20
_PIXEL_DATA = "7FE00010"
_Accept = Annotated[str, Header()]


def _binary(description: str, *kinds: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": description, "content": {kind: {"schema": schema} for kind in kinds}}}


_FILES = {**_binary("DICOM files", MULTIPART, DICOM), **responses(404, 406, 500, 503)}
_METADATA = {**JSON_ANSWER, **responses(404, 406, 500, 503)}
_FRAMES = {**_binary("Frames", MULTIPART, OCTETS), **responses(400, 404, 406, 500, 503)}
"""OpenAPI's words for answers."""


@router.get(_STUDY, response_class=Response, responses=_FILES)
def retrieve_study(context: Context, study_uid: StudyUid, accept: _Accept = "*/*") -> Response:
    """Retrieve the instances of a study."""
    held = _held(context, {Level.STUDY: [study_uid]})
    return _files(context, held, dicom_wanted(accept, is_single=False))


@router.get(_SERIES, response_class=Response, responses=_FILES)
def retrieve_series(
    context: Context, study_uid: StudyUid, series_uid: SeriesUid, accept: _Accept = "*/*"
) -> Response:
    """Retrieve the instances of a series."""
    held = _held(context, {Level.STUDY: [study_uid], Level.SERIES: [series_uid]})
    return _files(context, held, dicom_wanted(accept, is_single=False))


@router.get(_INSTANCE, response_class=Response, responses=_FILES)
def retrieve_instance(
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
    accept: _Accept = "*/*",
) -> Response:
    """Retrieve an instance: `multipart/related`, or the file alone for `Accept: application/dicom`.

    Without `transfer-syntax` uncompressed, as the standard has it; with `transfer-syntax=*` as it came.
    """
    held = context.held_instance(study_uid, series_uid, sop_instance_uid)
    return _files(context, [held], dicom_wanted(accept, is_single=True))


@router.get(f"{_STUDY}/metadata", response_class=Response, responses=_METADATA)
def study_metadata(request: Request, context: Context, study_uid: StudyUid) -> Response:
    """Retrieve what the headers of a study say."""
    demand_json(request)
    return _metadata(request, context, _held(context, {Level.STUDY: [study_uid]}))


@router.get(f"{_SERIES}/metadata", response_class=Response, responses=_METADATA)
def series_metadata(request: Request, context: Context, study_uid: StudyUid, series_uid: SeriesUid) -> Response:
    """Retrieve what the headers of a series say."""
    demand_json(request)
    return _metadata(request, context, _held(context, {Level.STUDY: [study_uid], Level.SERIES: [series_uid]}))


@router.get(f"{_INSTANCE}/metadata", response_class=Response, responses=_METADATA)
def instance_metadata(
    request: Request,
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
) -> Response:
    """Retrieve what the header of an instance says."""
    demand_json(request)
    return _metadata(request, context, [context.held_instance(study_uid, series_uid, sop_instance_uid)])


@router.get(f"{_INSTANCE}/frames/{{frames}}", response_class=Response, responses=_FRAMES)
def retrieve_frames(
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
    frames: Annotated[str, Path(pattern=r"^[0-9]{1,9}(,[0-9]{1,9})*$", max_length=20_000, examples=["1,2"])],
    accept: _Accept = "*/*",
) -> Response:
    """Retrieve frames: uncompressed little endian, or as they are stored with `transfer-syntax=*`."""
    image = _image(context, context.held_instance(study_uid, series_uid, sop_instance_uid))
    numbers = [int(number) for number in frames.split(",")]
    if unknown := [number for number in numbers if not 1 <= number <= image.frames]:
        raise NotFound(f"no frame {unknown[0]}: the instance has {image.frames}")
    return _frames(context, image, numbers, frames_wanted(accept, image.syntax, is_single=len(numbers) == 1))


@router.get(f"{_INSTANCE}/bulkdata/{{path:path}}", response_class=Response, responses=_FRAMES)
def retrieve_bulk_data(
    context: Context,
    study_uid: StudyUid,
    series_uid: SeriesUid,
    sop_instance_uid: InstanceUid,
    path: Annotated[str, Path(pattern=r"^[0-9A-F]{8}(/[0-9]{1,9}/[0-9A-F]{8})*$", max_length=1000)],
    accept: _Accept = "*/*",
) -> Response:
    """Retrieve a binary value that metadata name by its URI."""
    image = _image(context, context.held_instance(study_uid, series_uid, sop_instance_uid))
    if path == _PIXEL_DATA:
        if not image.has_pixels:
            raise NotFound("no such value in the instance")
        numbers = list(range(1, image.frames + 1))
        return _frames(context, image, numbers, frames_wanted(accept, image.syntax, is_single=len(numbers) == 1))
    wanted = frames_wanted(accept, ExplicitVRLittleEndian, is_single=True)
    value = bulk_value(image.header, path)
    if wanted.is_multipart:
        return multipart_response([Part(OCTETS, [value])], OCTETS)
    return Response(value, media_type=OCTETS)


def _held(context: WebContext, keys: dict[Level, Sequence[str]]) -> list[HeldInstance]:
    """Instances whose files are here; at least one."""
    found = [one for one in context.view.holdings.instances(keys, _MOST_INSTANCES) if one.is_here]
    if not found:
        raise NotFound("no instance of it is held")
    return found


def _files(context: WebContext, held: Sequence[HeldInstance], wanted: Wanted) -> Response:
    if len(held) == 1:  # one that cannot be sent is said, not left out
        first = _file(context, held[0], wanted.syntax, strict=True)
        if not wanted.is_multipart:
            return StreamingResponse(first.content, headers={"Content-Type": first.content_type})
        return multipart_response([first], DICOM)
    return multipart_response(_file_parts(context, held, wanted.syntax), DICOM)


def _file_parts(context: WebContext, held: Sequence[HeldInstance], syntax: str) -> Iterator[Part]:
    for one in held:
        try:
            yield _file(context, one, syntax, strict=False)
        except PacsimileError as error:
            log.error("an instance is left out of an answer: %s", error)


def _file(context: WebContext, held: HeldInstance, syntax: str, *, strict: bool) -> Part:
    """One instance as a DICOM file in a transfer syntax; as it came where it cannot be in the usual one."""
    stored = held.transfer_syntax_uid
    if syntax in {ANY, stored}:
        return Part(_dicom_type(stored), _pieces(context, held))
    plain = context.spool.read(held.path)
    try:
        content = context.transcoders.transcoded(plain[1], stored, syntax)
    except Refused:
        if strict and syntax != ExplicitVRLittleEndian:
            detail = "the instance cannot be turned into that transfer syntax: ask for transfer-syntax=*"
            raise ProblemError(406, "not-acceptable", detail) from None
        return Part(_dicom_type(stored), _pieces(context, held))
    header = file_header(held.sop_class_uid, held.sop_instance_uid, syntax, "")
    return Part(_dicom_type(syntax), [header, content])


def _dicom_type(syntax: str) -> str:
    return f"{DICOM}; transfer-syntax={syntax}"


def _pieces(context: WebContext, held: HeldInstance) -> Iterator[bytes]:
    """A stored file bit by bit; breaks off at its end where it is not what was stored."""
    path = context.spool.file(held.path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            piece = file.read(_PIECE_BYTES)
            offset = len(piece) - len(split_file(piece)[1])
            digest.update(held.transfer_syntax_uid.encode("ascii", "replace") + b"\0" + piece[offset:])
            while piece:
                yield piece
                piece = file.read(_PIECE_BYTES)
                digest.update(piece)
    except (OSError, Refused) as error:
        raise Damaged(f"stored file {held.path} cannot be read") from error
    if digest.hexdigest() != PurePath(held.path).stem:
        raise Damaged(f"stored file {held.path} is not what was written: its SHA-256 differs")


def _metadata(request: Request, context: WebContext, held: Sequence[HeldInstance]) -> Response:
    root = root_url(request)
    if len(held) == 1:
        return StreamingResponse(array([_described(context, held[0], root)]), media_type=DICOM_JSON)
    return StreamingResponse(array(_all_described(context, held, root)), media_type=DICOM_JSON)


def _all_described(context: WebContext, held: Sequence[HeldInstance], root: str) -> Iterator[JsonObject]:
    for one in held:
        try:
            yield _described(context, one, root)
        except PacsimileError as error:
            log.error("an instance is left out of metadata: %s", error)


def _described(context: WebContext, held: HeldInstance, root: str) -> JsonObject:
    image = _image(context, held)
    study, series = (text(image.header, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
    url = f"{root}/studies/{study}/series/{series}/instances/{held.sop_instance_uid}"
    found = json_of(image.header, f"{url}/bulkdata")
    if image.has_pixels:
        found[_PIXEL_DATA] = {"vr": "OW", "BulkDataURI": f"{url}/bulkdata/{_PIXEL_DATA}"}
    return found


def _image(context: WebContext, held: HeldInstance) -> StoredImage:
    return StoredImage(context.spool.file(held.path))


def _frames(context: WebContext, image: StoredImage, numbers: Sequence[int], wanted: Wanted) -> Response:
    as_stored = image.syntax.is_encapsulated and wanted.syntax == image.syntax

    def content(number: int) -> bytes:
        if as_stored:
            return image.encoded(number - 1)
        return image.native(number - 1, context.transcoders)

    first = content(numbers[0])  # what cannot be sent is said before the answer begins
    if not wanted.is_multipart:
        return Response(first, media_type=wanted.media_type)
    content_type = f"{wanted.media_type}; transfer-syntax={wanted.syntax}"

    def parts() -> Iterator[Part]:
        yield Part(content_type, [first])
        for number in numbers[1:]:
            yield Part(content_type, [content(number)])

    return multipart_response(parts(), wanted.media_type)
