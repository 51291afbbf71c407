"""What `node.web.jobs` and the process that embeds an upload (`node.embedding`) tell each other, as lines of JSON.

This module loads no network library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from config.model import Settings
from indexer.catalog.embeddings import EmbeddedChunk
from indexer.outside import OutsideSeries
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID


class Task(BaseModel):
    """What is to be embedded.

    Attributes
    ----------
    files : tuple of Path
        DICOM files, or one NIfTI file.
    modality : {"CT", "MR"}
        Of a NIfTI file.
    """

    model_config = ConfigDict(frozen=True)

    settings: Settings
    files: tuple[Path, ...]
    modality: Literal["CT", "MR"]


def is_nifti(path: Path) -> bool:
    """Whether a file was named as NIfTI by who received it."""
    return path.name.endswith((".nii", ".nii.gz"))


def result_line(encoder_id: EncoderId, series: Sequence[OutsideSeries]) -> dict[str, Any]:
    """Put what was embedded as the last line."""
    return {"encoder_id": encoder_id, "series": [_written(one) for one in series]}


def read_result(line: Mapping[str, Any]) -> tuple[EncoderId, list[OutsideSeries]]:
    """Read the last line."""
    series = [
        OutsideSeries(
            SeriesInstanceUID(one["series_instance_uid"]),
            one["modality"],
            [_read_chunk(chunk) for chunk in one["chunks"]],
        )
        for one in line["series"]
    ]
    return EncoderId(line["encoder_id"]), series


def _written(one: OutsideSeries) -> dict[str, Any]:
    return {
        "series_instance_uid": one.series_instance_uid,
        "modality": one.modality,
        "chunks": [
            {
                "volume": chunk.volume,
                "position": chunk.position,
                "box_lps_mm": chunk.box_lps_mm,
                "slices": [asdict(ref) for ref in chunk.slices],
                "embeddings": {kind: vector.tolist() for kind, vector in chunk.embeddings.items()},
            }
            for chunk in one.chunks
        ],
    }


def _read_chunk(chunk: Mapping[str, Any]) -> EmbeddedChunk:
    x0, y0, z0, x1, y1, z1 = chunk["box_lps_mm"]
    return EmbeddedChunk(
        volume=chunk["volume"],
        position=chunk["position"],
        box_lps_mm=(x0, y0, z0, x1, y1, z1),
        slices=tuple(SliceRef(SOPInstanceUID(r["sop_instance_uid"]), r["frame_number"]) for r in chunk["slices"]),
        embeddings={kind: np.asarray(vector, np.float32) for kind, vector in chunk["embeddings"].items()},
    )
