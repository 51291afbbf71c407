from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import JPEGLSLossless

from indexer.errors import Parked
from indexer.volume import SeriesPlan, load_volume, plan_series

Save = Callable[[Iterable[Dataset]], list[Path]]
Build = Callable[..., list[Dataset]]
HEIGHTS = range(0, 12, 2)


def labels(plan: SeriesPlan) -> list[str]:
    return [stack.label for stack in plan.stacks]


def uids(plan: SeriesPlan) -> list[set[str]]:
    return [{frame.sop_instance_uid for frame in stack.frames} for stack in plan.stacks]


def uids_of(*stacks: Sequence[Dataset]) -> list[set[str]]:
    return [{one.SOPInstanceUID for one in stack} for stack in stacks]


class TestExplainedRepeats:
    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ({"EchoTime": 2.3}, {"EchoTime": 4.6}, ["echo 1", "echo 2"]),
            ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}, ["b=0", "b=800"]),
            ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, ["phase 1", "phase 2"]),
            ({"TriggerTime": 0}, {"TriggerTime": 45.5}, ["phase 1", "phase 2"]),
            ({"InversionTime": 100}, {"InversionTime": 2500}, ["TI=100", "TI=2500"]),
            (
                {"DiffusionGradientOrientation": [0.0, 0.0, 1.0]},
                {"DiffusionGradientOrientation": [0.0, 1.0, 0.0]},
                ["direction 1", "direction 2"],
            ),
            ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, ["acquisition 1", "acquisition 2"]),
            ({"AcquisitionTime": "090000"}, {"AcquisitionTime": "090130"}, ["phase 1", "phase 2"]),
            (
                {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]},
                {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"]},
                ["DERIVED ADC", "ORIGINAL TRACEW"],
            ),
            (
                {"ImageType": ["ORIGINAL", "PRIMARY", "M", "WATER"]},
                {"ImageType": ["ORIGINAL", "PRIMARY", "P", "WATER"]},
                ["M", "P"],
            ),
        ],
    )
    def test_an_attribute_that_differs_at_every_position_separates(
        self, a_stack: Build, save: Save,
        first: dict[str, object], second: dict[str, object], expected: list[str],
    ) -> None:  # fmt: skip
        one, other = a_stack(HEIGHTS, "MR", **first), a_stack(HEIGHTS, "MR", **second)
        plan = plan_series(save(other[::-1] + one))
        assert labels(plan) == expected
        assert uids(plan) == uids_of(one, other)
        assert plan.dropped == ()

    @pytest.mark.parametrize(
        ("group", "creator", "element", "vr", "values", "expected"),
        [
            (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", [50, 800], ["b=50", "b=800"]),
            (0x0043, "GEMS_PARM_01", 0x39, "IS", [[0, 8, 0, 0], [1000000800, 8, 0, 0]], ["b=0", "b=800"]),
            (0x2001, "Philips Imaging DD 001", 0x03, "FL", [0.0, 1000.0], ["b=0", "b=1000"]),
            (0x0019, "SIEMENS MR HEADER", 0x0C, "UN", [b"50", b"800 "], ["b=50", "b=800"]),
        ],
    )
    def test_b_values_of_vendors(
        self, a_stack: Build, save: Save,
        group: int, creator: str, element: int, vr: str, values: list[object], expected: list[str],
    ) -> None:  # fmt: skip
        stacks = [a_stack(HEIGHTS, "MR") for _ in values]
        for stack, value in zip(stacks, values, strict=True):
            for one in stack:
                one.private_block(group, creator, create=True).add_new(element, vr, value)
        plan = plan_series(save(stacks[1] + stacks[0]))
        assert labels(plan) == expected
        assert uids(plan) == uids_of(*stacks)

    def test_two_attributes_at_once(self, a_stack: Build, save: Save) -> None:
        both = list(product((0.0, 500.0), (1, 2, 3)))
        stacks = [a_stack(HEIGHTS, "MR", DiffusionBValue=b, TemporalPositionIdentifier=t) for b, t in both]
        plan = plan_series(save(one for stack in stacks[::-1] for one in stack))
        assert labels(plan) == [f"b={b:g}, phase {t}" for b, t in both]
        assert uids(plan) == uids_of(*stacks)

    def test_phases_that_every_slice_times_for_itself(self, a_stack: Build, save: Save) -> None:
        slices, expected = [], [[], [], []]
        for k, height in enumerate(HEIGHTS):
            for phase, trigger in enumerate((3.1 + k, 35.0 + k, 66.7 + k)):
                one = a_stack([height], "MR", TriggerTime=trigger)
                slices += one
                expected[phase] += one
        plan = plan_series(save(slices))
        assert labels(plan) == ["phase 1", "phase 2", "phase 3"]
        assert uids(plan) == uids_of(*expected)

    def test_a_reconstruction_with_thin_and_one_with_thick_slices(self, a_stack: Build, save: Save) -> None:
        thin = a_stack(np.arange(0, 21, 1), SliceThickness=1)
        thick = a_stack(np.arange(0, 21, 5), SliceThickness=5)
        plan = plan_series(save(thick + thin))
        assert labels(plan) == ["1 mm slices", "5 mm slices"]
        assert uids(plan) == uids_of(thin, thick)

    def test_interleaved_stacks_at_positions_of_their_own(self, a_stack: Build, save: Save) -> None:
        one = a_stack(np.arange(0, 40, 5), AcquisitionNumber=1)
        other = a_stack(np.arange(1, 41, 5), AcquisitionNumber=2)
        plan = plan_series(save(one + other))
        assert labels(plan) == ["acquisition 1", "acquisition 2"]
        assert uids(plan) == uids_of(one, other)

    def test_instance_numbers_in_equal_runs_are_the_last_resort(self, a_stack: Build, save: Save) -> None:
        slices = a_stack([*HEIGHTS, *HEIGHTS])
        for k, one in enumerate(slices):
            one.PixelData = np.full((4, 5), k, np.int16).tobytes()
        plan = plan_series(save(slices[::-1]))
        assert labels(plan) == ["run 1", "run 2"]
        assert uids(plan) == uids_of(slices[:6], slices[6:])
        assert plan.stacks[0].notes == ("separated by Instance Number",)

    def test_unexplained_repeats_are_parked(self, a_stack: Build, save: Save) -> None:
        slices = a_stack([*HEIGHTS, 0, 2, 4])
        for k, one in enumerate(slices):
            one.PixelData = np.full((4, 5), k, np.int16).tobytes()
        with pytest.raises(Parked, match="3 of 6 positions occur again and no attribute explains why"):
            plan_series(save(slices))


class TestUnbrokenSeries:
    def test_what_varies_slice_by_slice_does_not_shatter(self, a_stack: Build, save: Save) -> None:
        slices = a_stack(range(0, 40, 2), "MR")
        for k, one in enumerate(slices):
            one.AcquisitionTime, one.AcquisitionNumber, one.EchoTime = f"0900{k:02}", k, 80 + k % 3
            one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ADD" if k % 2 else "NORM"]
        plan = plan_series(save(slices))
        assert labels(plan) == [""]
        assert len(plan.stacks[0].frames) == 20

    def test_an_attribute_that_leaves_most_frames_alone_explains_nothing(self, a_stack: Build, save: Save) -> None:
        one, other = (a_stack(range(0, 24, 2), "MR", AcquisitionTime=time) for time in ("090000", "090100"))
        for number, part in ((1, one), (2, other)):
            for k, each in enumerate(part):
                each.AcquisitionNumber = number if k < 3 else 10 * k + number
        plan = plan_series(save(one + other))
        assert labels(plan) == ["phase 1", "phase 2"]
        assert uids(plan) == uids_of(one, other)

    def test_an_acquisition_that_continues_another_is_one_volume(self, a_stack: Build, save: Save) -> None:
        first, second = (
            a_stack(range(0, 40, 2), AcquisitionNumber=1),
            a_stack(range(38, 60, 2), AcquisitionNumber=2),
        )
        second[0].ImagePositionPatient = [0, 0, 38.004]
        plan = plan_series(save(first + second))
        assert uids(plan) == uids_of(first + second[1:])
        assert [one.sop_instance_uid for one in plan.dropped] == [second[0].SOPInstanceUID]
        assert load_volume(plan.stacks[0]).notes == (
            "1 position(s) acquired twice, where one acquisition continues another",
        )

    def test_exact_duplicates_are_dropped_whatever_their_encoding(self, a_stack: Build, save: Save) -> None:
        slices, copies = a_stack(HEIGHTS), a_stack(HEIGHTS)
        for one in copies[:3]:
            one.compress(JPEGLSLossless, generate_instance_uid=False)
        plan = plan_series(save(slices + copies))
        assert len(plan.stacks[0].frames) == len(slices) == len(plan.dropped)
        assert plan.stacks[0].notes == ("6 duplicates dropped",)

    def test_an_instance_that_came_twice(self, a_stack: Build, save: Save) -> None:
        slices = a_stack(HEIGHTS)
        plan = plan_series(save([*slices, slices[2]]))
        assert [one.reason for one in plan.dropped] == ["its SOP Instance UID came twice"]
        assert len(plan.stacks) == 1

    def test_frames_of_reference_that_differ_from_slice_to_slice_mean_nothing(
        self, a_stack: Build, save: Save
    ) -> None:
        slices = a_stack(HEIGHTS)
        for k, one in enumerate(slices):
            one.FrameOfReferenceUID = f"2.25.{k}"
        plan = plan_series(save(slices))
        volume = load_volume(plan.stacks[0])
        assert volume.notes == ("the Frame of Reference UID differs from slice to slice and was ignored",)
        assert volume.frame_of_reference_uid == ""


class TestParts:
    def test_two_frames_of_reference(self, a_stack: Build, save: Save) -> None:
        one, other = a_stack(HEIGHTS), a_stack(HEIGHTS, FrameOfReferenceUID="2.25.7")
        plan = plan_series(save(one + other))
        assert sorted(map(sorted, uids(plan))) == sorted(map(sorted, uids_of(one, other)))
        assert labels(plan) == ["volume 1", "volume 2"]

    def test_orientations_are_apart_and_a_single_slice_of_one_is_dropped(self, a_stack: Build, save: Save) -> None:
        axial = a_stack(HEIGHTS)
        sagittal = a_stack([0] * 5, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
        for k, one in enumerate(sagittal):
            one.ImagePositionPatient = [2 * k, 0, 0]
        coronal = a_stack([0], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
        plan = plan_series(save(axial + coronal + sagittal))
        assert {stack.label: len(stack.frames) for stack in plan.stacks} == {"axial": 6, "sagittal": 5}
        assert [one.sop_instance_uid for one in plan.dropped] == [coronal[0].SOPInstanceUID]

    def test_rasters_are_apart(self, a_stack: Build, save: Save) -> None:
        one, other = a_stack(HEIGHTS), a_stack(HEIGHTS, PixelSpacing=[0.5, 0.5])
        assert len(plan_series(save(one + other)).stacks) == 2

    def test_a_wide_gap_makes_parts(self, a_stack: Build, save: Save) -> None:
        plan = plan_series(save(a_stack([*range(0, 20, 2), *range(60, 72, 2), 100])))
        assert labels(plan) == ["part 1 of 3", "part 2 of 3"]
        assert [len(stack.frames) for stack in plan.stacks] == [10, 6]
        assert len(plan.dropped) == 1

    def test_too_many_missing_thin_slices_make_parts(self, a_stack: Build, save: Save) -> None:
        plan = plan_series(save(a_stack([*range(10), *range(15, 25)])))
        assert [len(stack.frames) for stack in plan.stacks] == [10, 10]

    @pytest.mark.parametrize("heights", [[0], [0, 5], [0, 0.5, 1.0, 1.5]])
    def test_too_few_or_too_thin(self, a_stack: Build, save: Save, heights: list[float]) -> None:
        with pytest.raises(Parked, match=f"a series of {len(heights)} slice"):
            plan_series(save(a_stack(heights)))

    def test_radial_images_are_parked(self, a_stack: Build, save: Save) -> None:
        slices = a_stack([0] * 12)
        for k, one in enumerate(slices):
            angle = np.pi * k / 12
            one.ImageOrientationPatient = [round(np.cos(angle), 6), round(np.sin(angle), 6), 0, 0, 0, -1]
        with pytest.raises(Parked, match="radial or rotating"):
            plan_series(save(slices))


class TestEnhanced:
    def test_echoes_stacks_and_phases_of_one_instance(
        self, an_enhanced: Callable[..., Dataset], save: Save
    ) -> None:
        keys = list(product((1.2, 5.0), (1, 2), range(4)))
        frames = [
            {
                "PlanePositionSequence": {"ImagePositionPatient": [0, 0, 3 * k]},
                "FrameContentSequence": {"TemporalPositionIndex": phase, "StackID": "1"},
                "MREchoSequence": {"EffectiveEchoTime": echo},
            }
            for echo, phase, k in keys
        ]
        pixels = np.stack([np.full((3, 4), 100 * echo + 10 * phase + k, np.uint16) for echo, phase, k in keys])
        plan = plan_series(save([an_enhanced(pixels, frames)]))
        assert labels(plan) == [f"echo {e}, phase {p}" for e, p in product((1, 2), (1, 2))]
        values = [load_volume(stack).voxels[:, 0, 0].tolist() for stack in plan.stacks]
        assert values == [[100 * e + 10 * p + k for k in range(4)] for e, p in product((1.2, 5.0), (1, 2))]

    def test_diffusion_and_maps_of_one_instance(self, an_enhanced: Callable[..., Dataset], save: Save) -> None:
        kinds = [("ORIGINAL", "NONE", 0.0), ("ORIGINAL", "NONE", 900.0), ("DERIVED", "ADC", None)]
        frames = [
            {
                "PlanePositionSequence": {"ImagePositionPatient": [0, 0, 4 * k]},
                "MRImageFrameTypeSequence": {"FrameType": [origin, "PRIMARY", "DIFFUSION", kind]},
            }
            | ({} if b is None else {"MRDiffusionSequence": {"DiffusionBValue": b}})
            for origin, kind, b in kinds
            for k in range(3)
        ]
        plan = plan_series(save([an_enhanced(np.zeros((9, 3, 4), np.uint16), frames)]))
        assert labels(plan) == ["DERIVED ADC", "ORIGINAL NONE, b=0", "ORIGINAL NONE, b=900"]

    def test_dimensions_separate_where_no_attribute_does(
        self, an_enhanced: Callable[..., Dataset], save: Save
    ) -> None:
        frames = [
            {
                "PlanePositionSequence": {"ImagePositionPatient": [0, 0, 4 * k]},
                "FrameContentSequence": {"DimensionIndexValues": [k + 1, kind]},
            }
            for kind in (1, 2)
            for k in range(3)
        ]
        instance = an_enhanced(np.arange(72, dtype=np.uint16).reshape(6, 3, 4), frames)
        instance.DimensionIndexSequence = [Dataset(), Dataset()]
        instance.DimensionIndexSequence[0].DimensionIndexPointer = 0x00209057  # In-Stack Position Number
        instance.DimensionIndexSequence[1].DimensionIndexPointer = 0x00180010  # Contrast/Bolus Agent
        plan = plan_series(save([instance]))
        assert labels(plan) == ["dimension 1", "dimension 2"]
        assert load_volume(plan.stacks[1]).slices[0].frame_number == 4
