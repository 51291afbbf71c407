"""The head: skull, brain, ventricles, sinuses, orbits, jaw and pharynx."""

from collections.abc import Iterator

from node.phantoms.outline import SIDES, Layer
from node.phantoms.patient import Patient
from node.phantoms.skeleton import bone
from node.phantoms.solids import BelowDomes, Both, Ellipsoid, Grown, Outside, Point, Solid, mirrored, rod
from node.phantoms.tissue import Tissue

VAULT = Ellipsoid((0.0, -4.0, 492.0), (70.0, 91.0, 75.0))
"""Outer table of the skull."""

_BASE = BelowDomes(((0.0, -90.0, 466.0, 200.0, 62.0, 12.0), (0.0, -12.0, 452.0, 44.0, 40.0, 12.0)))
"""Floor of the cranial cavity: high in front, deep behind."""


def cranial_cavity(patient: Patient) -> Solid:
    """Return the inside of the skull."""
    thickness = 5.5 + 1.5 * float(patient.rng("skull").random())
    return Both((Grown(VAULT, -thickness), Outside(_BASE), Outside(_posterior_floor())))


def head(patient: Patient) -> Iterator[Layer]:
    """Yield the head's organs."""
    yield from _face()
    yield from _skull(patient)
    yield from _brain(patient)
    yield from _ventricles(patient)
    yield from _sinuses()
    yield from _orbits()


def _posterior_floor() -> BelowDomes:
    return BelowDomes(((0.0, 30.0, 428.0, 60.0, 60.0, -14.0),))


def _skull(patient: Patient) -> Iterator[Layer]:
    above_base = Both((VAULT, Outside(Grown(_BASE, -7.0)), Outside(Grown(_posterior_floor(), -6.0))))
    yield Layer(Tissue.CORTICAL_BONE, above_base)
    yield Layer(Tissue.CANCELLOUS_BONE, Both((Grown(VAULT, -2.4), above_base)))
    for side in SIDES:
        petrous = rod((mirrored((54, 18, 444), side), mirrored((18, -6, 450), side)), (14.0, 7.0))
        yield from (Layer(Tissue.CORTICAL_BONE, part) for part in petrous)
    cavity = cranial_cavity(patient)
    yield Layer(Tissue.CORTICAL_BONE, Both((Grown(cavity, 2.0), VAULT)))
    yield Layer(Tissue.CSF, cavity)
    yield Layer(Tissue.CSF, Ellipsoid((0.0, 18.0, 424.0), (13.0, 14.0, 14.0)))


def _brain(patient: Patient) -> Iterator[Layer]:
    cavity = cranial_cavity(patient)
    shrinkage = 1.5 + 0.045 * max(patient.age_years - 30, 0)
    for side in SIDES:
        hemisphere = Ellipsoid((side * 31.0, -4.0, 494.0), (36.0, 88.0, 70.0))
        within = Both((Grown(cavity, -shrinkage), _beside_midline(side, 1.2)))
        yield Layer(Tissue.GREY_MATTER, within, fold_mm=2.4)
        yield Layer(Tissue.WHITE_MATTER, Both((Grown(within, -6.0), Grown(hemisphere, -7.0))), fold_mm=4.5)
    yield Layer(Tissue.WHITE_MATTER, Ellipsoid((0.0, -2.0, 502.0), (22.0, 34.0, 7.0)))
    for side in SIDES:
        nucleus = patient.near(f"nucleus {side}", mirrored((24.0, -6.0, 488.0), side), 1.0)
        yield Layer(Tissue.GREY_MATTER, Ellipsoid(nucleus, (9.0, 20.0, 13.0)))
        yield Layer(Tissue.GREY_MATTER, Ellipsoid(mirrored((11.0, 14.0, 486.0), side), (9.0, 14.0, 10.0)))
        cerebellum = Both((Ellipsoid(mirrored((24.0, 42.0, 446.0), side), (27.0, 27.0, 18.0)), Grown(cavity, -2.0)))
        yield Layer(Tissue.GREY_MATTER, cerebellum, fold_mm=1.5)
        yield Layer(
            Tissue.WHITE_MATTER, Ellipsoid(mirrored((18.0, 34.0, 448.0), side), (12.0, 12.0, 7.0)), fold_mm=3
        )
    stem: tuple[Point, ...] = ((0, 6, 478), (0, 4, 460), (0, 10, 440), (0, 17, 418), (0, 16, 402))
    yield from (Layer(Tissue.WHITE_MATTER, part) for part in rod(stem, (14.0, 15.0, 10.0, 6.5, 5.0)))


def _beside_midline(side: int, gap_mm: float) -> Solid:
    return Ellipsoid((side * (200.0 + gap_mm), -4.0, 492.0), (200.0, 600.0, 600.0))


def _ventricles(patient: Patient) -> Iterator[Layer]:
    width = 5.5 + 0.07 * max(patient.age_years - 30, 0) + float(patient.rng("ventricles").normal(0, 0.5))
    for side in SIDES:
        horn: tuple[Point, ...] = ((9, -34, 492), (11, -8, 502), (16, 22, 500), (25, 42, 488), (30, 20, 472))
        course = tuple(mirrored(point, side) for point in horn)
        radii = (0.7 * width, 0.9 * width, width, width, 0.4 * width)
        yield from (Layer(Tissue.CSF, part) for part in rod(course, radii))
    yield Layer(Tissue.CSF, Ellipsoid((0.0, 4.0, 484.0), (0.45 * width, 16.0, 11.0)))
    yield Layer(Tissue.CSF, Ellipsoid((0.0, 26.0, 450.0), (7.0, 7.0, 10.0)))
    yield Layer(Tissue.CSF, Ellipsoid((0.0, -22.0, 462.0), (12.0, 8.0, 5.0)))


def _face() -> Iterator[Layer]:
    yield from bone(Ellipsoid((0.0, -62.0, 440.0), (40.0, 34.0, 30.0)), 2.0)
    for side in SIDES:
        jaw = ((0, -94, 404), (22, -86, 405), (38, -56, 408), (46, -26, 414), (47, -20, 446))
        for part in rod(tuple(mirrored(point, side) for point in jaw), (7.0, 6.5, 6.5, 7.0, 5.0)):
            yield from bone(part, 2.2)
        cheek = rod(
            (mirrored((34, -78, 446), side), mirrored((58, -44, 448), side), mirrored((64, -8, 450), side)),
            (6.0, 4.0, 4.0),
        )
        for part in cheek:
            yield from bone(part, 1.5)
        for index in range(7):
            x, y = 4.0 + 4.6 * index, -88.0 + 0.62 * index**2
            for z in (416.0, 424.0):
                yield Layer(Tissue.TOOTH, Ellipsoid((side * x, y, z), (2.6, 3.0, 5.0)))
    yield Layer(Tissue.MUSCLE, Ellipsoid((0.0, -52.0, 414.0), (26.0, 34.0, 16.0)), warp_mm=2)


def _sinuses() -> Iterator[Layer]:
    for side in SIDES:
        yield Layer(Tissue.AIR, Ellipsoid(mirrored((25.0, -62.0, 442.0), side), (12.0, 17.0, 15.0)), warp_mm=1.5)
        yield Layer(Tissue.AIR, Ellipsoid(mirrored((7.0, -56.0, 462.0), side), (5.0, 20.0, 8.0)), fold_mm=2)
        yield Layer(Tissue.AIR, Ellipsoid(mirrored((5.0, -72.0, 440.0), side), (3.5, 30.0, 16.0)), fold_mm=1)
        yield Layer(Tissue.AIR, Ellipsoid(mirrored((55.0, 24.0, 440.0), side), (8.0, 12.0, 14.0)), fold_mm=5)
        yield Layer(Tissue.AIR, Ellipsoid(mirrored((10.0, -89.0, 480.0), side), (8.0, 4.0, 9.0)), fold_mm=1.5)
        ear = rod((mirrored((74, 2, 446), side), mirrored((52, 0, 448), side)), (4.0, 3.5))
        yield from (Layer(Tissue.AIR, part) for part in ear)
    yield Layer(Tissue.AIR, Ellipsoid((0.0, -34.0, 452.0), (13.0, 12.0, 8.0)), warp_mm=1)
    pharynx: tuple[Point, ...] = ((0, -36, 438), (0, -26, 420), (0, -22, 392), (0, -30, 362), (0, -34, 345))
    yield from (Layer(Tissue.AIR, part) for part in rod(pharynx, (10.0, 9.0, 8.0, 9.0, 9.0)))
    yield Layer(Tissue.AIR, Ellipsoid((0.0, -74.0, 425.0), (22.0, 18.0, 2.5)))


def _orbits() -> Iterator[Layer]:
    for side in SIDES:
        for part in rod((mirrored((31, -66, 463), side), mirrored((18, -30, 462), side)), (17.0, 6.0)):
            yield from (Layer(Tissue.THIN_BONE, Grown(part, 1.5)), Layer(Tissue.FAT, part))
        yield Layer(
            Tissue.MUSCLE, rod((mirrored((31, -68, 463), side), mirrored((18, -34, 462), side)), (2.8, 2.2))[0]
        )
        yield Layer(Tissue.SKIN, Ellipsoid(mirrored((31.0, -72.0, 463.0), side), (12.5, 12.5, 12.5)))
        yield Layer(Tissue.VITREOUS, Ellipsoid(mirrored((31.0, -72.0, 463.0), side), (11.5, 11.5, 11.5)))
        yield Layer(Tissue.LENS, Ellipsoid(mirrored((31.0, -80.0, 463.0), side), (4.5, 2.0, 4.5)))
