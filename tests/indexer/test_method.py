"""A change of the code that changes embeddings makes another encoder of them."""

import fingerprints
import pytest

from indexer import bundle as module
from indexer.bundle import read_bundle


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if name == "tiny" else (pytest.mark.pretrained, pytest.mark.slow))
        for case, (name, _) in fingerprints.CASES.items()
    ],
)
def test_embeddings_are_those_of_the_encoder_id(case: str) -> None:
    if reason := fingerprints.missing(case):
        pytest.skip(reason)
    kept_id, kept = fingerprints.stored()[case]
    encoder_id, found = fingerprints.made(case)

    assert encoder_id == kept_id, f"another encoder: {fingerprints.RENEW}"
    assert not fingerprints.apart(kept, found), f"{fingerprints.RAISE}; {fingerprints.RENEW}"


def test_the_method_is_part_of_the_encoder_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_bundle("tiny").encoder_id
    monkeypatch.setattr(module, "METHOD", module.METHOD + 1)

    assert read_bundle("tiny").encoder_id != before
