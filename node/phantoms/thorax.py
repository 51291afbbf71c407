"""Organs of the chest: lungs with their vessels and airways, heart, great vessels."""

from collections.abc import Iterator

import numpy as np

from node.phantoms.outline import SIDES, Layer, lung
from node.phantoms.patient import Patient
from node.phantoms.skeleton import spine_y
from node.phantoms.solids import Capsule, Ellipsoid, Floats, Grown, Point, Solid, mirrored, rod
from node.phantoms.tissue import Tissue

CARINA: Point = (0.0, 18.0, 208.0)
_HILUM: Point = (34.0, 22.0, 190.0)
_SPREAD = 0.45
"""How far a branch turns from its parent's direction."""


def lungs(patient: Patient) -> Iterator[Layer]:
    """Yield both lungs, their vessels, and the bronchi that go with them."""
    for side in SIDES:
        space = lung(patient, side)
        yield Layer(Tissue.LUNG, space)
        rng = patient.rng(f"lung vessels {side}")
        for _ in range(15):
            heading = np.array([side * abs(rng.normal(0.7, 0.4)), rng.normal(0, 0.7), rng.normal(-0.3, 0.85)])
            start = mirrored(_HILUM, side)
            yield from _tree(rng, space, start, heading / np.linalg.norm(heading), 4.6, 4)
        for heading_z in (0.6, -0.1, -0.7):
            end = mirrored((_HILUM[0] + 22, _HILUM[1] + 8, _HILUM[2] + 26 * heading_z), side)
            yield Layer(Tissue.AIRWAY_WALL, Capsule(mirrored(_HILUM, side), end, 5.0, 3.6))
            yield Layer(Tissue.AIR, Capsule(mirrored(_HILUM, side), end, 3.8, 2.2))


def _tree(
    rng: np.random.Generator, space: Solid, start: Point, heading: np.ndarray, radius_mm: float, depth: int
) -> Iterator[Layer]:
    """Yield a vessel and its branches as far as they stay in the lung."""
    length = rng.uniform(4.5, 6.8) * radius_mm + 6
    x, y, z = np.add(start, length * heading)
    end = (float(x), float(y), float(z))
    if _depth_inside(space, end) < 3:
        return
    yield Layer(Tissue.VESSEL, Capsule(start, end, radius_mm, 0.8 * radius_mm))
    for _ in range(3 if depth else 0):
        turned = heading + rng.normal(0, _SPREAD, 3)
        thinner = radius_mm * rng.uniform(0.58, 0.76)
        yield from _tree(rng, space, end, turned / np.linalg.norm(turned), thinner, depth - 1)


def _depth_inside(space: Solid, point: Point) -> float:
    x, y, z = (_scalar(value) for value in point)
    return -float(space.distance(x, y, z).item())


def _scalar(value: float) -> Floats:
    return np.full((1, 1, 1), value, dtype=np.float32)


def mediastinum(patient: Patient) -> Iterator[Layer]:
    """Yield fat, heart, great vessels, airway and oesophagus between the lungs."""
    yield Layer(Tissue.FAT, Ellipsoid((0.0, -10.0, 215.0), (31.0, 56.0, 70.0)), warp_mm=3)
    yield from (
        Layer(Tissue.FAT, part) for part in rod(((0, 30, 250), (4, 36, 150), (4, 30, 70)), (20.0, 22.0, 22.0))
    )
    yield from _heart(patient)
    yield from _arteries()
    yield from _veins()
    yield from _airway()
    gullet = (*((4.0, spine_y(z) - 25.0, z) for z in (330.0, 290.0, 240.0, 180.0, 120.0)), (22.0, 22.0, 72.0))
    for part in rod(gullet, (6.5,) * len(gullet)):
        yield Layer(Tissue.BOWEL_WALL, part)
        yield Layer(Tissue.BOWEL_CONTENT, Grown(part, -4))


def _heart(patient: Patient) -> Iterator[Layer]:
    size = patient.heart
    x, y, z = patient.near("heart", (22.0, -30.0, 124.0), 3.0)

    def chamber(tissue: Tissue, offset: Point, semi_axes: Point, roll_deg: float) -> Layer:
        centre = (x + size * offset[0], y + size * offset[1], z + size * offset[2])
        a, b, c = (size * axis for axis in semi_axes)
        return Layer(tissue, Ellipsoid(centre, (a, b, c), roll_deg))

    yield chamber(Tissue.FAT, (0, 0, 0), (66, 50, 52), -24)
    yield chamber(Tissue.HEART, (16, 4, -4), (44, 38, 38), -24)
    yield chamber(Tissue.BLOOD, (14, 4, -4), (30, 23, 24), -24)
    yield chamber(Tissue.BLOOD, (-12, -18, 2), (36, 22, 32), -18)
    yield chamber(Tissue.BLOOD, (-38, 2, 6), (20, 26, 30), 0)
    yield chamber(Tissue.BLOOD, (-8, 40, 20), (34, 20, 22), 0)


def _arteries() -> Iterator[Layer]:
    aorta: tuple[Point, ...] = (
        (-2, -22, 150), (-14, -24, 185), (-10, -18, 212), (4, 2, 228), (18, 26, 224), (24, 46, 205),
        (24, 48, 150), (18, 40, 80), (10, 20, 10), (5, 4, -60), (2, 0, -122),
    )  # fmt: skip
    radii = (15.0, 15.0, 14.0, 13.5, 13.0, 12.5, 12.0, 11.5, 10.5, 9.5, 8.5)
    trunk: tuple[Point, ...] = ((14, -42, 155), (16, -34, 180), (8, -8, 194))
    parts = [*rod(aorta, radii), *rod(trunk, (14.0, 14.0, 13.0))]
    for side in SIDES:
        parts += rod(((8, -8, 194), mirrored((36, 20, 194), side)), (12.0, 10.0))
        neck = ((side * 8, -6, 230), (side * 20, -8, 300), (side * 26, -4, 345), (side * 28, 0, 400))
        parts += rod(neck, (5.0, 4.4, 4.4, 3.4))
        leg = (
            (2, 0, -122),
            (side * 36, 16, -175),
            (side * 62, -30, -245),
            (side * 74, -52, -300),
            (side * 70, -44, -520),
        )
        parts += rod(leg, (6.5, 6.0, 5.2, 5.0, 4.5))
    yield from (Layer(Tissue.BLOOD, part) for part in parts)


def _veins() -> Iterator[Layer]:
    upper = rod(((-20, -14, 240), (-24, -14, 200), (-24, -16, 150)), (8.5, 9.5, 10.0))
    lower = rod(((-24, -8, 110), (-28, 8, 70), (-24, 14, 0), (-16, 10, -126)), (13.0, 13.0, 11.5, 10.5))
    yield from (Layer(Tissue.BLOOD, part) for part in (*upper, *lower))
    for side in SIDES:
        neck = rod(
            ((-20, -14, 240), (side * 32, -14, 270), (side * 36, -2, 340), (side * 34, 8, 400)),
            (7.0, 7.0, 6.5, 5.0),
        )
        leg = rod(
            ((-16, 10, -126), (side * 32, 28, -180), (side * 60, -22, -245), (side * 66, -46, -300)),
            (8.5, 7.5, 6.5, 6.5),
        )
        yield from (Layer(Tissue.BLOOD, part) for part in (*neck, *leg))


def _airway() -> Iterator[Layer]:
    trachea = ((0, -34, 345), (0, -24, 320), (0, -6, 275), (0, 8, 240), CARINA)
    tubes = [*rod(trachea, (9.5, 9.0, 8.8, 8.8, 9.0))]
    for side in SIDES:
        tubes += rod((CARINA, mirrored(_HILUM, side)), (7.5, 6.0))
    yield from (Layer(Tissue.CARTILAGE, Grown(tube, 1.8)) for tube in tubes)
    yield from (Layer(Tissue.AIR, tube) for tube in tubes)
    for side in SIDES:
        yield Layer(Tissue.THYROID, Ellipsoid((side * 17.0, -28.0, 318.0), (8.5, 10.0, 22.0)))
