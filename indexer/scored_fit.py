"""Fitting what a compartment's places are scored with, and what of pooled scores tells findings apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.compartments import ORGANS, Kind
from indexer.insertion.findings import CLEAN
from indexer.ridge import Sums
from indexer.scored import RELATIVE, Rows, ScoredKind

_UNITS, _FEW_UNITS = 32, 32
_STEPS = 1000
_ANY, _SHOWING = 192, 32
"""Places of each patient in a step: any, and of each finding."""
_RATE, _DECAY, _DROPPED, _NOISE = 3e-3, 1e-2, 0.1, 0.5
_MISSING: dict[Kind, float] = {ORGANS: 0.5}
"""Share of the features that are left out at each place in each step: no score is to hang on a few of them."""
_CLIP = 8.0
_SHOWS, _FREE = 0.5, 0.1
"""Shares of a finding at a place: from the first on it shows the finding, below the other it does not."""
_THINNED = 8
"""Of the places without a finding one in so many teaches."""
_RIDGE = 0.3
_ALWAYS = 0.2
"""What every slab's vector holds beside: with it, how clearly a finding shows turns the vector, not only which."""
_SEED = 11


@dataclass(frozen=True, eq=False)
class FineExample:
    """Places of the network's first layer in one compartment of one slab of one patient.

    Attributes
    ----------
    first, second : (n, C1) and (n, C2) float16
        Features of the first two layers there.
    label : str
        Of the slab, as a gallery names it; empty: several findings at once, which teach places only.
    findings : dict of str to (n,) float32
        Name to the share of each inserted finding; empty: as scanned.
    """

    patient: str
    first: NDArray[np.float16]
    second: NDArray[np.float16]
    label: str
    findings: dict[str, Rows]

    def teaching(self) -> "FineExample":
        """Only the places that teach: those near a finding, and some of the others."""
        near = np.zeros(len(self.first), np.bool_)
        for share in self.findings.values():
            near |= share >= _FREE
        rows = np.flatnonzero(near | (np.arange(len(near)) % _THINNED == 0))
        findings = {name: share[rows] for name, share in self.findings.items()}
        return replace(self, first=self.first[rows], second=self.second[rows], findings=findings)


def fit_scored(kind: Kind, examples: Sequence[FineExample]) -> ScoredKind:
    """Fit one compartment.

    Every patient has the same weight in what scores places, and every finding, clean slabs among them, in what
    tells them apart. The same examples give the same fit, up to rounding.

    Parameters
    ----------
    examples : sequence of FineExample
        Clean slabs of the compartment, and slabs with inserted findings.
    """
    names = sorted({name for one in examples for name in one.findings})
    scored = _perceptron(examples, names, _MISSING.get(kind, 0.0))
    fitted = replace(scored, relative=np.array(kind in RELATIVE, np.float32))
    slabs = [one for one in examples if one.label]
    scores = [fitted.scores(one.first.astype(np.float32), one.second.astype(np.float32)) for one in slabs]
    pooled = np.stack([fitted.pooled(one) for one in scores])
    mean, scale = pooled.mean(axis=0), pooled.std(axis=0) + 1e-3
    shown = [next(iter(one.findings), CLEAN) for one in slabs]
    codes = np.array([sorted(set(shown)).index(name) for name in shown])
    weights = (1.0 / np.bincount(codes)[codes]).astype(np.float32)
    targets = np.eye(codes.max() + 1, dtype=np.float32)[codes]
    standard = (pooled - mean) / scale
    told, offset = Sums.of(standard, targets, weights).ridge(_RIDGE)
    offset = np.append(offset - weights @ targets / weights.sum(), np.float32(_ALWAYS))
    told = np.pad(told, ((0, 0), (0, 1)))
    return replace(fitted, score_mean=mean, score_scale=scale, told=told, told_offset=offset)


@dataclass(frozen=True, eq=False)
class _Places:
    """Those of one patient: features (n, C1 + C2), and shares (n, K) of findings."""

    features: Tensor
    shares: Tensor

    @classmethod
    def of(cls, examples: Sequence[FineExample], names: Sequence[str]) -> "_Places":
        teaching = [one.teaching() for one in examples]
        nothing = [np.zeros(len(one.first), np.float32) for one in teaching]
        shares = [
            np.stack([one.findings.get(name, empty) for name in names], axis=1)
            for one, empty in zip(teaching, nothing, strict=True)
        ]
        features = np.concatenate([np.hstack([one.first, one.second]) for one in teaching])
        return cls(torch.from_numpy(features), torch.from_numpy(np.concatenate(shares).astype(np.float32)))


def _perceptron(examples: Sequence[FineExample], names: Sequence[str], missing: float) -> ScoredKind:
    """Fit what scores places; nothing is told apart yet."""
    patients = sorted({one.patient for one in examples})
    own = [_Places.of([one for one in examples if one.patient == who], names) for who in patients]
    some = torch.cat([one.features[::20] for one in own]).float()
    mean, scale = some.mean(dim=0), some.std(dim=0) + 1e-3
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(_SEED)
        network = _trained(own, mean, scale, len(names), missing)
    first, hidden, last = (one for one in network if isinstance(one, nn.Linear))
    matrix = _numbers(first.weight / scale).T
    split = examples[0].first.shape[1]
    empty = np.zeros(0, np.float32)
    return ScoredKind(
        findings=np.array(names),
        first=matrix[:split],
        second=matrix[split:],
        offset=_numbers(first.bias - first.weight @ (mean / scale)),
        hidden=_numbers(hidden.weight).T,
        hidden_offset=_numbers(hidden.bias),
        last=_numbers(last.weight).T,
        last_offset=_numbers(last.bias),
        relative=empty,
        score_mean=empty,
        score_scale=empty,
        told=empty[None],
        told_offset=empty,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: the matrices are so small that threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(own: Sequence[_Places], mean: Tensor, scale: Tensor, findings: int, missing: float) -> nn.Sequential:
    network = nn.Sequential(
        nn.Dropout(missing),
        nn.Linear(len(mean), _UNITS),
        nn.ReLU(),
        nn.Dropout(_DROPPED),
        nn.Linear(_UNITS, _FEW_UNITS),
        nn.ReLU(),
        nn.Linear(_FEW_UNITS, findings),
    )
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS)
    for features, shares in _drawn(own):
        standard = ((features - mean) / scale).clamp(-_CLIP, _CLIP)
        scores = network(standard + _NOISE * torch.randn_like(standard))
        told = ((shares < _FREE) | (shares > _SHOWS)).float()
        losses = functional.binary_cross_entropy_with_logits(scores, (shares > _SHOWS).float(), reduction="none")
        optimiser.zero_grad()
        torch.autograd.backward((losses * told).sum() / told.sum())
        optimiser.step()
        schedule.step()
    return network.eval()


def _drawn(own: Sequence[_Places]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and shares of the places of one step after the other."""
    showing = [[torch.nonzero(column > _SHOWS)[:, 0] for column in one.shares.T] for one in own]
    for _ in range(_STEPS):
        rows = [
            torch.cat([torch.randint(len(one.shares), (_ANY,)), *(_some(places) for places in of_finding)])
            for one, of_finding in zip(own, showing, strict=True)
        ]
        chosen = list(zip(own, rows, strict=True))
        features = torch.cat([one.features[row] for one, row in chosen]).float()
        yield features, torch.cat([one.shares[row] for one, row in chosen])


def _some(places: Tensor) -> Tensor:
    return places[torch.randint(len(places), (_SHOWING,))] if len(places) else places


def _numbers(values: Tensor) -> Rows:
    return np.ascontiguousarray(values.detach().numpy(), dtype=np.float32)
