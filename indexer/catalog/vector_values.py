"""Vectors as the catalog keeps them: little-endian float16, sealed if there is a vault."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.sealing import Vault


class VectorValues:
    """Turns vectors into values of a column, and back.

    Parameters
    ----------
    vault : Vault or None
        Seals each of them.
    """

    def __init__(self, vault: Vault | None) -> None:
        self._vault = vault

    def kept(self, vector: NDArray[np.float32]) -> bytes:
        """What is kept of a vector, (D,)."""
        plain = np.asarray(vector, dtype="<f2").tobytes()
        return plain if self._vault is None else self._vault.seal(plain)

    def one(self, value: bytes) -> NDArray[np.float32]:
        """The vector, (D,) of unit length; raises as `all`."""
        return np.asarray(self.all([value])[0])

    def all(self, values: Sequence[bytes]) -> NDArray[np.float32]:
        """Several vectors, (N, D) of unit length; (0, 0) for none.

        Raises
        ------
        indexer.errors.Damaged
            A sealed one was changed, or a plain one is where all are sealed.
        """
        if not values:
            return np.zeros((0, 0), np.float32)
        plain = values if self._vault is None else [self._vault.unseal(value) for value in values]
        data = np.frombuffer(b"".join(plain), dtype="<f2").astype(np.float32)
        return _unit(data.reshape(len(values), -1))


def is_plain(value: bytes) -> bool:
    """Whether a value was kept without a vault: two bytes for each component."""
    return len(value) % 2 == 0


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo the rounding of float16: rows of length one again."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
