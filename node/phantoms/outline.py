"""The outer body: skin, subcutaneous fat, muscle, and the great cavities inside them.

Lengths are those of the standard adult, who is scaled to the patient when the grid is sampled.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from node.phantoms.patient import Patient
from node.phantoms.solids import BelowDomes, Both, Capsule, Column, Ellipsoid, Grown, HalfSpace, Outside, Solid
from node.phantoms.tissue import Tissue

SIDES = (1, -1)
"""Left (x > 0) and right."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One coat of paint: it covers what was painted before.

    Attributes
    ----------
    warp_mm, fold_mm : float
        Amplitude of coarse and of fine irregularity of the surface.
    """

    tissue: Tissue
    solid: Solid
    warp_mm: float = 0.0
    fold_mm: float = 0.0


TORSO = Column(
    (
        (-325, 170, 88, 6),
        (-300, 170, 96, 8),
        (-240, 172, 100, 8),
        (-180, 160, 98, 4),
        (-120, 143, 94, 2),
        (-60, 134, 92, 0),
        (0, 139, 94, 1),
        (60, 147, 100, 4),
        (120, 152, 103, 6),
        (180, 158, 104, 8),
        (230, 168, 98, 12),
        (265, 176, 82, 18),
        (285, 166, 66, 22),
        (305, 118, 58, 20),
        (325, 72, 56, 14),
        (345, 56, 55, 8),
        (400, 55, 58, 4),
        (440, 54, 60, 2),
    ),
    exponent=2.35,
)
"""Outer surface of the muscles from the hips to the neck."""

RIBCAGE = Column(
    (
        (-40, 118, 84, 4),
        (0, 124, 86, 4),
        (60, 131, 89, 6),
        (120, 132, 89, 8),
        (170, 126, 86, 11),
        (210, 114, 78, 16),
        (245, 96, 64, 23),
        (270, 74, 50, 29),
        (290, 48, 36, 33),
        (306, 14, 14, 36),
    ),
    exponent=2.2,
)
"""Inner surface of the chest wall."""

ABDOMEN = Column(
    (
        (-300, 58, 52, -6),
        (-250, 82, 66, -2),
        (-200, 108, 74, -6),
        (-140, 120, 74, -12),
        (-60, 120, 72, -12),
        (20, 124, 76, -6),
        (100, 124, 80, 2),
    ),
    exponent=2.3,
)
"""Inner surface of the abdominal and pelvic wall."""


def diaphragm(patient: Patient) -> BelowDomes:
    """Return what lies below the diaphragm: a higher right dome, a lower left one, the heart's saddle between."""
    lift = patient.rng("diaphragm").normal(0, 6)
    return BelowDomes(
        (
            (-66, -22, 98 + lift, 72, 92, 62),
            (70, -20, 84 + lift, 70, 92, 62),
            (10, -22, 78 + lift, 62, 70, 60),
        )
    )


def lung(patient: Patient, side: int) -> Solid:
    """Return the pleural space of one side."""
    medial = HalfSpace("x", "above" if side > 0 else "below", side * 9.0)
    return Both((RIBCAGE, Outside(diaphragm(patient)), medial))


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of the body's surface: the fat's outer surface, and the muscle's within it."""

    fat: Solid
    muscle: Solid | None = None


def _thickened(column: Column, fat_mm: float) -> Column:
    """Return the column with fat on it, thinner towards the neck."""
    shares = np.interp([ring[0] for ring in column.rings], (240.0, 330.0), (1.0, 0.2))
    rings = zip(column.rings, fat_mm * shares, strict=True)
    return Column(
        tuple((z, width + float(fat), depth + float(fat), centre) for (z, width, depth, centre), fat in rings),
        column.exponent,
        column.smoothing_mm,
    )


def _parts(patient: Patient) -> Iterator[_Part]:
    fat = patient.fat_mm

    def padded(muscle: Solid, thickness_mm: float) -> _Part:
        return _Part(Grown(muscle, thickness_mm), muscle)

    yield _Part(_thickened(TORSO, fat), TORSO)
    yield _Part(Ellipsoid((0.0, -12.0, -95.0), (112.0 + fat, 80.0 + 1.7 * fat, 130.0)))
    for side in SIDES:
        yield padded(Capsule((side * 84.0, 8.0, -300.0), (side * 82.0, 4.0, -520.0), 87.0, 72.0), 0.95 * fat)
        yield _Part(Ellipsoid((side * 66.0, 56.0 + fat, -256.0), (84.0, 64.0, 84.0)))
        yield padded(Ellipsoid((side * 148.0, 24.0, 252.0), (42.0, 44.0, 40.0)), 0.5 * fat)
    yield padded(Ellipsoid((0.0, -4.0, 492.0), (73.0, 95.0, 79.0)), 4.0)
    yield padded(Ellipsoid((0.0, -44.0, 440.0), (58.0, 56.0, 58.0)), 5.0)
    yield padded(Ellipsoid((0.0, -62.0, 412.0), (44.0, 40.0, 24.0)), 5.0)
    yield padded(Capsule((0.0, -98.0, 466.0), (0.0, -106.0, 444.0), 6.0, 11.0), 2.0)


def coats(patient: Patient) -> Iterator[Layer]:
    """Yield skin, fat and muscle, outermost first."""
    parts = tuple(_parts(patient))
    for part in parts:
        yield Layer(Tissue.SKIN, Grown(part.fat, 2.0))
    if patient.sex == "F":
        yield from _breasts(patient, Tissue.SKIN, 0)
    for part in parts:
        yield Layer(Tissue.FAT, part.fat)
    if patient.sex == "F":
        yield from _breasts(patient, Tissue.FAT, -2)
        yield from _breasts(patient, Tissue.GLAND, -16)
    for part in parts:
        if part.muscle is not None:
            yield Layer(Tissue.MUSCLE, part.muscle, warp_mm=1.5)
    yield from _planes()
    yield Layer(Tissue.FAT, Both((ABDOMEN, diaphragm(patient))), warp_mm=2)


def _breasts(patient: Patient, tissue: Tissue, margin_mm: float) -> Iterator[Layer]:
    size = 44 + 0.6 * patient.fat_mm
    for side in SIDES:
        breast = Ellipsoid((side * 76.0, -88.0 - 0.7 * patient.fat_mm, 138.0), (size, 0.72 * size, size))
        if tissue is Tissue.GLAND:
            breast = Ellipsoid(breast.centre_mm, (0.7 * size + 10, 0.45 * size + 10, 0.7 * size + 10))
        yield Layer(tissue, Grown(breast, margin_mm), fold_mm=4 if tissue is Tissue.GLAND else 0)


def _planes() -> Iterator[Layer]:
    """Yield the fat between muscles, without which pelvis and neck would be of one piece."""
    for side in SIDES:
        buttock = Ellipsoid((side * 74.0, 50.0, -240.0), (74.0, 52.0, 84.0))
        yield Layer(Tissue.FAT, Both((Grown(buttock, 3.0), Outside(buttock))), warp_mm=1.5)
        thigh = Capsule((side * 100.0, -4.0, -300.0), (side * 96.0, -4.0, -520.0), 40.0, 36.0)
        yield Layer(Tissue.FAT, Both((Grown(thigh, 2.5), Outside(thigh))), warp_mm=3)
        blade = Ellipsoid((side * 104.0, 74.0, 215.0), (44.0, 22.0, 66.0), roll_deg=side * 12.0)
        yield Layer(Tissue.FAT, Both((Grown(blade, 2.5), Outside(blade), Outside(Grown(RIBCAGE, 8)))), warp_mm=1)
        yield Layer(
            Tissue.FAT, Capsule((side * 128.0, -8.0, 262.0), (side * 122.0, 0.0, 205.0), 20.0, 12.0), fold_mm=5
        )
        yield Layer(
            Tissue.FAT, Capsule((side * 34.0, 16.0, 400.0), (side * 46.0, 22.0, 318.0), 9.0, 13.0), fold_mm=4
        )
        yield Layer(
            Tissue.FAT, Capsule((side * 24.0, 46.0, 420.0), (side * 34.0, 60.0, 320.0), 4.0, 6.0), fold_mm=2
        )
