"""Whether two encoded data sets say the same: archives re-encode what they forward."""

from itertools import zip_longest

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicom_scp.parsing import parse, quiet

_PIXEL_DATA = 0x7FE00010
_IMPLICIT_HEADER_BYTES = 8
_EXTENDED_OFFSETS = (0x7FE00001, 0x7FE00002, 0x7FE00003)
_DATA_SET_TRAILING_PADDING = 0xFFFCFFFC
_OF_THE_ENCODING = frozenset({_PIXEL_DATA, *_EXTENDED_OFFSETS, _DATA_SET_TRAILING_PADDING})
_OF_THE_COMPRESSION = frozenset({0x00280004, 0x00280006})
"""Photometric Interpretation and Planar Configuration follow the codec in colour images (PS3.5 8.2)."""


def same_content(first: bytes, first_syntax: str, second: bytes, second_syntax: str) -> bool:
    """Whether two data sets hold the same attributes, values and decoded pixels.

    Explicit or implicit VR, byte order, lengths of sequences and items, group lengths, padding and lossless
    compression are encoding, not content. In doubt they differ.

    Parameters
    ----------
    first, second : bytes
        Encoded data sets.
    first_syntax, second_syntax : str
        Their Transfer Syntax UIDs.
    """
    with quiet():
        try:
            one, other = parse(first, first_syntax), parse(second, second_syntax)
            skip = _OF_THE_ENCODING
            if first_syntax != second_syntax and one.get("SamplesPerPixel", 1) == 3:
                skip |= _OF_THE_COMPRESSION
            return _same_elements(one, other, skip) and _same_pixels(
                _with_meta(one, first_syntax), _with_meta(other, second_syntax)
            )
        except Exception:  # what cannot be compared is not known to be the same
            return False


def _same_elements(one: Dataset, other: Dataset, skip: frozenset[int]) -> bool:
    mine, theirs = _compared(one, skip), _compared(other, skip)
    return mine.keys() == theirs.keys() and all(_same_element(mine[tag], theirs[tag], skip) for tag in mine)


def _compared(dataset: Dataset, skip: frozenset[int]) -> dict[BaseTag, DataElement]:
    """Elements that are content: no group lengths, nothing to skip."""
    kept = Dataset()
    for element in dataset:
        if element.tag.element != 0 and element.tag not in skip:
            kept.add(element)
    return {element.tag: element for element in correct_ambiguous_vr(kept, True)}


def _same_element(one: DataElement, other: DataElement, skip: frozenset[int]) -> bool:
    if one.VR == "SQ" or other.VR == "SQ":
        if one.VR != other.VR or len(one.value) != len(other.value):
            return False
        return all(_same_elements(a, b, skip) for a, b in zip(one.value, other.value, strict=True))
    mine, theirs = _value_bytes(one), _value_bytes(other)
    if "UN" in (one.VR, other.VR):  # a private element of which one sender knew the VR; its padding is unknown
        return mine.rstrip(b" \0") == theirs.rstrip(b" \0")
    return one.VR == other.VR and mine == theirs


def _value_bytes(element: DataElement) -> bytes:
    """The value as Implicit VR Little Endian encodes it, text as UTF-8."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = True
    buffer.is_little_endian = True
    write_data_element(buffer, element, ["utf-8"])
    encoded: bytes = buffer.parent.getvalue()  # type: ignore[union-attr]
    return encoded[_IMPLICIT_HEADER_BYTES:]


def _with_meta(dataset: Dataset, transfer_syntax_uid: str) -> Dataset:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return dataset


def _same_pixels(one: Dataset, other: Dataset) -> bool:
    if (_PIXEL_DATA in one) != (_PIXEL_DATA in other):
        return False
    if _PIXEL_DATA not in one:
        return True
    same_syntax = one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID
    stored, sent = one.PixelData or b"", other.PixelData or b""
    if same_syntax and stored.rstrip(b"\0") == sent.rstrip(b"\0"):
        return True
    if not stored or not sent:
        return False
    frames = zip_longest(iter_pixels(one), iter_pixels(other))
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in frames)
