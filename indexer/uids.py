"""The identifiers that travel through the project, each its own type (PS3.5 section 9, PS3.3 C.12.1)."""

from dataclasses import dataclass
from typing import NewType

StudyInstanceUID = NewType("StudyInstanceUID", str)
SeriesInstanceUID = NewType("SeriesInstanceUID", str)
SOPInstanceUID = NewType("SOPInstanceUID", str)
EncoderId = NewType("EncoderId", str)
"""Digest of an encoder bundle; embeddings with different ids are never compared."""
EmbeddingId = NewType("EmbeddingId", int)
"""Key of one embedding in the catalog, and its label in every vector index."""


@dataclass(frozen=True, slots=True)
class SliceRef:
    """Where a slice comes from: a single-frame instance, or one frame of a multi-frame instance."""

    sop_instance_uid: SOPInstanceUID
    frame_number: int | None
    """From 1 in a multi-frame instance, None in a single-frame one."""
