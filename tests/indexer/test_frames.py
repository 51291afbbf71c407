import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from indexer.codestream import frame_size
from indexer.errors import Parked, Transient
from indexer.frames import Frame, read_frames
from indexer.headers import quiet, read_dataset
from indexer.pixels import frame_values
from indexer.volume import plan_series

Save = Callable[[Iterable[Dataset]], list[Path]]
Slice = Callable[..., Dataset]
Build = Callable[..., list[Dataset]]


def only_frame(path: Path) -> Frame:
    reading = read_frames(path)
    assert reading.dropped == ()
    (frame,) = reading.frames
    return frame


def values_of(path: Path) -> NDArray[np.float32]:
    return frame_values(read_dataset(path, with_pixels=True), only_frame(path))


@pytest.fixture
def picture() -> NDArray[np.int16]:
    """Values with a sign and a gradient, of odd dimensions."""
    return np.add.outer(np.arange(-700, -663, dtype=np.int16), 60 * np.arange(41, dtype=np.int16))


class TestTransferSyntaxes:
    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
    )
    def test_native(self, a_slice: Slice, save: Save, picture: NDArray[np.int16], syntax: str) -> None:
        (path,) = save([a_slice(picture, syntax=syntax)])
        np.testing.assert_array_equal(values_of(path), picture)

    def test_big_endian(self, a_slice: Slice, save: Save, picture: NDArray[np.int16]) -> None:
        one = a_slice(picture, syntax=ExplicitVRBigEndian)
        one.PixelData = picture.astype(">i2").tobytes()
        np.testing.assert_array_equal(values_of(save([one])[0]), picture)

    @pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
    @pytest.mark.parametrize("kind", ["signed 16", "unsigned 12", "unsigned 8", "signed 12"])
    def test_lossless(self, a_slice: Slice, save: Save, picture: NDArray[np.int16], syntax: str, kind: str) -> None:
        dtype = {"signed 16": np.int16, "signed 12": np.int16, "unsigned 12": np.uint16, "unsigned 8": np.uint8}
        pixels = (picture if kind.startswith("signed") else (picture + 700) // 10).astype(dtype[kind])
        one = a_slice(pixels)
        one.BitsStored = int(kind.split()[1])
        one.HighBit = one.BitsStored - 1
        one.compress(syntax, generate_instance_uid=False)
        np.testing.assert_array_equal(values_of(save([one])[0]), pixels)

    @pytest.mark.parametrize(
        ("syntax", "options"), [(JPEGLSNearLossless, {"jls_error": 3}), (JPEG2000, {"j2k_cr": [4]})]
    )
    def test_lossy(
        self, a_slice: Slice, save: Save, picture: NDArray[np.int16], syntax: str, options: dict[str, object]
    ) -> None:
        pixels = (picture + 700).astype(np.uint16)
        one = a_slice(pixels)
        one.compress(syntax, generate_instance_uid=False, **options)
        assert np.abs(values_of(save([one])[0]) - pixels).max() < 60

    def test_jpeg_baseline(self, a_slice: Slice, save: Save, picture: NDArray[np.int16]) -> None:
        pixels = ((picture + 700) // 10).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        one = a_slice(pixels, syntax=JPEGBaseline8Bit)
        one.PixelData = encapsulate([buffer.getvalue()])
        assert np.abs(values_of(save([one])[0]) - pixels).max() < 12

    def test_a_compressed_frame_of_other_dimensions_is_refused(self, a_slice: Slice, save: Save) -> None:
        one = a_slice(np.zeros((8, 8), np.uint16))
        one.compress(JPEGLSLossless, generate_instance_uid=False)
        one.Rows, one.Columns = 4, 16
        with pytest.raises(Parked, match=r"expected 4 x 16, the compressed frame claims \(8, 8\)"):
            values_of(save([one])[0])

    @pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
    def test_dimensions_in_a_codestream(self, a_slice: Slice, picture: NDArray[np.int16], syntax: str) -> None:
        one = a_slice(picture)
        one.compress(syntax)
        codestream = get_frame(one.PixelData, 0, number_of_frames=1)
        assert frame_size(codestream) == picture.shape
        assert frame_size(codestream[:9]) is None
        assert frame_size(b"") is None


class TestValues:
    def test_slope_and_intercept(self, a_slice: Slice, save: Save) -> None:
        one = a_slice(np.full((2, 2), 1074, np.uint16), RescaleIntercept=-1024, RescaleSlope=2)
        np.testing.assert_array_equal(values_of(save([one])[0]), 1124)

    def test_a_modality_table_instead_of_slope(self, a_slice: Slice, save: Save) -> None:
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [4, 10, 16], "HU"
        table.add_new("LUTData", "US", [0, 50, 700, 900])
        pixels = np.array([[9, 10, 11], [12, 13, 14]], np.uint16)
        one = a_slice(pixels, RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=[table])
        np.testing.assert_array_equal(values_of(save([one])[0]), [[0, 0, 50], [700, 900, 900]])

    @pytest.mark.parametrize(
        ("words", "signed", "expected"),
        [
            pytest.param([0xF123, 0x0FFF], 0, [0x123, 0xFFF], id="overlay above"),
            pytest.param([0xFF38, 0x0F38, 0x0064], 1, [-200, -200, 100], id="sign not extended"),
        ],
    )
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
    def test_unused_high_bits(
        self, a_slice: Slice, save: Save, words: list[int], signed: int, expected: list[int], syntax: str
    ) -> None:
        one = a_slice(np.array([words], np.uint16))
        if syntax == RLELossless:
            one.compress(syntax, generate_instance_uid=False)
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, signed
        np.testing.assert_array_equal(values_of(save([one])[0]), [expected])

    def test_values_kept_in_the_high_bits(self, a_slice: Slice, save: Save) -> None:
        one = a_slice(np.array([[0x1234, 0xFFF0]], np.uint16), BitsStored=12, HighBit=15)
        np.testing.assert_array_equal(values_of(save([one])[0]), [[0x123, 0xFFF]])

    def test_32_bits(self, a_slice: Slice, save: Save) -> None:
        pixels = np.array([[-1000, 70_000]], np.int32)
        np.testing.assert_array_equal(values_of(save([a_slice(pixels)])[0]), pixels)

    def test_floating_point(self, a_slice: Slice, save: Save) -> None:
        one = a_slice(np.zeros((2, 2), np.int32))
        del one.PixelData
        one.FloatPixelData = np.array([[0.5, -20.25], [np.nan, 30]], np.float32).tobytes()
        np.testing.assert_array_equal(values_of(save([one])[0]), [[0.5, -20.25], [-1024, 30]])

    @pytest.mark.parametrize(("vr", "padding"), [("SS", -2000), ("US", 63536)])
    def test_padding_of_either_representation(self, a_slice: Slice, save: Save, vr: str, padding: int) -> None:
        one = a_slice(np.array([[-2000, 40]], np.int16), RescaleIntercept=1000)
        one.add_new("PixelPaddingValue", vr, padding)
        np.testing.assert_array_equal(values_of(save([one])[0]), [[-1024, 1040]])


class TestExcluded:
    @pytest.mark.parametrize(
        ("attributes", "reason"),
        [
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "a mosaic"),
            ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "a projection"),
            ({"ImageType": ["DERIVED", "SECONDARY"], "ImagePositionPatient": None}, "without a place"),
            ({"ConversionType": "WSD"}, "a secondary capture"),
            ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "a colour image"),
            ({"PhotometricInterpretation": "PALETTE COLOR"}, "a colour image"),
            ({"RescaleType": "MGML"}, "values in MGML"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "no CT or MR image"),
        ],
    )
    def test_what_is_no_volume_is_dropped_and_the_rest_stays(
        self, a_stack: Build, save: Save, attributes: dict[str, object], reason: str
    ) -> None:
        other, *slices = a_stack(range(0, 12, 2))
        for keyword, value in attributes.items():
            setattr(other, keyword, value) if value else delattr(other, keyword)
        paths = save([other, *slices])
        plan = plan_series(paths)
        assert [one.sop_instance_uid for one in plan.dropped] == [other.SOPInstanceUID]
        assert reason in plan.dropped[0].reason
        with pytest.raises(Parked, match=f"no instance is part of a CT or MR volume: 1 x .*{reason}"):
            plan_series(paths[:1])

    @pytest.mark.parametrize("image_type", [["DERIVED", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "MPR"]])
    def test_derived_images_with_a_place_are_volumes(
        self, a_stack: Build, save: Save, image_type: list[str]
    ) -> None:
        assert len(plan_series(save(a_stack(range(0, 12, 2), ImageType=image_type))).stacks) == 1

    def test_localizer_frames_within_an_enhanced_instance(
        self, an_enhanced: Callable[..., Dataset], save: Save
    ) -> None:
        frames = [
            {
                "PlanePositionSequence": {"ImagePositionPatient": [0, 0, 3 * k]},
                "CTImageFrameTypeSequence": {
                    "FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER" if k < 2 else "VOLUME", "NONE"]
                },
            }
            for k in range(7)
        ]
        plan = plan_series(save([an_enhanced(np.zeros((7, 3, 3), np.int16), frames, modality="CT")]))
        assert len(plan.stacks[0].frames) == 5
        assert plan.dropped[0].reason == "a localizer (Image Type LOCALIZER) (2 frames)"


HOSTILE: list[tuple[str, object, str]] = [
    ("PixelSpacing", ["0", "0"], "PixelSpacing: expected 0.01 to 50 mm, got 0 and 0"),
    ("PixelSpacing", ["-1", "1"], "PixelSpacing"),
    ("PixelSpacing", ["1e9", "1"], "PixelSpacing"),
    ("PixelSpacing", ["1"], r"PixelSpacing: expected 2 number\(s\), got 1"),
    ("PixelSpacing", None, "no Pixel Spacing"),
    ("ImagePositionPatient", ["nan", "0", "0"], "ImagePositionPatient: expected finite numbers"),
    ("ImagePositionPatient", ["inf", "0", "0"], "ImagePositionPatient: expected finite numbers"),
    ("ImagePositionPatient", ["1e7", "0", "0"], "10000 mm from the origin"),
    ("ImagePositionPatient", None, "no Image Position"),
    ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], "two orthogonal unit vectors"),
    ("ImageOrientationPatient", ["0", "0", "0", "0", "0", "0"], "two orthogonal unit vectors"),
    ("ImageOrientationPatient", ["2", "0", "0", "0", "2", "0"], "two orthogonal unit vectors"),
    ("ImageOrientationPatient", None, "no Image Orientation"),
    ("Rows", 0, "Rows: expected a positive number, got 0"),
    ("Rows", 4000, "pixel data: expected 40000 bytes, the file has"),
    ("NumberOfFrames", "-3", "NumberOfFrames"),
    ("NumberOfFrames", "2", "expected 1 in a single-frame image"),
    ("BitsAllocated", 13, "BitsAllocated"),
    ("BitsStored", 17, "BitsAllocated, BitsStored"),
    ("HighBit", 40, "HighBit"),
    ("RescaleSlope", "0", "RescaleSlope"),
    ("RescaleSlope", "1e300", "RescaleSlope"),
    ("RescaleIntercept", None, "no Rescale Slope and Intercept"),
    ("SeriesInstanceUID", "", "no Series Instance UID"),
    ("SOPInstanceUID", "", "no SOP Instance UID"),
]


@pytest.mark.parametrize(("keyword", "value", "reason"), HOSTILE)
def test_unsound_headers_park_the_series(
    a_stack: Build, save: Save, keyword: str, value: object, reason: str
) -> None:
    slices = a_stack(range(0, 12, 2))
    with disable_value_validation(), quiet():
        for one in slices:
            delattr(one, keyword) if value is None and keyword in one else setattr(one, keyword, value)
            if keyword == "SOPInstanceUID":
                one.file_meta.MediaStorageSOPInstanceUID = "2.25.5"
    with pytest.raises(Parked, match=reason):
        plan_series(save(slices))


def test_one_unsound_instance_of_many_counts_as_missing(a_stack: Build, save: Save) -> None:
    slices = a_stack(range(0, 40, 2))
    slices[4].PixelSpacing = [0, 0]
    plan = plan_series(save(slices))
    assert [one.sop_instance_uid for one in plan.dropped] == [slices[4].SOPInstanceUID]
    slices[5].PixelSpacing = slices[6].PixelSpacing = [0, 0]
    with pytest.raises(Parked, match="3 of 20 instances are damaged: 3 x PixelSpacing"):
        plan_series(save(slices))


def test_text_in_numbers_is_refused_without_repeating_it(a_slice: Slice, save: Save) -> None:
    (path,) = save([a_slice(np.zeros((4, 4), np.int16), PixelSpacing=[1.25, 1.25])])
    path.write_bytes(path.read_bytes().replace(b"1.25\\1.25", b"Doe\\Jane "))
    reading = read_frames(path)
    assert reading.damaged
    assert "PixelSpacing" in reading.dropped[0].reason
    assert "Doe" not in reading.dropped[0].reason


def test_values_that_their_vr_does_not_allow_are_not_logged(
    a_slice: Slice, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (path,) = save([a_slice(np.zeros((4, 4), np.int16))])
    path.write_bytes(path.read_bytes().replace(b"2.25.1002", b"Doe^Janes"))
    assert only_frame(path).frame_of_reference_uid == ""
    assert "Doe" not in caplog.text


def test_every_cut_of_a_file_gives_a_reason(a_slice: Slice, save: Save) -> None:
    (path,) = save([a_slice(np.zeros((4, 4), np.int16))])
    whole = path.read_bytes()
    for length in range(0, len(whole) - 40, 7):
        path.write_bytes(whole[:length])
        reading = read_frames(path)
        assert reading.frames or reading.dropped[0].reason


def test_flipped_bytes_never_crash(a_slice: Slice, save: Save) -> None:
    (path,) = save([a_slice(np.zeros((4, 4), np.int16))])
    whole = path.read_bytes()
    draws = np.random.default_rng(7)
    for _ in range(300):
        spoilt = bytearray(whole)
        for place in draws.integers(132, len(whole), 3):
            spoilt[place] = draws.integers(256)
        path.write_bytes(spoilt)
        reading = read_frames(path)
        assert len(reading.frames) + len(reading.dropped) == 1


def test_not_a_dicom_file(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text("no image")
    with pytest.raises(Parked, match="expected a DICOM file"):
        plan_series([path])


def test_a_file_that_is_away_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(Transient):
        plan_series([tmp_path / "nothing"])


def test_instances_of_two_series_are_a_mistake_of_the_caller(a_stack: Build, save: Save) -> None:
    slices = a_stack(range(0, 12, 2))
    slices[0].SeriesInstanceUID = "2.25.99"
    with pytest.raises(ValueError, match="got 2 Series Instance UIDs"):
        plan_series(save(slices))
    with pytest.raises(ValueError, match="got none"):
        plan_series([])


def test_an_enhanced_instance_must_describe_every_frame(an_enhanced: Callable[..., Dataset], save: Save) -> None:
    frames = [{"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 3 * k]}} for k in range(5)]
    instance = an_enhanced(np.zeros((5, 3, 3), np.uint16), frames)
    instance.NumberOfFrames = 4
    with pytest.raises(Parked, match="functional groups each for 4, got 5"):
        plan_series(save([instance]))


def test_a_legacy_converted_instance_keeps_attributes_in_sequences_of_its_own(
    an_enhanced: Callable[..., Dataset], save: Save
) -> None:
    frames = [
        {
            "PlanePositionSequence": {"ImagePositionPatient": [0, 0, 3 * k]},
            "UnassignedPerFrameConvertedAttributesSequence": {"EchoTime": echo},
        }
        for echo in (10, 80)
        for k in range(4)
    ]
    instance = an_enhanced(np.zeros((8, 3, 3), np.uint16), frames)
    instance.SOPClassUID = instance.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.4"
    assert [stack.label for stack in plan_series(save([instance])).stacks] == ["echo 1", "echo 2"]
