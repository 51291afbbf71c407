"""Volumes averaged in-plane to pixels of about 6 mm."""

import numpy as np
import pytest

from indexer.resample import PatientGrid
from indexer.thinned import Thinned


@pytest.mark.parametrize("sides", [(24, 20), (26, 23)], ids=["even", "a narrower last pixel"])
def test_pixels_are_means_of_voxels_within_the_box_around_the_body(sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 100, (5, 40, 36)).astype(np.float32)
    body = np.zeros(voxels.shape, np.bool_)
    body[:, 7 : 7 + sides[0], 9 : 9 + sides[1]] = rng.random((5, *sides)) < 0.9
    body[0, 7, 9] = body[0, 6 + sides[0], 8 + sides[1]] = True
    grid = PatientGrid(voxels, np.ones_like(body), np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")

    seen = Thinned(grid, body)

    assert seen.spacing_mm.tolist() == [3.0, 6.0, 6.0]
    assert seen.voxels.shape == seen.share.shape == (5, -(-sides[0] // 4), -(-sides[1] // 4))
    for z, x, y in np.ndindex(seen.share.shape):
        one = z, slice(7 + 4 * x, min(11 + 4 * x, 7 + sides[0])), slice(9 + 4 * y, min(13 + 4 * y, 9 + sides[1]))
        assert seen.voxels[z, x, y] == pytest.approx(voxels[one].mean(), abs=1e-3)
        assert seen.share[z, x, y] == pytest.approx(body[one].mean())
