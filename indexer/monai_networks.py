"""MONAI's networks, loaded without what MONAI would use elsewhere: seconds and memory of every worker's start."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["EfficientNet", "ResNet", "ResNetBlock", "ResNetBottleneck", "SwinTransformer"]

_OF_NO_USE = ("jsonschema", "pandas")
"""MONAI imports these, where they are installed, for reading bundles and data sets; pandas loads pyarrow."""


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Have imports of some packages fail, unless they are loaded already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None there makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden(*_OF_NO_USE):
    from monai.networks.nets.efficientnet import EfficientNet
    from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
    from monai.networks.nets.swin_unetr import SwinTransformer
