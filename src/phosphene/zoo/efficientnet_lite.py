"""EfficientNet-Lite 0, 1 and 2: the network from its paper, to run the published TensorFlow weights.

Lite drops squeeze-and-excitation and swish of EfficientNet (Tan and Le, 2019) for ReLU6, and scales neither
the stem nor the head. Convolution, norm and activation are modules of their own, so that hooks, folding and
FX see each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Variant:
    """Width and depth multipliers, and the side of the input in pixels."""

    width: float
    depth: float
    size: int


VARIANTS = {"lite0": Variant(1.0, 1.0, 224), "lite1": Variant(1.0, 1.1, 240), "lite2": Variant(1.1, 1.2, 260)}

# (expansion, kernel, stride of the first block, channels, blocks) of each stage at width and depth 1.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class SamePadConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME: as little as the stride allows, the odd pixel right and below."""

    def forward(self, input: Tensor) -> Tensor:
        rows = _same_padding(input.shape[-2], self.kernel_size[0], self.stride[0])
        columns = _same_padding(input.shape[-1], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(input, (*columns, *rows)))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Widen by a 1 x 1 convolution, filter each channel, narrow again; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _conv_norm_act(inputs, wide, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_norm_act(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Sequential(_conv(wide, outputs, 1), _norm(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """(N, 3, H, W) normalised to about [-1, 1] -> (N, 1000) logits; convolutional up to the pooling, any size."""

    def __init__(self, variant: Variant, classes: int = 1000) -> None:
        super().__init__()
        self.stem = _conv_norm_act(3, 32, 3, 2)
        blocks, inputs = [], 32
        for stage, (expansion, kernel, stride, channels, repeats) in enumerate(_STAGES):
            outputs = _round_channels(channels * variant.width)
            # The first and the last stage are never deepened.
            edge = stage in (0, len(_STAGES) - 1)
            for index in range(repeats if edge else math.ceil(repeats * variant.depth)):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_norm_act(inputs, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))  # (N, 1280, H / 32, W / 32)
        logits: Tensor = self.classifier(self.dropout(self.flatten(self.pool(x))))
        return logits


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SamePadConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _conv_norm_act(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, kernel, stride, groups), _norm(outputs), nn.ReLU6())


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8, never more than 10 % below."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def rename_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under the names of this file."""
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    block, position = "", key.split(".")
    if position[0] == "_blocks":
        block, position = f"blocks.{position[1]}.", position[2:]
    places = {
        "_conv_stem": "stem.0",
        "_conv_head": "head.0",
        "_fc": "classifier",
        "_expand_conv": "expand.0",
        "_depthwise_conv": "depthwise.0",
        "_project_conv": "project.0",
    }
    norms = (
        {"_bn0": "expand.1", "_bn1": "depthwise.1", "_bn2": "project.1"}
        if block
        else {"_bn0": "stem.1", "_bn1": "head.1"}
    )
    return f"{block}{(places | norms)[position[0]]}.{position[1]}"
