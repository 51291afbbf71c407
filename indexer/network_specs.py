"""How a bundle describes its network: the arguments of MONAI's classes, and where features lie."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sizes3 = tuple[int, int, int]
Sizes4 = tuple[int, int, int, int]
Axes = Literal["zxy", "zyx", "xyz", "xzy", "yxz", "yzx"]
LAYERS = ("layer1", "layer2", "layer3", "layer4")
"""Names of the layers that features are taken from, the finest first."""


class Table(BaseModel):
    """A table of a bundle file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ResNetSpec(Table):
    """Arguments of ``monai.networks.nets.resnet.ResNet``.

    Attributes
    ----------
    axes : str
        Order of the patient's axes in the network's tensor; x grows to the right, y to the anterior, z to the
        superior (RAS). Sizes and strides of the first convolution are in this order.
    dilation : tuple of int
        Of the 3 x 3 x 3 convolutions of each layer; a layer of more than 1 does not stride.
    """

    kind: Literal["resnet"]
    axes: Axes = "zxy"
    block: Literal["basic", "bottleneck"]
    layers: Sizes4
    planes: Sizes4
    input_channels: int
    conv1_size: Sizes3
    conv1_stride: Sizes3
    shortcut: Literal["A", "B"] = "B"
    bias_downsample: bool
    dilation: Sizes4 = (1, 1, 1, 1)

    @model_validator(mode="after")
    def _centred(self) -> "ResNetSpec":
        if any(size % 2 == 0 for size in self.conv1_size):
            raise ValueError(
                f"conv1_size must be odd, so that features are centred on voxels; got {self.conv1_size}"
            )
        return self

    def stride(self, layer: str) -> Sizes3:
        """Voxels from one feature to the next, in the order of the network's axes."""
        halving = sum(one == 1 for one in self.dilation[1 : LAYERS.index(layer) + 1])
        z, x, y = (step * 2 ** (1 + halving) for step in self.conv1_stride)
        return z, x, y


class SwinSpec(Table):
    """Arguments of ``monai.networks.nets.swin_unetr.SwinTransformer``; `axes` as in `ResNetSpec`."""

    kind: Literal["swin"]
    axes: Axes = "xyz"
    input_channels: int
    embed_dim: int
    window_size: int
    depths: Sizes4
    heads: Sizes4
    use_v2: bool = False

    def stride(self, layer: str) -> Sizes3:
        """Voxels from one feature to the next, in the order of the network's axes."""
        side = 2 ** (LAYERS.index(layer) + 2)
        return side, side, side


class EfficientNetSpec(Table):
    """Arguments of ``monai.networks.nets.EfficientNet`` in two dimensions, run on axial slices.

    A slice has the patient's anterior at the top. Layers 1 to 4 end where one feature stands for 4, 8, 16 and 32
    pixels each way.

    Attributes
    ----------
    blocks : tuple of str
        As MONAI writes them: repeats, kernel, strides, expansion, channels in and out.
    activation : str
        ``swish``, or ``relu6`` as the lite variants have it.
    mean, deviation : float
        Subtracted from, then dividing, intensities of 0 to 1.
    """

    kind: Literal["efficientnet"]
    blocks: tuple[str, ...]
    input_channels: int = 3
    activation: Literal["swish", "relu6"] = "swish"
    mean: float
    deviation: Positive
