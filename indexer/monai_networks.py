"""MONAI's networks, loaded without what MONAI would use elsewhere: seconds and memory of every worker's start."""

from indexer.hiding import hidden

__all__ = ["EfficientNet", "ResNet", "ResNetBlock", "ResNetBottleneck", "SwinTransformer"]

_OF_NO_USE = ("jsonschema", "pandas")
"""MONAI imports these, where they are installed, for reading bundles and data sets; pandas loads pyarrow."""

with hidden(*_OF_NO_USE):
    from monai.networks.nets.efficientnet import EfficientNet
    from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
    from monai.networks.nets.swin_unetr import SwinTransformer
