"""Make and restore vector indexes by the name of their kind."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.sealing import StoredFolder
from indexer.uids import EncoderId
from indexer.vectors import VectorIndex, exact, hnsw, milvus
from indexer.vectors.graph import GraphParameters
from indexer.vectors.milvus import MilvusParameters
from indexer.vectors.reduction import fitted

KINDS = (hnsw.KIND, exact.KIND, milvus.KIND)


@dataclass(frozen=True)
class IndexParameters:
    """Parameters of every kind; each takes its own.

    Parameters
    ----------
    hnsw : GraphParameters
        Of the embedded graph.
    milvus : MilvusParameters or None
        Of the server; needed by the kind ``milvus`` only.
    scratch : Path or None
        Folder for files of a running index; None where nothing may be left on the disk in plain.
    """

    hnsw: GraphParameters = field(default_factory=GraphParameters)
    milvus: MilvusParameters | None = None
    scratch: Path | None = None


def create(
    kind: str,
    *,
    dim: int,
    encoder_id: EncoderId,
    parameters: IndexParameters | None = None,
    sample: NDArray[np.float32] | None = None,
) -> VectorIndex:
    """Make an empty index; with ``milvus``, a collection of the same encoder is dropped.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    dim : int
        Components of a vector.
    encoder_id : EncoderId
        Whose embeddings.
    parameters : IndexParameters
        Defaults where None.
    sample : (N, dim) float32 or None
        Of many vectors that will be added: a graph then knows the directions in which these vary most.

    Raises
    ------
    config.errors.ConfigError
        If there is no such kind or it is not configured.
    indexer.errors.Transient
        If a server does not answer.
    """
    parameters = parameters or IndexParameters()
    match kind:
        case exact.KIND:
            return exact.ExactIndex(dim=dim, encoder_id=encoder_id, scratch=parameters.scratch)
        case hnsw.KIND:
            reduction = None if sample is None else fitted(sample)
            return hnsw.HnswIndex(
                dim=dim,
                encoder_id=encoder_id,
                parameters=parameters.hnsw,
                reduction=reduction,
                scratch=parameters.scratch,
            )
        case milvus.KIND:
            return milvus.create(dim=dim, encoder_id=encoder_id, parameters=_server(parameters))
    raise _unknown(kind)


def restore(
    kind: str, folder: StoredFolder, *, dim: int, encoder_id: EncoderId, parameters: IndexParameters | None = None
) -> tuple[VectorIndex, int]:
    """Open the snapshot in a folder.

    Parameters
    ----------
    kind, dim, encoder_id, parameters
        As for `create`.
    folder : StoredFolder
        As given to `VectorIndex.snapshot`.

    Returns
    -------
    index : VectorIndex
        As it was.
    sequence : int
        The position in the catalog's journal that it includes.

    Raises
    ------
    indexer.errors.Damaged
        If anything is missing, changed or of another index: make a new one from the catalog.
    config.errors.ConfigError, indexer.errors.Transient
        As for `create`.
    """
    parameters = parameters or IndexParameters()
    match kind:
        case exact.KIND:
            return exact.restore(folder, dim=dim, encoder_id=encoder_id)
        case hnsw.KIND:
            return hnsw.restore(
                folder, dim=dim, encoder_id=encoder_id, parameters=parameters.hnsw, scratch=parameters.scratch
            )
        case milvus.KIND:
            return milvus.restore(folder, dim=dim, encoder_id=encoder_id, parameters=_server(parameters))
    raise _unknown(kind)


def _server(parameters: IndexParameters) -> MilvusParameters:
    if parameters.milvus is None:
        raise ConfigError(["the vector index `milvus` needs the URI of a server or a file"])
    return parameters.milvus


def _unknown(kind: str) -> ConfigError:
    return ConfigError([f"expected a vector index of {', '.join(KINDS)}, got {kind!r}"])
