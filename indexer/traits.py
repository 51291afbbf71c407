"""What sets apart frames that show the same place: echo, diffusion weighting, phase, kind of image, acquisition.

Elements of vendors are read where the standard's attribute is missing: older and classic MR images have no other.
"""

import math
from dataclasses import dataclass

from pydicom import Dataset

from indexer.headers import Attributes, coded, lenient_number, lenient_numbers, moment_s, text

B_VALUE_ELEMENTS = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),
)
"""Where Siemens, GE, Philips and United Imaging keep the b-value: group, private creator, element."""
DIRECTION_ELEMENTS = (
    (0x0019, "SIEMENS MR HEADER", (0x0E,)),
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD)),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2)),
)
"""Where Siemens, GE and Philips keep the diffusion gradient's direction: one element of three values, or three."""
COMPONENT_ELEMENT = (0x0043, "GEMS_PARM_01", 0x2F)
"""Where GE tells magnitude (0), phase (1), real (2) and imaginary (3) images apart."""
GE_B_VALUE_OFFSET = 1e9
"""GE adds this to b-values of some sequences."""


@dataclass(frozen=True, slots=True)
class Traits:
    """Attributes of one frame that may explain why its position occurs again; None or empty where absent.

    Times are seconds since a fixed moment (only differences mean anything).
    """

    image_type: tuple[str, ...]
    component: str
    stack_id: str
    echo_time_ms: float | None
    echo_number: float | None
    inversion_time_ms: float | None
    flip_angle_deg: float | None
    b_value_s_mm2: float | None
    gradient: tuple[float, ...]
    temporal_position: float | None
    trigger_time_ms: float | None
    cardiac_percent: float | None
    kvp: float | None
    energy_kev: float | None
    kernel: str
    thickness_mm: float | None
    acquisition_number: float | None
    dimension_index: tuple[float, ...]
    gantry_tilt_deg: float | None
    acquisition_time_s: float | None
    content_time_s: float | None
    instance_number: float | None


def traits_of(source: Attributes, private: Dataset) -> Traits:
    """Collect the traits of a frame.

    Parameters
    ----------
    source : Attributes
        The frame's standard attributes.
    private : Dataset
        Where vendors' elements are looked up: the data set of a classic instance, an item of functional groups.
    """
    vendors = _Vendors(private)
    return Traits(
        image_type=coded(source, "ImageType"),
        component="\\".join(coded(source, "ComplexImageComponent")) or _ge_component(vendors),
        stack_id=text(source, "StackID"),
        echo_time_ms=lenient_number(source, "EchoTime"),
        echo_number=lenient_number(source, "EchoNumbers"),
        inversion_time_ms=lenient_number(source, "InversionTime"),
        flip_angle_deg=lenient_number(source, "FlipAngle"),
        b_value_s_mm2=_b_value(source, vendors),
        gradient=_gradient(source, vendors),
        temporal_position=lenient_number(source, "TemporalPositionIdentifier"),
        trigger_time_ms=lenient_number(source, "TriggerTime"),
        cardiac_percent=lenient_number(source, "NominalPercentageOfCardiacPhase"),
        kvp=lenient_number(source, "KVP"),
        energy_kev=lenient_number(source, "MonoenergeticEnergyEquivalent"),
        kernel=text(source, "ConvolutionKernel"),
        thickness_mm=lenient_number(source, "SliceThickness"),
        acquisition_number=lenient_number(source, "AcquisitionNumber"),
        dimension_index=lenient_numbers(source, "DimensionIndexValues"),
        gantry_tilt_deg=lenient_number(source, "GantryDetectorTilt"),
        acquisition_time_s=moment_s(source, "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"),
        content_time_s=moment_s(source, None, "ContentDate", "ContentTime"),
        instance_number=lenient_number(source, "InstanceNumber"),
    )


class _Vendors:
    """Elements of vendors in a data set."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._groups = {int(tag) >> 16 for tag in dataset.keys()}  # noqa: SIM118 - a data set is no mapping

    def numbers(self, group: int, creator: str, element: int) -> tuple[float, ...]:
        """Numbers of an element; a peer that sends implicit VR makes it UN, that is, text in bytes."""
        if group not in self._groups:
            return ()  # the library would look for a creator in every place there may be one
        try:
            value = self._dataset.private_block(group, creator)[element].value
            if isinstance(value, bytes):
                value = value.decode("ascii").strip(" \0").split("\\")
            values = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
            parsed = tuple(float(part) for part in values)
        except Exception:
            return ()
        return parsed if all(map(math.isfinite, parsed)) else ()


def _b_value(source: Attributes, vendors: _Vendors) -> float | None:
    value = lenient_number(source, "DiffusionBValue")
    if value is not None:
        return value
    for group, creator, element in B_VALUE_ELEMENTS:
        found = vendors.numbers(group, creator, element)
        if found:
            return found[0] % GE_B_VALUE_OFFSET
    return None


def _gradient(source: Attributes, vendors: _Vendors) -> tuple[float, ...]:
    direction = lenient_numbers(source, "DiffusionGradientOrientation")
    for group, creator, elements in DIRECTION_ELEMENTS:
        if direction:
            break
        parts = [vendors.numbers(group, creator, element) for element in elements]
        direction = tuple(value for part in parts for value in part)
    return tuple(round(value, 3) for value in direction)


def _ge_component(vendors: _Vendors) -> str:
    found = vendors.numbers(*COMPONENT_ELEMENT)
    return f"{found[0]:g}" if found else ""
