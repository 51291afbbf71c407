"""Which findings can be inserted, where, and how large."""

from dataclasses import dataclass

from indexer.compartments import BONES, BRAIN, INNER, LUNGS, ORGANS, Kind

CLEAN = "clean"
"""Label of a slab as it was scanned; what disease the patient has is in it, as in all the others."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes
    ----------
    name : str
        As tables show it, without its size.
    compartment : Kind
        Where it lies, and whose embedding ranks by it.
    modality : str
    sizes_mm : tuple of float
        Rising. Of a nodule or mass the diameter, of a consolidation or ground glass too; of fluid or air in the
        pleural space its depth; of bullae the diameter of the largest.
    shown_mm : tuple of float
        Those of the sizes that galleries hold.
    """

    name: str
    compartment: Kind
    modality: str
    sizes_mm: tuple[float, ...]
    shown_mm: tuple[float, ...]

    def label(self, size_mm: float) -> str:
        """Name in a table: with its size where galleries hold several."""
        return f"{self.name} {size_mm:g} mm" if len(self.shown_mm) > 1 else self.name


NODULE = Finding("nodule", LUNGS, "CT", (8, 12, 20, 35), (20, 35))
CONSOLIDATION = Finding("consolidation", LUNGS, "CT", (30, 45, 65), (65,))
GROUND_GLASS = Finding("ground glass", LUNGS, "CT", (35, 55, 80), (80,))
EFFUSION = Finding("pleural effusion", LUNGS, "CT", (10, 20, 35), (35,))
PNEUMOTHORAX = Finding("pneumothorax", LUNGS, "CT", (10, 18, 30), (30,))
BULLAE = Finding("bullae", LUNGS, "CT", (14, 22, 32), (32,))
HYPODENSE = Finding("hypodense organ lesion", ORGANS, "CT", (12, 20, 35), (35,))
HYPERDENSE = Finding("hyperdense organ lesion", ORGANS, "CT", (12, 20, 35), (35,))
HAEMORRHAGE = Finding("intracranial haemorrhage", BRAIN, "CT", (12, 20, 35), (35,))
LYTIC = Finding("lytic bone lesion", BONES, "CT", (12, 20, 35), (35,))
BRIGHT_MASS = Finding("hyperintense mass with oedema", INNER, "MR", (14, 22, 35), (35,))
DARK_MASS = Finding("hypointense mass with oedema", INNER, "MR", (14, 22, 35), (35,))

ALL = (
    NODULE,
    CONSOLIDATION,
    GROUND_GLASS,
    EFFUSION,
    PNEUMOTHORAX,
    BULLAE,
    HYPODENSE,
    HYPERDENSE,
    HAEMORRHAGE,
    LYTIC,
    BRIGHT_MASS,
    DARK_MASS,
)


def of_compartment(kind: Kind) -> tuple[Finding, ...]:
    """The findings that lie in a compartment."""
    return tuple(one for one in ALL if one.compartment == kind)
