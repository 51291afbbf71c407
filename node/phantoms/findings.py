"""What is wrong with a patient, painted over the organs."""

from collections.abc import Callable, Iterator

import numpy as np

from node.phantoms.head import cranial_cavity
from node.phantoms.outline import Layer, lung
from node.phantoms.patient import Finding, Patient
from node.phantoms.solids import BelowDomes, Both, Capsule, Ellipsoid, Grown, HalfSpace, Point, Solid
from node.phantoms.tissue import Tissue


def finding(patient: Patient) -> Iterator[Layer]:
    """Yield the patient's finding, nothing for a healthy one."""
    paint = _PAINTERS.get(patient.finding)
    if paint is not None:
        yield from paint(patient)


def _nodule(patient: Patient) -> Iterator[Layer]:
    centre = patient.near("nodule", (-88.0, 10.0, 190.0), 9.0)
    yield Layer(Tissue.NODULE, Ellipsoid(centre, (14.0, 13.0, 14.0)), fold_mm=3)
    rng = patient.rng("spicules")
    for _ in range(12):
        x, y, z = np.add(centre, rng.normal(0, 14, 3))
        yield Layer(Tissue.NODULE, Capsule(centre, (float(x), float(y), float(z)), 1.8, 0.6))


def _effusion(patient: Patient) -> Iterator[Layer]:
    level = 28.0 + float(patient.rng("effusion").normal(0, 6))
    behind = Both((lung(patient, -1), HalfSpace("y", "above", level)))
    meniscus = BelowDomes(((-60.0, 100.0, 235.0, 120.0, 60.0, 70.0),))
    yield Layer(Tissue.FLUID, Both((behind, meniscus)), warp_mm=2)


def _liver_lesion(patient: Patient) -> Iterator[Layer]:
    x, y, z = patient.near("liver lesion", (-84.0, 6.0, 34.0), 8.0)
    spots: tuple[tuple[Point, float], ...] = (
        ((x, y, z), 22.0),
        ((x + 38, y - 32, z + 8), 9.0),
        ((x + 8, y + 34, z - 24), 12.0),
    )
    for centre, radius in spots:
        yield Layer(Tissue.TUMOUR, Ellipsoid(centre, (radius, radius, radius)), fold_mm=2)
        yield Layer(Tissue.FLUID, Ellipsoid(centre, (0.4 * radius,) * 3), fold_mm=2)


def _haemorrhage(patient: Patient) -> Iterator[Layer]:
    centre = patient.near("haemorrhage", (32.0, -4.0, 490.0), 3.0)
    bleeding = Ellipsoid(centre, (14.0, 22.0, 17.0))
    yield Layer(Tissue.OEDEMA, Both((Grown(bleeding, 6.0), _room(patient))), fold_mm=2)
    yield Layer(Tissue.FRESH_BLOOD, bleeding, fold_mm=2)


def _brain_tumour(patient: Patient) -> Iterator[Layer]:
    centre = patient.near("brain tumour", (-36.0, -28.0, 512.0), 5.0)
    room = _room(patient)
    yield Layer(Tissue.OEDEMA, Both((Ellipsoid(centre, (22.0, 28.0, 22.0)), room)), warp_mm=3)
    yield Layer(Tissue.TUMOUR, Both((Ellipsoid(centre, (15.0, 17.0, 15.0)), room)), fold_mm=2)
    yield Layer(Tissue.FLUID, Ellipsoid(centre, (7.0, 8.0, 7.0)), fold_mm=2)


def _room(patient: Patient) -> Solid:
    """Return the cranial cavity less the reach of an irregular surface."""
    return Grown(cranial_cavity(patient), -7.0)


_PAINTERS: dict[Finding, Callable[[Patient], Iterator[Layer]]] = {
    Finding.LUNG_NODULE: _nodule,
    Finding.PLEURAL_EFFUSION: _effusion,
    Finding.LIVER_LESION: _liver_lesion,
    Finding.HAEMORRHAGE: _haemorrhage,
    Finding.BRAIN_TUMOUR: _brain_tumour,
}
