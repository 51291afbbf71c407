"""Volumes that come as a NIfTI file: voxels and their place, no header of a patient."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import SimpleITK as sitk

from indexer.errors import Parked
from indexer.frames import SPACING_RANGE_MM
from indexer.pixel_format import demand_budget
from indexer.pixels import CT_AIR_HU
from indexer.sealing import StoredPath, in_memory
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume


def read_nifti(path: StoredPath, modality: Literal["CT", "MR"]) -> Volume:
    """Read a volume; its slices are numbered from 1, from the most inferior one, and have no UIDs.

    The file's RAS coordinates become LPS. Of CT, values are taken as Hounsfield units.

    Parameters
    ----------
    path : StoredPath
        Named ``.nii`` or ``.nii.gz``.

    Raises
    ------
    Parked
        It cannot be read, or is no volume.
    """
    with _readable(path) as plain:
        return _volume(_image(plain), modality)


@contextmanager
def _readable(path: StoredPath) -> Iterator[Path]:
    """A path that the library can read from; its suffix says what it is."""
    if isinstance(path, Path):
        yield path
        return
    with in_memory(path.name) as (plain, where), path.open("rb") as sealed, TemporaryDirectory() as folder:
        shutil.copyfileobj(sealed, plain)
        plain.flush()
        link = Path(folder) / path.name
        link.symlink_to(where)
        yield link


def _image(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NiftiImageIO")
    try:
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
    except RuntimeError:
        raise Parked("the file cannot be read as NIfTI") from None
    if len([n for n in size if n > 1]) != 3 or (len(size) > 3 and max(size[3:]) > 1) or components != 1:
        raise Parked(f"expected one volume of single values, got dimensions {size} of {components} values")
    demand_budget(size[0] * size[1] * size[2])
    try:
        reader.SetOutputPixelType(sitk.sitkFloat32)
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
        image = sitk.DICOMOrient(reader.Execute(), "LPS")
    except RuntimeError:
        raise Parked("the file cannot be read as NIfTI, or its axes are not at right angles") from None
    return image


def _volume(image: sitk.Image, modality: Literal["CT", "MR"]) -> Volume:
    spacing = np.asarray(image.GetSpacing())
    low, high = SPACING_RANGE_MM
    if not np.all((spacing >= low) & (spacing <= high)):
        raise Parked(f"expected voxels of {low:g} to {high:g} mm, got {' x '.join(f'{one:g}' for one in spacing)}")
    voxels = sitk.GetArrayFromImage(image)  # (slice, row, column): the last index of the image first
    voxels[~np.isfinite(voxels)] = CT_AIR_HU if modality == "CT" else 0.0
    if modality == "CT":
        np.maximum(voxels, np.float32(CT_AIR_HU), out=voxels)
    axes = np.asarray(image.GetDirection()).reshape(3, 3) * spacing
    affine = np.eye(4)
    affine[:3, :3] = axes[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    slices = tuple(SliceRef(SOPInstanceUID(""), number) for number in range(1, len(voxels) + 1))
    return Volume(voxels, affine, slices, modality, "", ())
