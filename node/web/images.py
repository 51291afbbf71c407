"""One stored image read in parts: its header, and single frames, however many others there are."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicom_scp.parsing import parse, quiet
from dicom_scp.part10 import split_file
from indexer.errors import Damaged, NotFound, Refused
from indexer.functional_groups import FrameAttributes
from indexer.headers import Attributes, text
from indexer.sealing import StoredPath
from node.web.decoding import TranscoderPool

_PIXEL_VRS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}
"""Float, Double Float and plain Pixel Data."""
_PIXEL_MODULE = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
"""Attributes that decoding needs (PS3.3 C.7.6.3)."""
_UNDEFINED = 0xFFFFFFFF
_MOST_SAMPLES = 1 << 28
"""Of one frame; a header that claims more is not believed."""


class NoImage(Refused):
    """The instance holds no pixel data."""

    def __init__(self) -> None:
        super().__init__("the instance holds no pixel data")


@dataclass(frozen=True)
class Samples:
    """One decoded frame.

    Attributes
    ----------
    values : NDArray
        (rows, columns) stored values, or (rows, columns, 3) of RGB.
    photometric : str
        Photometric Interpretation (0028,0004) of the values.
    """

    values: NDArray[Any]
    photometric: str


@dataclass(frozen=True)
class _PixelData:
    """The value of the pixel data element: where it lies in a file."""

    file: IO[bytes]
    tag: int
    start: int
    length: int


class StoredImage:
    """The header of a stored file, and its frames one by one. Not to be shared among threads.

    Attributes
    ----------
    header : Dataset
        All before the pixel data; read values within `dicom_scp.parsing.quiet`.
    syntax : UID
        Transfer Syntax UID of the file.

    Raises
    ------
    NotFound
        The file is not here any more.
    Damaged
        It cannot be parsed.
    """

    def __init__(self, path: StoredPath) -> None:
        self._path = path
        try:
            with path.open("rb") as file, quiet():
                self.header = dcmread(file, stop_before_pixels=True)
                self.syntax = UID(self.header.file_meta.TransferSyntaxUID)
                self._pixels_at = file.tell()
        except FileNotFoundError:
            raise NotFound("the file of the instance is not here") from None
        except Exception as error:  # the parser of hostile bytes raises anything at all
            raise Damaged(f"the stored file cannot be parsed: {type(error).__name__}") from error

    @cached_property
    def frames(self) -> int:
        """Number of Frames (0028,0008), at least 1."""
        return max(self._number("NumberOfFrames", 1), 1)

    @cached_property
    def has_pixels(self) -> bool:
        """Whether there are pixel data of any kind."""
        try:
            with self._pixel_data():
                return True
        except Refused:
            return False

    def attributes(self, index: int) -> Attributes:
        """What the header says of one frame, from 0, whichever sequences hold it."""
        items = self.header.get("PerFrameFunctionalGroupsSequence")
        if items and index < len(items):
            return FrameAttributes(self.header, items[index], index)
        return self.header

    def encoded(self, index: int) -> bytes:
        """Bytes of one frame, from 0, as they are stored; without padding.

        Raises
        ------
        NoImage
            There are no pixel data.
        NotFound
            There is no such frame.
        Refused
            The pixel data end before it.
        """
        with self._pixel_data() as pixels:
            if not 0 <= index < self.frames:
                raise NotFound(f"no frame {index + 1}: the instance has {self.frames}")
            if self.syntax.is_encapsulated:
                return self._fragments(pixels, index)
            bits = self._samples() * self._number("BitsAllocated", 0)
            if text(self.header, "PhotometricInterpretation") == "YBR_FULL_422":
                bits = bits * 2 // 3
            first, end = index * bits // 8, ((index + 1) * bits + 7) // 8
            if end > pixels.length:
                raise Refused(f"the pixel data end before frame {index + 1} does")
            pixels.file.seek(pixels.start + first)
            data = pixels.file.read(end - first)
        if bits % 8 == 0:
            return data
        unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[index * bits % 8 :][:bits]
        return np.packbits(unpacked, bitorder="little").tobytes()

    def samples(self, index: int, transcoders: TranscoderPool) -> Samples:
        """Decode one frame, from 0; what needs a codec is decoded in another process.

        Raises
        ------
        NoImage, NotFound, Refused
            As `encoded`; or the frame cannot be decoded.
        """
        one = self._alone(index)
        try:
            if self.syntax.is_encapsulated:
                one = parse(
                    transcoders.transcoded(_written(one), self.syntax, ExplicitVRLittleEndian),
                    ExplicitVRLittleEndian,
                )
                one.file_meta = _meta(ExplicitVRLittleEndian)
            with quiet():
                decoder = get_decoder(one.file_meta.TransferSyntaxUID)
                values, meta = decoder.as_array(one, index=0)
        except Refused:
            raise
        except Exception as error:  # so do decoders
            raise Refused(f"the pixel data cannot be decoded: {type(error).__name__}") from error
        return Samples(values, str(meta["photometric_interpretation"]))

    def native(self, index: int, transcoders: TranscoderPool) -> bytes:
        """Bytes of one frame, from 0, uncompressed and little endian (PS3.5 A.2); raises as `samples`."""
        bits = self._number("BitsAllocated", 0)
        if self.syntax.is_encapsulated:
            values = self.samples(index, transcoders).values
            if bits == 1:
                return np.packbits(values.astype(np.uint8), bitorder="little").tobytes()
            return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        data = self.encoded(index)
        if self.syntax.is_little_endian or bits <= 8:
            return data
        return np.frombuffer(data, f">u{bits // 8}").astype(f"<u{bits // 8}").tobytes()

    def _alone(self, index: int) -> Dataset:
        """An instance of nothing but the image pixel module of this one frame."""
        data = self.encoded(index)
        self._samples()
        with self._pixel_data() as pixels:
            tag = pixels.tag
        one = Dataset()
        with quiet():
            for keyword in _PIXEL_MODULE:
                if (value := self.header.get(keyword)) is not None:
                    setattr(one, keyword, value)
        one.file_meta = _meta(self.syntax)
        data += b"\0" * (len(data) % 2)
        if self.syntax.is_encapsulated:
            one.add_new(tag, "OB", encapsulate([data]))
            one[tag].is_undefined_length = True
        else:
            one.add_new(tag, _PIXEL_VRS[tag], data)
        return one

    @contextmanager
    def _pixel_data(self) -> Iterator[_PixelData]:
        if self.syntax == DeflatedExplicitVRLittleEndian:
            yield self._inflated()
            return
        try:
            file = self._path.open("rb")
        except OSError:
            raise NotFound("the file of the instance is not here") from None
        with file:
            file.seek(self._pixels_at)
            yield self._found(file)

    def _found(self, file: IO[bytes]) -> _PixelData:
        """Read the tag and length of the element that the file is at (PS3.5 7.1)."""
        order = "<" if self.syntax.is_little_endian else ">"
        head = file.read(8 if self.syntax.is_implicit_VR else 12)
        try:
            group, number = struct.unpack_from(f"{order}HH", head)
            (length,) = struct.unpack_from(f"{order}L", head, len(head) - 4)
        except struct.error:
            raise NoImage from None
        tag, start = group << 16 | number, file.tell()
        end = file.seek(0, 2)
        file.seek(start)
        if tag not in _PIXEL_VRS or not length or (length == _UNDEFINED) != self.syntax.is_encapsulated:
            raise NoImage
        return _PixelData(file, tag, start, min(length, end - start))

    def _inflated(self) -> _PixelData:
        try:
            syntax, content = split_file(self._path.read_bytes())
            dataset = parse(content, syntax)
            tag = next((tag for tag in _PIXEL_VRS if tag in dataset), None)
            value = bytes(dataset[tag].value or b"") if tag else b""
        except OSError:
            raise NotFound("the file of the instance is not here") from None
        if not tag or not value:
            raise NoImage
        return _PixelData(BytesIO(value), tag, 0, len(value))

    def _fragments(self, pixels: _PixelData, index: int) -> bytes:
        offsets = [self.header.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
        extended = (offsets[0], offsets[1]) if all(offsets) else None
        try:
            return get_frame(
                pixels.file,
                index,
                extended_offsets=extended,
                number_of_frames=self.frames,
            )
        except Exception as error:  # a torn or hostile sequence of fragments raises anything at all
            raise Refused(f"frame {index + 1} cannot be read: {type(error).__name__}") from error

    def _samples(self) -> int:
        count = self._number("Rows", 0) * self._number("Columns", 0) * self._number("SamplesPerPixel", 1)
        if not 0 < count <= _MOST_SAMPLES:
            raise Refused(f"expected 1 to {_MOST_SAMPLES} samples in a frame, got {count}")
        return count

    def _number(self, keyword: str, otherwise: int) -> int:
        with quiet():
            try:
                return int(self.header.get(keyword) or otherwise)
            except Exception:  # a value of another kind
                return otherwise


def _meta(syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    return meta


def _written(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    with quiet():
        write_dataset(buffer, dataset)
    content: bytes = buffer.parent.getvalue()  # type: ignore[union-attr]
    return content
