"""Organs of the abdomen and the pelvis."""

from collections.abc import Iterator

import numpy as np

from node.phantoms.outline import ABDOMEN, RIBCAGE, SIDES, Layer, diaphragm
from node.phantoms.patient import Patient
from node.phantoms.solids import Both, Capsule, Ellipsoid, Grown, HalfSpace, Point, Solid, mirrored, rod
from node.phantoms.tissue import Tissue


def organs(patient: Patient) -> Iterator[Layer]:
    """Yield the organs below the diaphragm, posterior ones first."""
    room = Grown(diaphragm(patient), -3.0)
    yield from _psoas()
    yield from _kidneys(patient)
    yield from _small_bowel(patient)
    yield from _colon(patient)
    yield from _pelvis(patient)
    yield from _pancreas(patient)
    yield from _spleen(patient, room)
    yield from _stomach(patient, room)
    yield from _liver(patient, room)


def liver(patient: Patient) -> Solid:
    """Return the liver's right lobe, moulded by ribs and diaphragm."""
    size = patient.liver
    lobe = Ellipsoid((-62.0, -4.0, 30.0), (92.0 * size, 86.0, 82.0 * size), roll_deg=-12.0)
    return Both((lobe, Grown(RIBCAGE, -4.0), Grown(diaphragm(patient), -3.0)))


def _liver(patient: Patient, room: Solid) -> Iterator[Layer]:
    left = Ellipsoid(patient.near("left lobe", (8.0, -48.0, 44.0), 4.0), (58.0, 34.0, 34.0), roll_deg=-10.0)
    yield Layer(Tissue.LIVER, liver(patient), warp_mm=2.5)
    yield Layer(Tissue.LIVER, Both((left, Grown(RIBCAGE, -4.0), room)), warp_mm=2)
    portal: tuple[Point, ...] = ((-18, -6, 12), (-36, -12, 26), (-62, -4, 34), (-96, 4, 40))
    hepatic = (((-28, 4, 74), (-60, -30, 50)), ((-28, 4, 74), (-84, 26, 48)), ((-28, 4, 74), (-20, -40, 52)))
    branches = [*rod(portal, (6.5, 5.5, 4.0, 2.0)), *rod(((-36, -12, 26), (6, -46, 42)), (5.0, 2.5))]
    for start, end in hepatic:
        branches += rod((start, end), (5.0, 2.0))
    rng = patient.rng("liver vessels")
    for _ in range(26):
        x, y, z = rng.uniform((-125, -60, -20), (-35, 50, 70))
        dx, dy, dz = rng.normal(0, 13, 3)
        branches.append(Capsule((x, y, z), (x + dx, y + dy, z + dz), 2.4, 1.2))
    for branch in branches:
        yield Layer(Tissue.LIVER_VESSEL, Both((branch, Grown(diaphragm(patient), -10.0), Grown(RIBCAGE, -14.0))))
    if patient.rng("gallbladder").random() < 0.8:
        yield Layer(
            Tissue.BILE, Ellipsoid(patient.near("gallbladder", (-48.0, -50.0, -6.0), 4.0), (13.0, 17.0, 25.0))
        )


def _spleen(patient: Patient, room: Solid) -> Iterator[Layer]:
    centre = patient.near("spleen", (92.0, 38.0, 42.0), 4.0)
    yield Layer(
        Tissue.SPLEEN, Both((Ellipsoid(centre, (34.0, 44.0, 50.0), 16.0), Grown(RIBCAGE, -3.0), room)), warp_mm=2
    )


def _stomach(patient: Patient, room: Solid) -> Iterator[Layer]:
    centre = patient.near("stomach", (54.0, -22.0, 42.0), 6.0)
    body = Both((Ellipsoid(centre, (40.0, 46.0, 48.0), roll_deg=20.0), room, Grown(RIBCAGE, -3.0)))
    antrum = Capsule((centre[0] - 14, -50.0, 4.0), (-22.0, -44.0, -8.0), 22.0, 14.0)
    level = centre[1] - 14 + float(patient.rng("stomach gas").normal(0, 8))
    for part in (body, antrum):
        yield Layer(Tissue.BOWEL_WALL, part)
    for part in (body, antrum):
        yield Layer(Tissue.BOWEL_CONTENT, Grown(part, -5.0), fold_mm=1.5)
    yield Layer(Tissue.GAS, Both((Grown(body, -5.0), HalfSpace("y", "below", level))))


def _kidneys(patient: Patient) -> Iterator[Layer]:
    for side, z in ((1, -22.0), (-1, -36.0)):
        centre = patient.near(f"kidney {side}", mirrored((62.0, 42.0, z), side), 4.0)
        yield Layer(Tissue.KIDNEY, Ellipsoid(centre, (27.0, 25.0, 53.0), roll_deg=side * 12.0), warp_mm=1.5)
        sinus = (centre[0] - side * 9.0, centre[1] - 3.0, centre[2])
        yield Layer(Tissue.FAT, Ellipsoid(sinus, (14.0, 8.0, 26.0), roll_deg=side * 12.0), fold_mm=3)
        ureter = (
            (sinus[0] - side * 14, 34.0, centre[2] - 20),
            (side * 36.0, 16.0, -130.0),
            (side * 30.0, -10.0, -262.0),
        )
        yield Layer(Tissue.URINE, Ellipsoid(sinus, (8.0, 5.0, 12.0)))
        yield from (Layer(Tissue.GLAND, part) for part in rod(ureter, (2.8, 2.5, 2.5)))
        yield from (
            Layer(Tissue.GLAND, part)
            for part in rod((mirrored((44, 34, z + 62), side), mirrored((52, 46, z + 50), side)), (3.0, 3.0))
        )


def _pancreas(patient: Patient) -> Iterator[Layer]:
    x, y, z = patient.near("pancreas", (0.0, -16.0, 2.0), 4.0)
    course = ((x - 36, y - 2, z - 16), (x - 8, y - 10, z), (x + 34, y + 8, z + 12), (x + 78, y + 40, z + 24))
    yield from (Layer(Tissue.PANCREAS, part, fold_mm=2.5) for part in rod(course, (14.0, 10.0, 10.0, 8.0)))


def _psoas() -> Iterator[Layer]:
    for side in SIDES:
        course = tuple(mirrored(p, side) for p in ((30.0, 36.0, -10.0), (46.0, 32.0, -110.0), (74.0, -8.0, -215.0)))
        low = rod((course[-1], mirrored((92.0, -16.0, -330.0), side)), (20.0, 15.0))
        yield from (Layer(Tissue.MUSCLE, part) for part in (*rod(course, (8.0, 22.0, 23.0)), *low))


def _small_bowel(patient: Patient) -> Iterator[Layer]:
    rng = patient.rng("small bowel")
    loops: list[Capsule] = []
    at = np.array([60.0, -30.0, -40.0])
    for _ in range(58):
        goal = rng.uniform((-82, -66, -225), (82, 4, -55))
        step = at + np.clip(goal - at, -34, 34)
        loops += rod((_point(at), _point(step)), tuple(rng.uniform(9, 13.5, 2)))
        at = step
    yield from (Layer(Tissue.BOWEL_WALL, loop, warp_mm=1) for loop in loops)
    for loop in loops:
        filling = Tissue.GAS if rng.random() < 0.12 else Tissue.BOWEL_CONTENT
        yield Layer(filling, Grown(loop, -4.0 if filling is Tissue.BOWEL_CONTENT else -5.5), fold_mm=2)


def _colon(patient: Patient) -> Iterator[Layer]:
    rng = patient.rng("colon")
    course: tuple[Point, ...] = (
        (-88, -16, -178), (-96, -2, -140), (-98, 8, -100), (-96, 4, -62), (-84, -40, -56), (-48, -66, -70),
        (0, -70, -80), (44, -66, -66), (82, -36, -30), (98, 12, -26), (100, 18, -70), (98, 14, -112), (92, 0, -150),
        (88, -14, -182), (52, -2, -206), (14, 10, -200), (8, 40, -225), (0, 52, -256), (0, 50, -300), (0, 52, -335),
    )  # fmt: skip
    radii = tuple(float(radius) for radius in rng.uniform(14.0, 22.0, len(course)))
    parts = rod(course, radii)
    yield from (Layer(Tissue.BOWEL_WALL, part, warp_mm=3) for part in parts)
    for part in parts:
        yield Layer(Tissue.BOWEL_CONTENT, Grown(part, -3.5), warp_mm=3, fold_mm=2)
    for part in parts:
        if rng.random() < 0.55:
            level = (part.start_mm[1] + part.end_mm[1]) / 2 - float(rng.uniform(-8, 8))
            yield Layer(Tissue.GAS, Both((Grown(part, -5.0), HalfSpace("y", "below", level))), warp_mm=3, fold_mm=2)


def _pelvis(patient: Patient) -> Iterator[Layer]:
    fill = float(patient.rng("bladder").uniform(0.75, 1.2))
    bladder = Ellipsoid((0.0, -30.0, -272.0 + 12 * fill), (38.0 * fill, 28.0 * fill, 26.0 * fill))
    yield Layer(Tissue.BOWEL_WALL, Grown(bladder, 3.5))
    yield Layer(Tissue.URINE, bladder)
    if patient.sex == "M":
        yield Layer(Tissue.GLAND, Ellipsoid((0.0, -14.0, -300.0), (23.0, 18.0, 18.0)))
    else:
        yield Layer(Tissue.GLAND, Ellipsoid((0.0, 14.0, -250.0), (26.0, 22.0, 36.0)))
        for side in SIDES:
            yield Layer(Tissue.GLAND, Ellipsoid((side * 48.0, 10.0, -226.0), (14.0, 11.0, 15.0)))
    for side in SIDES:
        yield Layer(Tissue.MUSCLE, Both((Ellipsoid((side * 52.0, 10.0, -290.0), (12.0, 40.0, 34.0)), ABDOMEN)))


def _point(values: np.ndarray) -> Point:
    x, y, z = values
    return float(x), float(y), float(z)
