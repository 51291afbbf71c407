"""Procedural CT and MR phantoms: an analytic body, invented scanners and a small archive made from both.

For trying the node out without any DICOM at hand, and for tests; nothing here was measured on a person.
"""

from node.phantoms.archive import archive
from node.phantoms.body import Grid, Orientation, voxels
from node.phantoms.exam import Exam, Region
from node.phantoms.headers import datasets
from node.phantoms.patient import Finding, Patient
from node.phantoms.tissue import Sequence
from node.phantoms.vendors import VENDORS, Vendor

__all__ = [
    "VENDORS",
    "Exam",
    "Finding",
    "Grid",
    "Orientation",
    "Patient",
    "Region",
    "Sequence",
    "Vendor",
    "archive",
    "datasets",
    "voxels",
]
