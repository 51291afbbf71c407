"""Attributes of one frame, of a classic image or of an Enhanced multi-frame one (PS3.3 C.7.6.16, C.8.13, C.8.15).

A multi-frame image's lie in macros: items of sequences that are either shared by all frames or repeated for each.
"""

from functools import cache

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

MACROS: dict[str, tuple[tuple[str, str], ...]] = {
    "ImagePositionPatient": (("PlanePositionSequence", "ImagePositionPatient"),),
    "ImageOrientationPatient": (("PlaneOrientationSequence", "ImageOrientationPatient"),),
    "PixelSpacing": (("PixelMeasuresSequence", "PixelSpacing"),),
    "SliceThickness": (("PixelMeasuresSequence", "SliceThickness"),),
    "RescaleSlope": (("PixelValueTransformationSequence", "RescaleSlope"),),
    "RescaleIntercept": (("PixelValueTransformationSequence", "RescaleIntercept"),),
    "RescaleType": (("PixelValueTransformationSequence", "RescaleType"),),
    "WindowCenter": (("FrameVOILUTSequence", "WindowCenter"),),
    "WindowWidth": (("FrameVOILUTSequence", "WindowWidth"),),
    "VOILUTFunction": (("FrameVOILUTSequence", "VOILUTFunction"),),
    "ImageType": (("CTImageFrameTypeSequence", "FrameType"), ("MRImageFrameTypeSequence", "FrameType")),
    "ComplexImageComponent": (("MRImageFrameTypeSequence", "ComplexImageComponent"),),
    "StackID": (("FrameContentSequence", "StackID"),),
    "TemporalPositionIdentifier": (("FrameContentSequence", "TemporalPositionIndex"),),
    "AcquisitionNumber": (("FrameContentSequence", "FrameAcquisitionNumber"),),
    "AcquisitionDateTime": (
        ("FrameContentSequence", "FrameAcquisitionDateTime"),
        ("FrameContentSequence", "FrameReferenceDateTime"),
    ),
    "EchoTime": (("MREchoSequence", "EffectiveEchoTime"),),
    "InversionTime": (("MRModifierSequence", "InversionTimes"),),
    "FlipAngle": (("MRTimingAndRelatedParametersSequence", "FlipAngle"),),
    "DiffusionBValue": (("MRDiffusionSequence", "DiffusionBValue"),),
    "TriggerTime": (
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        ("TemporalPositionSequence", "TemporalPositionTimeOffset"),
    ),
    "NominalPercentageOfCardiacPhase": (("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),),
    "KVP": (("CTXRayDetailsSequence", "KVP"),),
    "ConvolutionKernel": (("CTReconstructionSequence", "ConvolutionKernel"),),
    "GantryDetectorTilt": (("CTGeometrySequence", "GantryDetectorTilt"),),
}
"""Attribute of the classic IODs: the macros (sequence, attribute in its item) that hold it, in order."""

PER_INSTANCE = frozenset({"FrameOfReferenceUID", "Modality", "MonoenergeticEnergyEquivalent"})
"""Attributes outside the macros that hold for every frame."""

SPATIAL_POINTERS = frozenset({0x00209057, 0x00200032, 0x00209056, 0x00201041, 0x00200037})
"""Dimensions that say where a frame lies: In-Stack Position Number, Image Position and Orientation, Stack ID."""


_EMPTY = Dataset()
"""Stands for an item that is not there; making a new one each time takes most of the time of a header."""


class InstanceAttributes:
    """Attributes of a classic image: those of its data set, found by their numbers, as most are not there at all.

    Looked up by keyword, what is absent costs the data set as much as what is present.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._present = frozenset(map(int, dataset.keys()))

    def get(self, keyword: str, /) -> object:
        """Value of an attribute, or None."""
        tag = _tag(keyword)
        return self._dataset[tag].value if tag in self._present else None


@cache
def _tag(keyword: str) -> int | None:
    return tag_for_keyword(keyword)


class FrameAttributes:
    """Attributes of one frame: its own macros, the shared ones, converted attributes, then the instance's.

    Parameters
    ----------
    dataset : Dataset
        The multi-frame instance.
    frame : Dataset
        Its item of the Per-frame Functional Groups Sequence.
    index : int
        Its number, from 0.
    """

    def __init__(self, dataset: Dataset, frame: Dataset, index: int) -> None:
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        self._dataset = dataset
        self._groups = (frame, shared[0])
        self._index = index

    def get(self, keyword: str, /) -> object:
        """Value of the attribute that the classic IODs call `keyword`, or None."""
        if keyword == "InstanceNumber":
            return self._index + 1
        if keyword == "DimensionIndexValues":
            return self._dimensions()
        if keyword == "DiffusionGradientOrientation":
            return self._gradient()
        for sequence, name in MACROS.get(keyword, ()):
            for group in self._groups:
                value = item_of(group, sequence).get(name)
                if value is not None:
                    return value
        return self._converted(keyword)

    def _converted(self, keyword: str) -> object:
        """Legacy Converted images keep what has no macro in sequences of their own (PS3.3 C.7.6.16.2.25)."""
        places = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
        for group, sequence in zip(self._groups, places, strict=True):
            value = item_of(group, sequence).get(keyword)
            if value is not None:
                return value
        return self._dataset.get(keyword) if keyword in PER_INSTANCE else None

    def _gradient(self) -> object:
        for group in self._groups:
            diffusion = item_of(group, "MRDiffusionSequence")
            value = item_of(diffusion, "DiffusionGradientDirectionSequence").get("DiffusionGradientOrientation")
            if value is not None:
                return value
        return None

    def _dimensions(self) -> list[int] | None:
        """Values of the dimensions that do not say where the frame lies (PS3.3 C.7.6.17)."""
        values = item_of(self._groups[0], "FrameContentSequence").get("DimensionIndexValues")
        pointers = [item.get("DimensionIndexPointer") for item in self._dataset.get("DimensionIndexSequence") or ()]
        values = [values] if isinstance(values, int) else list(values or ())
        if len(values) != len(pointers):
            return None
        return [value for value, pointer in zip(values, pointers, strict=True) if pointer not in SPATIAL_POINTERS]


def item_of(group: Dataset, sequence: str) -> Dataset:
    """First item of a sequence; an empty one where there is none."""
    items = group.get(sequence)
    return items[0] if items else _EMPTY
