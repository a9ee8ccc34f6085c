"""ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016), for 224 and for 32 px.

    python -m examples.resnet

All that is added in a stage is one group for `slim`: a channel is removed from all of its writers or from
none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.initialisation import he_normal
from slim import slim


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 projection where shapes differ.

    Args:
        inputs: channels.
        width: of the convolutions.
        stride: of the first one.
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, width, h / stride, w / stride)."""
        branch = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width; arguments as those of `BasicBlock`."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, 4 * width, h / stride, w / stride)."""
        branch = F.relu(self.norm1(self.conv1(x)))
        branch = F.relu(self.norm2(self.conv2(branch)))
        return F.relu(self.norm3(self.conv3(branch)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """The classifier.

    Args:
        block: of which it consists.
        counts: blocks of each stage; each but the first halves the map.
        classes: outputs.
        width: of the first stage; each further one has twice the width.
        channels: of the images.
        small: for images of about 32 px: a 3x3 convolution at the start instead of 7x7 and a pool.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        counts: Sequence[int],
        classes: int = 1000,
        width: int = 64,
        channels: int = 3,
        small: bool = False,
    ) -> None:
        super().__init__()
        size = 3 if small else 7
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, size, 1 if small else 2, size // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Identity() if small else nn.MaxPool2d(3, 2, 1),
        )
        last, stages = width, []
        for number, count in enumerate(counts):
            blocks = []
            for stride in (1 if number == 0 else 2, *[1] * (count - 1)):
                blocks.append(block(last, width << number, stride))
                last = (width << number) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(last, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, classes) logits."""
        return self.classifier(self.stages(self.stem(images)).mean((2, 3)))


def resnet18(classes: int = 1000) -> ResNet:
    """For 224 px."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


def resnet50(classes: int = 1000) -> ResNet:
    """For 224 px."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


def resnet_cifar(depth: int = 20, classes: int = 10, channels: int = 3) -> ResNet:
    """For 32 px: three stages of (depth - 2) / 6 blocks, 16, 32 and 64 channels; depth 20, 32, 44, 56, ...

    Where the width changes the identity is a projection (option B of the paper).
    """
    return ResNet(BasicBlock, [(depth - 2) // 6] * 3, classes, 16, channels, small=True)


if __name__ == "__main__":
    print(slim(resnet50().eval(), torch.zeros(1, 3, 224, 224), ratio=0.5).report)
