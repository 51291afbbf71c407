"""The patients of the demonstration: invented people, drawn from a seed."""

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from node.phantoms.solids import Point

_NUMBERS = (
    "Zero",
    "One",
    "Two",
    "Three",
    "Four",
    "Five",
    "Six",
    "Seven",
    "Eight",
    "Nine",
    "Ten",
    "Eleven",
    "Twelve",
)


class Finding(StrEnum):
    """What a reader would report."""

    NONE = "none"
    LUNG_NODULE = "lung nodule"
    PLEURAL_EFFUSION = "pleural effusion"
    LIVER_LESION = "liver lesion"
    HAEMORRHAGE = "haemorrhage"
    BRAIN_TUMOUR = "brain tumour"


@dataclass(frozen=True, slots=True)
class Patient:
    """Body of one invented person, relative to a standard adult.

    The body's own coordinates are LPS mm with the origin in the midline near the lower end of the thoracic spine.
    """

    number: int
    seed: int
    sex: Literal["F", "M"]
    age_years: int
    stature: float
    breadth: float
    depth: float
    fat_mm: float
    heart: float
    liver: float
    finding: Finding = Finding.NONE

    @classmethod
    def from_seed(cls, seed: int, number: int = 1, finding: Finding = Finding.NONE) -> "Patient":
        """Draw a patient; the same seed gives the same body."""
        rng = np.random.default_rng([seed, 77])
        sex: Literal["F", "M"] = "F" if rng.random() < 0.5 else "M"
        size = rng.normal(0.97 if sex == "F" else 1.03, 0.02)
        return cls(
            number=number,
            seed=seed,
            sex=sex,
            age_years=int(rng.integers(28, 84)),
            stature=float(np.clip(size, 0.9, 1.1)),
            breadth=float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1)),
            depth=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.14)),
            fat_mm=float(rng.uniform(7, 30)),
            heart=float(rng.uniform(0.92, 1.15)),
            liver=float(rng.uniform(0.93, 1.1)),
            finding=finding,
        )

    @property
    def scale(self) -> Point:
        """Size along x, y and z relative to the standard adult."""
        return self.breadth, self.depth, self.stature

    @property
    def patient_id(self) -> str:
        """Patient ID (0010,0020)."""
        return f"DEMO-{self.number:03d}"

    @property
    def name(self) -> str:
        """Patient's Name (0010,0010)."""
        return f"Demo^{_NUMBERS[self.number] if self.number < len(_NUMBERS) else self.number}"

    def rng(self, part: str) -> np.random.Generator:
        """Return the generator of one part of the body, independent of all others."""
        return np.random.default_rng([self.seed, zlib.crc32(part.encode())])

    def near(self, part: str, place_mm: Point, spread_mm: float) -> Point:
        """Return a place moved at random as far as organs differ between people."""
        x, y, z = np.add(place_mm, np.clip(self.rng(part).normal(0, spread_mm, 3), -2 * spread_mm, 2 * spread_mm))
        return float(x), float(y), float(z)
