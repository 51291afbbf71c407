"""A volume averaged in-plane to pixels of about 6 mm, within the box around its body: organs are wider."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from indexer.body import Mask, around
from indexer.chunks import Lattice, share_of
from indexer.resample import PatientGrid, averaged

STEP_MM = 6.0
"""Pixels are about this wide."""


@dataclass(frozen=True, eq=False)
class Thinned:
    """What is left of a volume.

    Attributes
    ----------
    grid, body : PatientGrid and (Z, X, Y) bool
        The volume and where in it the patient is; see `indexer.body.body_mask`.
    """

    grid: PatientGrid
    body: Mask

    @cached_property
    def window(self) -> tuple[slice, slice, slice]:
        """The box around the body in-plane."""
        return around(self.body)

    @property
    def times(self) -> tuple[int, int]:
        """Voxels along x and y that a pixel is the mean of."""
        across, deep = (max(1, round(STEP_MM / float(step))) for step in self.grid.spacing_mm[1:])
        return across, deep

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Along z, x, y."""
        return self.grid.spacing_mm * (1, *self.times)

    @cached_property
    def voxels(self) -> NDArray[np.float32]:
        """Within the box, (Z, x, y)."""
        across, deep = self.times
        return averaged(averaged(self.grid.voxels[self.window], 1, across), 2, deep)

    @cached_property
    def share(self) -> NDArray[np.float32]:
        """Of the body in each pixel within the box, (Z, x, y)."""
        body = self.body[self.window]
        across, deep = self.times
        pixels = Lattice((1, across, deep), (0.0, (across - 1) / 2, (deep - 1) / 2))
        z, x, y = (-(-n // times) for n, times in zip(body.shape, pixels.stride, strict=True))
        share = share_of(body, pixels, (z, x, y))
        for axis, times in enumerate(self.times, start=1):  # the last pixel may be narrower
            if rest := body.shape[axis] % times:
                share[(slice(None),) * axis + (-1,)] *= np.float32(times / rest)
        return share
