"""What each tissue looks like: CT numbers and relative MR signal."""

from dataclasses import dataclass
from enum import Enum, StrEnum


class Sequence(StrEnum):
    """How the body is imaged: CT, or one weighting of MR."""

    CT = "CT"
    T1 = "T1"
    T2 = "T2"
    FLAIR = "FLAIR"


@dataclass(frozen=True, slots=True)
class Signal:
    """Mean CT number and its texture (standard deviation) in HU, enhancement by contrast, MR signal 0 to 1."""

    hu: float
    texture_hu: float
    t1: float
    t2: float
    flair: float
    enhancement_hu: float = 0.0

    def level(self, sequence: Sequence, contrast: bool) -> tuple[float, float]:
        """Return mean and texture: HU for CT, relative signal for MR, whose texture follows its mean."""
        if sequence is Sequence.CT:
            return self.hu + (self.enhancement_hu if contrast else 0.0), self.texture_hu
        mean = {Sequence.T1: self.t1, Sequence.T2: self.t2, Sequence.FLAIR: self.flair}[sequence]
        return mean, 0.06 * mean


class Tissue(Enum):
    """Tissues with the mean values of textbooks (CT at 120 kVp; MR at 1.5 T, scaled so that fat in T1 is 1)."""

    AIR = Signal(-1000, 0, 0.0, 0.0, 0.0)
    COUCH = Signal(-250, 20, 0.0, 0.0, 0.0)
    SKIN = Signal(20, 10, 0.45, 0.30, 0.35)
    FAT = Signal(-105, 8, 1.0, 0.80, 0.75)
    MUSCLE = Signal(55, 9, 0.40, 0.18, 0.25, 10)
    LUNG = Signal(-855, 25, 0.05, 0.05, 0.04)
    AIRWAY_WALL = Signal(20, 5, 0.35, 0.25, 0.25)
    BLOOD = Signal(42, 3, 0.18, 0.12, 0.10, 120)
    VESSEL = Signal(38, 4, 0.30, 0.30, 0.25, 110)
    HEART = Signal(48, 5, 0.42, 0.30, 0.30, 60)
    CORTICAL_BONE = Signal(900, 120, 0.06, 0.04, 0.05)
    THIN_BONE = Signal(550, 60, 0.15, 0.12, 0.10)
    CANCELLOUS_BONE = Signal(270, 45, 0.70, 0.42, 0.40)
    TOOTH = Signal(1900, 100, 0.03, 0.02, 0.02)
    CARTILAGE = Signal(115, 20, 0.45, 0.30, 0.30)
    DISC = Signal(85, 8, 0.38, 0.55, 0.30)
    LIVER = Signal(58, 5, 0.55, 0.26, 0.30, 52)
    LIVER_VESSEL = Signal(42, 3, 0.30, 0.40, 0.25, 105)
    BILE = Signal(10, 3, 0.22, 0.95, 0.30)
    SPLEEN = Signal(48, 4, 0.40, 0.45, 0.40, 70)
    KIDNEY = Signal(33, 5, 0.45, 0.55, 0.45, 130)
    PANCREAS = Signal(40, 12, 0.58, 0.32, 0.35, 60)
    THYROID = Signal(105, 10, 0.50, 0.40, 0.40, 60)
    BOWEL_WALL = Signal(38, 6, 0.38, 0.32, 0.32, 35)
    BOWEL_CONTENT = Signal(18, 14, 0.35, 0.60, 0.40)
    GAS = Signal(-985, 5, 0.01, 0.01, 0.01)
    URINE = Signal(4, 3, 0.20, 1.0, 0.15)
    GLAND = Signal(40, 8, 0.42, 0.50, 0.45, 40)
    GREY_MATTER = Signal(39, 2.5, 0.52, 0.55, 0.58)
    WHITE_MATTER = Signal(28, 2, 0.72, 0.40, 0.45)
    CSF = Signal(6, 2, 0.18, 1.0, 0.10)
    CORD = Signal(35, 3, 0.55, 0.45, 0.45)
    VITREOUS = Signal(10, 2, 0.20, 0.98, 0.10)
    LENS = Signal(90, 5, 0.45, 0.20, 0.25)
    FLUID = Signal(9, 3, 0.22, 0.98, 0.30)
    TUMOUR = Signal(30, 12, 0.38, 0.62, 0.65, 25)
    NODULE = Signal(38, 12, 0.40, 0.50, 0.50, 30)
    FRESH_BLOOD = Signal(68, 5, 0.60, 0.30, 0.45)
    OEDEMA = Signal(18, 3, 0.42, 0.80, 0.85)
