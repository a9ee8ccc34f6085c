"""Pre-activation ResNet (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016), for 32 px.

    python -m examples.preresnet

A sum of a stage has no norm of its own, each block opens with one. So there are two ways to prune it:

plain       a channel of a stage goes from all that writes it and all that reads it, or from none
selecting   the first norm of each block judges what this block reads, and the sums stay whole (Network
            Slimming, Liu et al., ICCV 2017)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.initialisation import he_normal
from slim import ChannelSelection, slim


class PreActivation(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width; a norm and ReLU before each.

    Args:
        inputs: channels.
        width: of the first two convolutions.
        stride: of the second one.
        selecting: whether the first norm selects its inputs.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, selecting: bool) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.select = ChannelSelection(inputs) if selecting else nn.Identity()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm3, self.conv3 = nn.BatchNorm2d(width), nn.Conv2d(width, outputs, 1, bias=False)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, 4 * width, h / stride, w / stride)."""
        branch = self.conv1(F.relu(self.norm1(self.select(x))))
        branch = self.conv2(F.relu(self.norm2(branch)))
        return self.conv3(F.relu(self.norm3(branch))) + self.shortcut(x)


class PreResNet(nn.Module):
    """The classifier: three stages of (depth - 2) / 9 blocks.

    Args:
        depth: layers with weights: 20, 29, 56, 164, ...
        classes: outputs.
        channels: of the images.
        selecting: as for `PreActivation`.
    """

    def __init__(
        self, depth: int = 164, classes: int = 10, channels: int = 3, selecting: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        last, blocks = 16, []
        for width, first in ((16, 1), (32, 2), (64, 2)):
            for stride in (first, *[1] * ((depth - 2) // 9 - 1)):
                blocks.append(PreActivation(last, width, stride, selecting))
                last = width * PreActivation.expansion
        self.blocks = nn.Sequential(*blocks)
        self.select = ChannelSelection(last) if selecting else nn.Identity()
        self.norm = nn.BatchNorm2d(last)
        self.classifier = nn.Linear(last, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, classes) logits."""
        x = F.relu(self.norm(self.select(self.blocks(self.stem(images)))))
        return self.classifier(x.mean((2, 3)))


if __name__ == "__main__":
    model = PreResNet(56, selecting=True).eval()
    print(slim(model, torch.zeros(1, 3, 32, 32), ratio=0.5, score="gamma").report)
