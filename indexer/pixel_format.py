"""How the pixels of an instance are stored (PS3.3 C.7.6.3), checked before anything is allocated for them."""

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from indexer.errors import Parked
from indexer.headers import Attributes, coded, numbers, text, whole

MAX_VOXELS = 1_000_000_000
"""Voxels that one volume may have: 4 GB in single precision."""
BITS_ALLOCATED = (8, 16, 32, 64)


class NotAVolume(Parked):
    """An instance is in order, but is no part of a CT or MR volume; the message says what it is instead."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Raster and encoding of an instance's frames.

    Attributes
    ----------
    rows, columns, frames : int
        Claimed dimensions.
    inverted : bool
        Photometric Interpretation MONOCHROME1: the smallest value is shown white.
    padding : tuple of int or None
        First and last stored value of padding, both included (PS3.3 C.7.5.1.1.2).
    """

    transfer_syntax_uid: UID
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool
    padding: tuple[int, int] | None

    @property
    def native_bytes(self) -> int:
        """Length of the pixel data where they are not compressed."""
        return self.rows * self.columns * self.frames * self.bits_allocated // 8


def pixel_format_of(dataset: Attributes, transfer_syntax_uid: UID, file_bytes: int) -> PixelFormat:
    """Read and check the image pixel module.

    Parameters
    ----------
    dataset : Attributes
        Header of the instance.
    file_bytes : int
        Length of the file.

    Raises
    ------
    NotAVolume
        A colour image.
    Parked
        Dimensions or depths that cannot be, or claim more than the file or the memory can hold.
    """
    samples, photometric = whole(dataset, "SamplesPerPixel"), coded(dataset, "PhotometricInterpretation")
    if (samples or 1) != 1 or photometric not in (("MONOCHROME1",), ("MONOCHROME2",)):
        raise NotAVolume(f"a colour image ({', '.join(photometric) or 'no Photometric Interpretation'})")
    allocated = _positive(dataset, "BitsAllocated")
    stored = whole(dataset, "BitsStored") or allocated
    high = whole(dataset, "HighBit")
    signed = whole(dataset, "PixelRepresentation") == 1
    pixel_format = PixelFormat(
        transfer_syntax_uid=transfer_syntax_uid,
        rows=_positive(dataset, "Rows"),
        columns=_positive(dataset, "Columns"),
        frames=whole(dataset, "NumberOfFrames") or 1,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        signed=signed,
        inverted=photometric == ("MONOCHROME1",),
        padding=_padding(dataset, allocated, signed),
    )
    _check(pixel_format, file_bytes)
    return pixel_format


def _check(pixel_format: PixelFormat, file_bytes: int) -> None:
    allocated, stored = pixel_format.bits_allocated, pixel_format.bits_stored
    if allocated not in BITS_ALLOCATED or not 0 < stored <= allocated:
        raise Parked(
            f"BitsAllocated, BitsStored: expected 8, 16, 32 or 64 and no more, got {allocated} and {stored}"
        )
    if not stored - 1 <= pixel_format.high_bit < allocated:
        raise Parked(f"HighBit: expected {stored - 1} to {allocated - 1}, got {pixel_format.high_bit}")
    if pixel_format.frames < 1:
        raise Parked(f"NumberOfFrames: expected at least 1, got {pixel_format.frames}")
    demand_budget(pixel_format.rows * pixel_format.columns)
    syntax = pixel_format.transfer_syntax_uid
    native = not syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian
    if native and pixel_format.native_bytes > file_bytes:
        raise Parked(f"pixel data: expected {pixel_format.native_bytes} bytes, the file has {file_bytes}")


def demand_budget(voxels: int) -> None:
    """Raise `Parked` where a raster claims more voxels than a volume may have."""
    if voxels > MAX_VOXELS:
        raise Parked(f"dimensions: expected at most {MAX_VOXELS} voxels in a volume, got {voxels}")


def _positive(dataset: Attributes, keyword: str) -> int:
    value = whole(dataset, keyword)
    if value is None or value < 1:
        raise Parked(f"{keyword}: expected a positive number, got {value}")
    return value


def transfer_syntax_of(dataset: Dataset) -> UID:
    """Transfer syntax that an instance's file meta information names; raises `Parked` where it names none."""
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    if not syntax.is_transfer_syntax:
        raise Parked("no transfer syntax that is known (0002,0010)")
    return syntax


def _padding(dataset: Attributes, allocated: int, signed: bool) -> tuple[int, int] | None:
    """Range of padding values as numbers of the pixels' own signedness, whichever VR (US, SS) they came in."""
    values = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = numbers(dataset, keyword, 1)
        if value is not None:
            wrapped = int(value[0]) % (1 << allocated)
            values.append(wrapped - (1 << allocated) if signed and wrapped >> (allocated - 1) else wrapped)
    return (min(values), max(values)) if values else None
