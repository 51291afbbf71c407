"""Which processor and which arithmetic; what needs a GPU is asked of a device without storage instead."""

from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.device import Device, bfloat16_instructions, choose


def flags() -> set[str]:
    with Path("/proc/cpuinfo").open() as told:
        return {flag for row in told if row.startswith("flags") for flag in row.split()}


def test_bfloat16_only_where_the_processor_computes_in_it() -> None:
    native = bool({"avx512_bf16", "amx_bf16"} & flags())
    chosen = choose("cpu")
    assert chosen.dtype is (torch.bfloat16 if native else torch.float32)
    assert bool(bfloat16_instructions()) is native
    assert str(chosen).startswith("cpu, bfloat16 by A" if native else "cpu, float32")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    chosen = choose("auto")
    assert (chosen.device.type, chosen.dtype) == ("cuda", dtype)


@pytest.mark.parametrize("name", ["cpu", "meta"])
def test_an_image_is_brought_to_the_device_in_its_type(name: str) -> None:
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    taken = Device(torch.device(name), torch.bfloat16).take(image)
    assert (taken.shape, taken.device.type, taken.dtype) == ((1, 1, 2, 3, 4), name, torch.bfloat16)


def test_the_cpu_computes_in_one_type() -> None:
    with choose("cpu").autocast():
        assert not torch.is_autocast_enabled("cpu")
