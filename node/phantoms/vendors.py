"""Habits of invented scanner vendors: what differs between real ones although the standard is the same.

The names are made up on purpose; no real product writes exactly like any of these.
"""

from dataclasses import dataclass
from typing import Literal

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless


@dataclass(frozen=True, slots=True)
class Vendor:
    """How one vendor writes images.

    Attributes
    ----------
    ct_intercept, ct_bits, ct_signed
        Rescale Intercept (slope 1), Bits Stored and Pixel Representation of CT.
    ct_padding : int, optional
        Stored value outside of the circular field of view, Pixel Padding Value; None leaves air there.
    thickness_ratio : float
        Slice Thickness over the distance between slices: above 1 they overlap, below 1 there are gaps.
    feet_first, descending : bool
        Patient Position FFS instead of HFS; Instance Number 1 at the last place along the slice axis.
    mr_scale : float
        Stored value of relative MR signal 1.
    """

    name: str
    model: str
    transfer_syntax: UID
    ct_intercept: int
    ct_bits: Literal[12, 16]
    ct_signed: bool
    ct_padding: int | None
    thickness_ratio: float
    feet_first: bool
    descending: bool
    mr_scale: float


VENDORS = (
    Vendor("Vendor A", "A-64", ExplicitVRLittleEndian, -1024, 12, False, None, 1.0, False, True, 900.0),
    Vendor("Vendor B", "B-16", ImplicitVRLittleEndian, -1024, 16, True, -2000, 1.25, False, False, 2100.0),
    Vendor("Vendor C", "C-128", JPEGLSLossless, -8192, 16, False, 0, 0.8, False, True, 420.0),
    Vendor("Vendor D", "D-32", RLELossless, 0, 16, True, -3024, 1.0, True, False, 1500.0),
)
