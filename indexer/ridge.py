"""Ridge regression from sums that add up: those of several patients are taken together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sums:
    """What a ridge regression needs of weighted rows; those of patients add up.

    Attributes
    ----------
    square, cross : (F, F) and (F, T) float32
        Products of features with each other and with targets.
    rows, targets : (F,) and (T,) float32
    """

    square: Rows
    cross: Rows
    rows: Rows
    targets: Rows
    weight: float

    @classmethod
    def of(cls, rows: Rows, targets: Rows, weights: Rows) -> "Sums":
        """Sum up rows (n, F) and targets (n, T) by weights (n,)."""
        weighted = rows * weights[:, None]
        return cls(
            square=np.asarray(weighted.T @ rows, dtype=np.float32),
            cross=np.asarray(weighted.T @ targets, dtype=np.float32),
            rows=weighted.sum(axis=0),
            targets=np.asarray(weights @ targets, dtype=np.float32),
            weight=float(weights.sum()),
        )

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            square=self.square + other.square,
            cross=self.cross + other.cross,
            rows=self.rows + other.rows,
            targets=self.targets + other.targets,
            weight=self.weight + other.weight,
        )

    def ridge(self, strength: float) -> tuple[Rows, Rows]:
        """Regress targets on features: matrix (F, T) and offset (T,)."""
        rows, targets = self.rows / self.weight, self.targets / self.weight
        square = (self.square / self.weight).astype(np.float64) - np.outer(rows, rows)
        square[np.diag_indices_from(square)] += strength * np.trace(square) / len(square)
        matrix = np.linalg.solve(square, self.cross / self.weight - np.outer(rows, targets))
        return matrix.astype(np.float32), (targets - rows @ matrix).astype(np.float32)
