"""What a compartment's places are scored with, drawn from a seed."""

import numpy as np

from indexer.scored import ScoredKind


def kind_of(channels: tuple[int, int], findings: int, seed: int) -> ScoredKind:
    """Weights for features of so many channels and so many findings."""

    def drawn(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)

    return ScoredKind(
        findings=np.array([f"finding {n}" for n in range(findings)]),
        first=drawn(channels[0], 6),
        second=drawn(channels[1], 6),
        offset=drawn(6),
        hidden=drawn(6, 4),
        hidden_offset=drawn(4),
        last=drawn(4, findings),
        last_offset=drawn(findings),
        relative=np.array(0, np.float32),
        score_mean=drawn(6 * findings),
        score_scale=np.ones(6 * findings, np.float32),
        told=drawn(6 * findings, 2),
        told_offset=drawn(2),
    )
