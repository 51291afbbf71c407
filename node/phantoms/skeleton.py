"""Bones of the trunk: spine, ribs, shoulder girdle, pelvis and the upper ends of the femurs."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from node.phantoms.outline import RIBCAGE, SIDES, Layer
from node.phantoms.patient import Patient
from node.phantoms.solids import (
    Both,
    Capsule,
    Column,
    Ellipsoid,
    Grown,
    HalfSpace,
    Outside,
    Point,
    Solid,
    mirrored,
    rod,
)
from node.phantoms.tissue import Tissue

LEVELS_MM = (
    *(("C", n, 410.0 - 16.5 * (n - 1)) for n in range(1, 8)),
    *(("T", n, 294.0 - 25.6 * (n - 1)) for n in range(1, 13)),
    *(("L", n, -16.0 - 34.0 * (n - 1)) for n in range(1, 6)),
)
"""Region, number and z of the centre of each vertebral body, from the atlas down."""

_CURVE_Z = (-270.0, -235.0, -200.0, -160.0, -110.0, -50.0, 10.0, 90.0, 165.0, 230.0, 300.0, 350.0, 412.0)
_CURVE_Y = (66.0, 78.0, 62.0, 38.0, 26.0, 28.0, 40.0, 56.0, 62.0, 54.0, 30.0, 14.0, 8.0)


def spine_y(z_mm: float) -> float:
    """Return y in mm of the centres of the vertebral bodies: cervical and lumbar lordosis, thoracic kyphosis."""
    return float(np.interp(np.linspace(-15, 15, 5) + z_mm, _CURVE_Z, _CURVE_Y).mean())


def bone(solid: Solid, cortex_mm: float) -> Iterator[Layer]:
    """Yield cortical bone around cancellous bone."""
    yield Layer(Tissue.CORTICAL_BONE, solid)
    yield Layer(Tissue.CANCELLOUS_BONE, Grown(solid, -cortex_mm))


def bones(patient: Patient) -> Iterator[Layer]:
    """Yield every bone below the skull."""
    yield from _spine()
    for side in SIDES:
        yield from _shoulder(side)
        yield from _hip_bone(side)
        yield from _femur(side)
    yield from _sacrum()
    for number in range(1, 13):
        for side in SIDES:
            yield from _rib(patient, number, side)
    yield from _sternum()


def _size(region: str, number: int) -> tuple[float, float, float]:
    """Return half width, half depth and half height of a vertebral body in mm."""
    if region == "C":
        return 11.0 + 0.4 * number, 8.0, 6.2
    if region == "T":
        return 13.0 + 0.55 * number, 11.0 + 0.35 * number, 10.6
    return 21.0 + 0.7 * number, 16.0, 14.0


def _spine() -> Iterator[Layer]:
    column = tuple((z, spine_y(z)) for _, _, z in LEVELS_MM)
    erectors = tuple((0.0, y + 26.0, z) for z, y in column if -80 < z < 310)
    yield from (Layer(Tissue.MUSCLE, part) for part in rod(erectors, (24.0,) * len(erectors)))
    for (above, y_above), (below, y_below) in pairwise(column):
        radius = 10.0 if below > 300 else 15.0 if below > -10 else 20.0
        yield Layer(Tissue.DISC, Capsule((0, y_above, above), (0, y_below, below), radius - 2, radius - 2))
    for region, number, z in LEVELS_MM:
        yield from _vertebra(z, _size(region, number))
    canal = tuple((0.0, spine_y(z) + _size(r, n)[1] + 8.0, z) for r, n, z in LEVELS_MM)
    yield from (Layer(Tissue.CSF, part) for part in rod(canal, (8.5,) * len(canal)))
    cord = canal[:-4]
    yield from (Layer(Tissue.CORD, part) for part in rod(cord, (4.8,) * len(cord)))


def _vertebra(z: float, size: tuple[float, float, float]) -> Iterator[Layer]:
    width, depth, height = size
    y, back = spine_y(z), spine_y(z) + depth
    profile = ((z - height, width, depth, y), (z, width * 0.93, depth * 0.95, y), (z + height, width, depth, y))
    yield from bone(Column(profile, exponent=2.2, smoothing_mm=1.0), 1.3)
    for side in SIDES:
        pedicle = (side * (width * 0.25 + 7), back - 2, z + 2), (side * (width * 0.25 + 10), back + 15, z - 4)
        yield from bone(Capsule(*pedicle, 4.5, 6.0), 1.3)
        tip = (side * (width + 20), back + (16 if height < 12 else 8), z)
        yield from bone(Capsule(pedicle[1], tip, 4.2, 2.8), 1.2)
        yield Layer(Tissue.THIN_BONE, Capsule(pedicle[1], (0, back + 21, z - 5), 3.0, 3.0))
    yield Layer(Tissue.THIN_BONE, Capsule((0, back + 21, z - 5), (0, back + 22 + 1.4 * height, z - 14), 3.4, 3.2))


def rib_course(number: int, side: int) -> tuple[Point, ...]:
    """Return the course of a rib in the wall of the chest, from its head to its anterior end."""
    head_z = {n: z for region, n, z in LEVELS_MM if region == "T"}[number] + 6
    sweep = 155.0 if number <= 7 else {8: 138.0, 9: 126.0, 10: 112.0, 11: 84.0, 12: 60.0}[number]
    drop = min(30.0 + 9.0 * number, 88.0)
    points: list[Point] = []
    for turn in np.linspace(14.0, sweep, 16):
        fraction = (turn - 14.0) / (155.0 - 14.0)
        z = head_z - drop * math.sin(fraction * math.pi / 2) ** 1.2
        width, depth, centre = (float(value) for value in RIBCAGE.ring(min(z, 291.0)))
        angle = math.radians(turn)
        x, y = (width + 4.5) * math.sin(angle), centre + (depth + 4.5) * math.cos(angle)
        points.append(mirrored((x, y, z), side))
    return tuple(points)


def _rib(patient: Patient, number: int, side: int) -> Iterator[Layer]:
    course = rib_course(number, side)
    radius = 4.6 + 0.5 * float(patient.rng("ribs").random())
    bony = 12 if number <= 10 else len(course) - 1
    for index, part in enumerate(rod(course, (radius,) * len(course))):
        if index >= bony:
            yield Layer(Tissue.CARTILAGE, part)
        else:
            yield Layer(Tissue.CORTICAL_BONE, part)
            yield Layer(Tissue.CANCELLOUS_BONE, Grown(part, -1.6))
    if number <= 7:
        end = course[-1]
        sternal = (side * 15.0, end[1] - 3.0, end[2] + 4.0 * (number - 2))
        yield Layer(Tissue.CARTILAGE, Capsule(end, sternal, radius, radius))


def _sternum() -> Iterator[Layer]:
    for z, half_width, half_height in ((243.0, 25.0, 26.0), (165.0, 17.0, 55.0), (98.0, 9.0, 18.0)):
        _, depth, centre = (float(value) for value in RIBCAGE.ring(z))
        yield from bone(Ellipsoid((0.0, centre - depth - 7.0, z), (half_width, 7.0, half_height)), 1.5)


def _shoulder(side: int) -> Iterator[Layer]:
    clavicle = tuple(mirrored(p, side) for p in ((20.0, -34.0, 262.0), (70.0, -36.0, 278.0), (140.0, 18.0, 290.0)))
    for part in rod(clavicle, (7.5, 6.0, 6.5)):
        yield from bone(part, 2.0)
    blade = Ellipsoid(mirrored((104.0, 82.0, 215.0), side), (38.0, 3.5, 62.0), roll_deg=side * 12.0)
    yield from bone(blade, 1.2)
    spine = Capsule(mirrored((78.0, 88.0, 250.0), side), mirrored((150.0, 50.0, 284.0), side), 4.5, 6.5)
    yield from bone(spine, 1.5)
    yield from bone(Ellipsoid(mirrored((152.0, 22.0, 258.0), side), (24.0, 24.0, 25.0)), 1.6)
    yield from bone(Ellipsoid(mirrored((127.0, 38.0, 255.0), side), (9.0, 13.0, 18.0)), 1.5)


def _hip_bone(side: int) -> Iterator[Layer]:
    basin = Column(
        ((-262, 84, 62, 4), (-220, 98, 74, 2), (-170, 122, 80, -2), (-118, 136, 82, -6)),
        exponent=2.1,
        smoothing_mm=8,
    )
    half = HalfSpace("x", "above" if side > 0 else "below", side * 40.0)
    crest = Ellipsoid(mirrored((90.0, 20.0, -205.0), side), (90.0, 84.0, 92.0))
    ends = HalfSpace("z", "above", -256.0), HalfSpace("z", "below", -125.0)
    wing = Both((Grown(basin, 6.5), Outside(basin), half, crest, *ends))
    yield from bone(wing, 1.8)
    socket = Ellipsoid(mirrored((86.0, 8.0, -262.0), side), (32.0, 32.0, 33.0))
    yield from bone(Both((socket, HalfSpace("x", "below" if side > 0 else "above", side * 98.0))), 1.8)
    ring = (
        (80.0, -12.0, -270.0),
        (14.0, -58.0, -292.0),
        (42.0, -14.0, -322.0),
        (66.0, 34.0, -318.0),
        (82.0, 34.0, -276.0),
    )
    for part in rod(tuple(mirrored(p, side) for p in ring), (11.0, 9.0, 8.0, 13.0, 14.0)):
        yield from bone(part, 1.8)
    yield Layer(Tissue.CARTILAGE, Capsule((0.0, -60.0, -286.0), (0.0, -56.0, -300.0), 7.0, 6.0))


def _femur(side: int) -> Iterator[Layer]:
    head = mirrored((90.0, 6.0, -264.0), side)
    trochanter = mirrored((136.0, 14.0, -290.0), side)
    yield Layer(Tissue.CARTILAGE, Ellipsoid(head, (26.0, 26.0, 26.0)))
    yield from bone(Capsule(head, trochanter, 14.0, 17.0), 2.0)
    yield from bone(Ellipsoid(head, (23.5, 23.5, 23.5)), 1.6)
    shaft = Capsule(mirrored((128.0, 10.0, -310.0), side), mirrored((100.0, 2.0, -560.0), side), 17.0, 13.5)
    yield from bone(shaft, 6.0)


def _sacrum() -> Iterator[Layer]:
    for side in SIDES:
        yield from bone(Ellipsoid((side * 25.0, 56.0, -192.0), (32.0, 17.0, 34.0), roll_deg=side * 20.0), 1.6)
    course = tuple((0.0, spine_y(z), z) for z in (-180.0, -205.0, -232.0, -258.0))
    for part in rod(course, (20.0, 17.0, 12.0, 6.0)):
        yield from bone(part, 1.6)
