"""Search by a Milvus server, where one machine is not enough, or by a local Milvus Lite file."""

import hashlib
import importlib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.errors import Damaged, Transient
from indexer.sealing import StoredFolder
from indexer.uids import EncoderId
from indexer.vectors import Neighbours, checks, ranking, snapshot

KIND = "milvus"
_MOST_RESULTS = 16_384
"""A server answers no more in one search (Milvus, quotaAndLimits.limits.topK)."""
_MOST_IDS_AN_EXPRESSION = 10_000
_BYTES_A_CALL = 8 * 1024 * 1024
_RESULTS_A_CALL = 200_000
_SLACK = 16
_GROWTH = 4
_IDS_FILE = "ids.npy"
_SAMPLE = 64
_SAMPLE_SHARE = 0.9


@dataclass(frozen=True)
class MilvusParameters:
    """Where the collection lies and how the server indexes it.

    Parameters
    ----------
    uri : str
        ``http://…`` or ``https://…`` of a server, or the path of a Milvus Lite file.
    token : str
        ``user:password`` or an API key; empty for none.
    timeout_s : float
        Longest wait for one call.
    m, ef_construction, ef : int
        As in `indexer.vectors.graph.GraphParameters`.
    """

    uri: str
    token: str = field(default="", repr=False)
    timeout_s: float = 60.0
    m: int = 16
    ef_construction: int = 200
    ef: int = 128


class MilvusIndex:
    """One collection of a Milvus server; see `indexer.vectors.VectorIndex` for the contract.

    The server is durable and shared: what is added is there for every process that opened the collection, and
    `snapshot` only records what it must hold. At most 16,368 results a query can be asked for. Where more than 16
    vectors tie at the end of an answer, the server chooses among them.

    Parameters
    ----------
    dim : int
        Components of a vector.
    encoder_id : EncoderId
        Whose embeddings; names the collection.
    parameters : MilvusParameters
        Of the server.

    Raises
    ------
    config.errors.ConfigError
        If pymilvus is not installed.
    indexer.errors.Transient
        If the server does not answer.
    """

    def __init__(self, *, dim: int, encoder_id: EncoderId, parameters: MilvusParameters) -> None:
        pymilvus = _library()
        self.dim = dim
        self.encoder_id = encoder_id
        self.collection = collection_name(encoder_id)
        self._parameters = parameters
        try:
            with _server_errors():
                self._client: Any = pymilvus.MilvusClient(
                    uri=parameters.uri, token=parameters.token, timeout=parameters.timeout_s
                )
        except Transient as error:
            if "://" in parameters.uri:
                raise
            one = "one process at a time can, such as a running node"
            raise Transient(f"the Milvus Lite file {parameters.uri} cannot be opened: {one}") from error

    def __len__(self) -> int:
        """Count the vectors."""
        with _server_errors():
            answer = self._open().query(self.collection, output_fields=["count(*)"], timeout=self._timeout)
        return int(answer[0]["count(*)"])

    def ids(self) -> NDArray[np.int64]:
        """Return the ids, ascending."""
        found: list[int] = []
        with _server_errors():
            pages = self._open().query_iterator(
                self.collection, batch_size=10_000, output_fields=["id"], timeout=self._timeout
            )
            while page := pages.next():
                found.extend(entity["id"] for entity in page)
            pages.close()
        return np.sort(np.asarray(found, dtype=np.int64))

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors."""
        checks.check_addition(ids, vectors, self.dim)
        client, size = self._open(), max(1, _BYTES_A_CALL // (4 * self.dim))
        for start in range(0, len(ids), size):
            block = zip(ids[start : start + size].tolist(), vectors[start : start + size], strict=True)
            entities = [{"id": label, "vector": vector} for label, vector in block]
            with _server_errors():
                client.upsert(self.collection, entities, timeout=self._timeout)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Forget vectors."""
        checks.check_ids(ids)
        client = self._open()
        for start in range(0, len(ids), _MOST_IDS_AN_EXPRESSION):
            block = ids[start : start + _MOST_IDS_AN_EXPRESSION].tolist()
            with _server_errors():
                client.delete(self.collection, ids=block, timeout=self._timeout)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None = None,
        *,
        together: bool = False,
    ) -> Neighbours:
        """Find the k nearest vectors of every query."""
        checks.check_search(queries, k, allowed, self.dim)
        if k > _MOST_RESULTS - _SLACK:
            raise ValueError(f"expected k of at most {_MOST_RESULTS - _SLACK}, got {k}")
        self._open()
        if not len(queries):
            return ranking.empty(0, k)
        if allowed is None:
            return self._rank(queries, k, self._fetch(queries, k + _SLACK)[0])
        if len(allowed) <= _MOST_IDS_AN_EXPRESSION:
            return self._rank(queries, k, self._fetch_among(queries, k, allowed))
        return self._search_masked(queries, k, allowed)

    def snapshot(self, folder: StoredFolder, sequence: int) -> None:
        """Have the server write everything, and record in the folder what it holds."""
        with _server_errors():
            self._open().flush(self.collection, timeout=self._timeout)
        ids = self.ids()
        description = snapshot.Description(
            KIND, self.dim, self.encoder_id, len(ids), sequence, {"collection": self.collection}
        )

        def fill(data: StoredFolder) -> None:
            with (data / _IDS_FILE).open("wb") as file:
                np.save(file, ids, allow_pickle=False)

        snapshot.write(folder, description, fill)

    def close(self) -> None:
        """Close the connection; the collection stays."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def _timeout(self) -> float:
        return self._parameters.timeout_s

    def _open(self) -> Any:  # noqa: ANN401  # pymilvus carries no types
        if self._client is None:
            raise ValueError("the index is closed")
        return self._client

    def _search_masked(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64]) -> Neighbours:
        """Ask for more than k and mask; whatever that leaves short is asked piece by piece of the filter."""
        answer, rest = ranking.empty(len(queries), k), np.arange(len(queries))
        n = k + _SLACK + 2 * k * len(self) // len(allowed)
        while rest.size and n <= _MOST_RESULTS:
            ids, approximate = self._fetch(queries[rest], n)
            usable = np.isin(ids, allowed)
            settled, _ = ranking.settle(approximate, usable, k, self.dim)
            found = self._rank(queries[rest[settled]], k, ids[settled], usable[settled])
            answer.ids[rest[settled]], answer.similarities[rest[settled]] = found.ids, found.similarities
            rest, n = rest[~settled], n * _GROWTH
        if rest.size:
            found = self._rank(queries[rest], k, self._fetch_among(queries[rest], k, allowed))
            answer.ids[rest], answer.similarities[rest] = found.ids, found.similarities
        return answer

    def _fetch_among(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ask piece by piece of the filter; ids of shape (Q, n), best first, padded."""
        ids = [np.empty((len(queries), 0), dtype=np.int64)]
        scores = [np.empty((len(queries), 0), dtype=np.float32)]
        for start in range(0, len(allowed), _MOST_IDS_AN_EXPRESSION):
            piece = allowed[start : start + _MOST_IDS_AN_EXPRESSION]
            found = self._fetch(queries, k + _SLACK, f"id in {piece.tolist()}")
            ids.append(found[0])
            scores.append(found[1])
        labels, approximate = np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)
        order = np.argsort(-approximate, axis=1)
        return np.take_along_axis(labels, order, axis=1)

    def _fetch(
        self, queries: NDArray[np.float32], n: int, expression: str = ""
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ask the server; ids and its similarities, shape (Q, n) each, best first, padded."""
        found, size = ranking.empty(len(queries), n), max(1, _RESULTS_A_CALL // n)
        for start in range(0, len(queries), size):
            with _server_errors():
                hits = self._open().search(
                    self.collection,
                    data=list(queries[start : start + size]),
                    limit=n,
                    filter=expression,
                    output_fields=["id"],
                    search_params={"params": {"ef": max(self._parameters.ef, n)}},
                    timeout=self._timeout,
                )
            for row, listed in enumerate(hits, start):
                found.ids[row, : len(listed)] = [hit["id"] for hit in listed]
                found.similarities[row, : len(listed)] = [hit["distance"] for hit in listed]
        return found.ids, found.similarities

    def _rank(
        self,
        queries: NDArray[np.float32],
        k: int,
        ids: NDArray[np.int64],
        usable: NDArray[np.bool_] | None = None,
    ) -> Neighbours:
        """Score the server's candidates as every kind of index does."""
        if not ids.size:
            return ranking.empty(len(queries), k)
        usable = ids >= 0 if usable is None else usable
        # The slack is looked up too: another thread may remove candidates between the search and this look-up.
        kept = usable & (np.cumsum(usable, axis=1) <= k + _SLACK)
        query_of, column = np.nonzero(kept)
        labels, vectors = self._vectors(np.unique(ids[query_of, column]))
        known = np.isin(ids[query_of, column], labels)
        query_of, wanted = query_of[known], ids[query_of, column][known]
        pairs = ranking.Pairs(query_of, np.searchsorted(labels, wanted))
        return ranking.best(query_of, wanted, ranking.score(pairs, queries, vectors), len(queries), k)

    def _vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return those of the ids that the server still holds, ascending, and their vectors, (N, dim)."""
        found: dict[int, list[float]] = {}
        size = max(1, _BYTES_A_CALL // (4 * self.dim))
        for start in range(0, len(ids), size):
            with _server_errors():
                entities = self._open().get(
                    self.collection,
                    ids=ids[start : start + size].tolist(),
                    output_fields=["id", "vector"],
                    timeout=self._timeout,
                )
            found.update((entity["id"], entity["vector"]) for entity in entities)
        labels = np.sort(np.fromiter(found, dtype=np.int64, count=len(found)))
        vectors = np.asarray([found[label] for label in labels.tolist()], dtype=np.float32)
        return labels, vectors.reshape(-1, self.dim)

    def _create(self) -> None:
        client, parameters = self._open(), self._parameters
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=self.encoder_id)
        types = _library().DataType
        schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=self.dim)
        index = client.prepare_index_params()
        build = {"M": parameters.m, "efConstruction": parameters.ef_construction}
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=build)
        self._drop()
        with _server_errors():
            client.create_collection(
                self.collection,
                schema=schema,
                index_params=index,
                consistency_level="Strong",
                timeout=self._timeout,
            )

    def _drop(self) -> None:
        with _server_errors():
            self._open().drop_collection(self.collection, timeout=self._timeout)

    def _attach(self) -> None:
        client = self._open()
        with _server_errors():
            if not client.has_collection(self.collection, timeout=self._timeout):
                raise Damaged(f"expected the collection {self.collection}, got none")
            found = client.describe_collection(self.collection, timeout=self._timeout)
        dims = [entry["params"]["dim"] for entry in found["fields"] if "dim" in entry["params"]]
        if dims != [self.dim]:
            raise Damaged(f"expected vectors of dim {self.dim} in {self.collection}, got {dims}")
        with _server_errors():
            client.load_collection(self.collection, timeout=self._timeout)


def collection_name(encoder_id: EncoderId) -> str:
    """Name the collection of an encoder by its id, or by a digest where a name cannot hold the id."""
    readable = re.fullmatch(r"[A-Za-z0-9_]{1,200}", encoder_id)
    return "pacsimile_" + (encoder_id if readable else hashlib.sha256(encoder_id.encode()).hexdigest())


def create(*, dim: int, encoder_id: EncoderId, parameters: MilvusParameters) -> MilvusIndex:
    """Make an empty collection, dropping one of the same encoder for every process that uses it."""
    index = MilvusIndex(dim=dim, encoder_id=encoder_id, parameters=parameters)
    index._create()
    return index


def drop(*, dim: int, encoder_id: EncoderId, parameters: MilvusParameters) -> None:
    """Drop the collection of an encoder, if there is one, for every process that uses it.

    Raises
    ------
    indexer.errors.Transient
        If the server does not answer.
    """
    with closing(MilvusIndex(dim=dim, encoder_id=encoder_id, parameters=parameters)) as index:
        index._drop()


def attach(*, dim: int, encoder_id: EncoderId, parameters: MilvusParameters) -> MilvusIndex:
    """Open the collection that another process keeps.

    Raises
    ------
    indexer.errors.Damaged
        If there is none, or one of other vectors.
    """
    index = MilvusIndex(dim=dim, encoder_id=encoder_id, parameters=parameters)
    try:
        index._attach()
    except BaseException:
        index.close()
        raise
    return index


def restore(
    folder: StoredFolder, *, dim: int, encoder_id: EncoderId, parameters: MilvusParameters
) -> tuple[MilvusIndex, int]:
    """Open a collection and compare it with what was recorded.

    The server may hold later changes; the journal from the returned position on may be followed over them again.

    Returns
    -------
    index : MilvusIndex
        The collection.
    sequence : int
        The position in the catalog's journal that it includes at least.

    Raises
    ------
    indexer.errors.Damaged
        If the record or the collection is missing, changed or of another index, or a sample of the recorded
        vectors is not found by itself.
    """
    description, data = snapshot.read(folder, kind=KIND, dim=dim, encoder_id=encoder_id)
    with (data / _IDS_FILE).open("rb") as file:
        ids = np.load(file, allow_pickle=False)
    if len(ids) != description.count:
        raise Damaged(f"expected {description.count} ids, got {len(ids)}")
    index = attach(dim=dim, encoder_id=encoder_id, parameters=parameters)
    try:
        _check_sample(index, ids)
    except BaseException:
        index.close()
        raise
    return index, description.sequence


def _check_sample(index: MilvusIndex, ids: NDArray[np.int64]) -> None:
    if not len(ids):
        return
    sample = ids[np.unique(np.linspace(0, len(ids) - 1, _SAMPLE).astype(np.int64))]
    labels, vectors = index._vectors(sample)
    checks.check_vectors(vectors, index.dim)
    share = float((index.search(vectors, 1).similarities > 1 - 1e-3).sum() / len(sample)) if len(labels) else 0.0
    if share < _SAMPLE_SHARE:
        raise Damaged(f"expected {_SAMPLE_SHARE:.0%} of the recorded vectors to be found, got {share:.0%}")


@contextmanager
def _server_errors() -> Iterator[None]:
    try:
        yield
    except _failures() as error:
        raise Transient(f"the vector server failed: {type(error).__name__}: {error}") from error


def _library() -> Any:  # noqa: ANN401 - it comes without types
    """Import pymilvus where it is needed: it takes most of a second, and all that do without would wait for it."""
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise ConfigError(["the vector index `milvus` needs pymilvus: install pacsimile[milvus]"]) from error


def _failures() -> tuple[type[Exception], ...]:
    return _library().MilvusException, importlib.import_module("grpc").RpcError, ConnectionError, TimeoutError
