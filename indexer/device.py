"""Where a network runs and in which arithmetic: chosen once, by what the processor computes natively."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Engine = Literal["torch", "openvino"]


@dataclass(frozen=True)
class Device:
    """A processor and the type of numbers that a network's weights and features have on it.

    Attributes
    ----------
    engine : str
        What runs it, where that is not PyTorch.
    """

    device: torch.device
    dtype: torch.dtype
    engine: str = ""

    def __str__(self) -> str:
        """Say which, as in "cpu, bfloat16 by AVX512-BF16"."""
        name = str(self.dtype).removeprefix("torch.")
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {name}"
        by = f" by {' and '.join(bfloat16_instructions())}" if self.dtype is torch.bfloat16 else ""
        return f"{self.device}, {name}{by}{', ' if self.engine else ''}{self.engine}"

    def take(self, image: NDArray[np.float32]) -> Tensor:
        """Bring an image (Z, X, Y) there as (1, 1, Z, X, Y); to a GPU from pinned memory, without waiting."""
        tensor = torch.from_numpy(image)[None, None]
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True).to(self.dtype)
        return tensor.to(self.device, self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """On a GPU in bfloat16, operations that need it compute in float32."""
        enabled = self.device.type == "cuda" and self.dtype is torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def choose(name: str) -> Device:
    """Choose for ``cpu``, ``cuda``, or ``auto``: CUDA where it is present."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    return Device(device, native_dtype(device))


def native_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the processor computes in it (AVX512-BF16, AMX; CUDA from Ampere), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if bfloat16_instructions() else torch.float32


def bfloat16_instructions() -> list[str]:
    """Name the instructions of this processor that multiply matrices of bfloat16."""
    has = {"AMX-BF16": torch.cpu._is_amx_tile_supported(), "AVX512-BF16": torch.cpu._is_avx512_bf16_supported()}
    return [name for name, present in has.items() if present]
