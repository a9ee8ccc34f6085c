"""MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018).

    python -m examples.mobilenetv2

For `slim` the expansion and the depthwise convolution of a block are one group; the projections of a stage
are another, tied by its identity shortcuts.
"""

import torch
from torch import Tensor, nn

from examples.initialisation import he_normal
from slim import slim

# expansion, channels, blocks, stride of the first block: table 2 of the paper
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280


def multiple_of(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, never more than 10 % below `value`, as in the authors' code.

    >>> multiple_of(24 * 0.35), multiple_of(16 * 1.4)
    (8, 24)
    """
    near = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * value else near


def conv_norm(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then a batch norm; "same" padding."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; the identity is added if the shapes are equal.

    Args:
        inputs, outputs: channels.
        stride: of the depthwise convolution.
        expansion: hidden channels per input channel; 1: no expanding convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.identity = stride == 1 and inputs == outputs
        expand = [*conv_norm(inputs, hidden), nn.ReLU6()] if expansion > 1 else []
        self.branch = nn.Sequential(
            *expand,
            *conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(),
            *conv_norm(hidden, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        return x + self.branch(x) if self.identity else self.branch(x)


class MobileNetV2(nn.Module):
    """The classifier.

    Args:
        classes: outputs.
        width: multiplier of all channels, rounded to multiples of 8.
        channels: of the images.
        small: for images of about 32 px, as on CIFAR: the first two of five strides are 1.
    """

    def __init__(
        self, classes: int = 1000, width: float = 1.0, channels: int = 3, small: bool = False
    ) -> None:
        super().__init__()
        last = multiple_of(32 * width)
        blocks: list[nn.Module] = [
            nn.Sequential(*conv_norm(channels, last, 3, 1 if small else 2), nn.ReLU6())
        ]
        self.stage_channels: list[int] = []  # output channels of each stage
        for number, (expansion, plain, count, first) in enumerate(_STAGES):
            outputs = multiple_of(plain * width)
            first = 1 if small and number == 1 else first
            for stride in (first, *[1] * (count - 1)):
                blocks.append(InvertedResidual(last, outputs, stride, expansion))
                last = outputs
            self.stage_channels.append(last)
        head = multiple_of(LAST * max(1.0, width))
        blocks.append(nn.Sequential(*conv_norm(last, head), nn.ReLU6()))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes))
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, classes) logits."""
        return self.classifier(self.features(images).mean((2, 3)))


if __name__ == "__main__":
    print(slim(MobileNetV2().eval(), torch.zeros(1, 3, 224, 224), ratio=0.5).report)
