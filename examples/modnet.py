"""MODNet (Ke et al., "MODNet: Real-Time Portrait Matting via Objective Decomposition", AAAI 2022).

    python -m examples.modnet

A MobileNetV2 whose maps feed three branches: semantics, details, and their fusion. Trace it with
`values={"inference": False}`, so that all layers run and are pruned.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.initialisation import he_normal
from examples.mobilenetv2 import MobileNetV2
from slim import slim

# blocks of the backbone whose output is a map: 1/2, 1/4, 1/8, 1/16, 1/32 of the image size
_ENDS = (2, 4, 7, 14, 19)


class IBNorm(nn.Module):
    """Batch norm for the first half of the channels, instance norm for the others.

    The counts are taken from its norms, so a pruned one is still of this class.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(channels // 2)
        self.instance = nn.InstanceNorm2d(channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w), the same."""
        half = self.batch.num_features
        return torch.cat([self.batch(x[:, :half].contiguous()), self.instance(x[:, half:].contiguous())], 1)


def conv_ibnorm(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution with bias, `IBNorm`, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2), IBNorm(outputs), nn.ReLU(inplace=True)
    )


class SqueezeExcitation(nn.Module):
    """Each channel times a gate computed from the means of all channels (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w), the same."""
        batch, channels, _, _ = x.size()
        gate = self.gate(self.pool(x).view(batch, channels)).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


class Backbone(nn.Module):
    """The maps of a MobileNetV2 without its classifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = MobileNetV2(channels=channels).features

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, channels, h, w) -> maps of 16, 24, 32, 96 and 1280 channels, h / 2 .. h / 32."""
        maps = []
        for number, block in enumerate(self.features, start=1):
            image = block(image)
            if number in _ENDS:
                maps.append(image)
        return maps


class LowResolution(nn.Module):
    """Semantics: a coarse matte."""

    def __init__(self) -> None:
        super().__init__()
        self.excite = SqueezeExcitation(1280)
        self.conv16, self.conv8 = conv_ibnorm(1280, 96, 5), conv_ibnorm(96, 32, 5)
        self.head = nn.Conv2d(32, 1, 3, 2, 1)

    def forward(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1280, h / 32, w / 32) -> (B, 32, h / 8, w / 8), and a matte of 1/16 of the size."""
        x = self.conv16(_larger(self.excite(last)))
        x = self.conv8(_larger(x))
        return x, torch.sigmoid(self.head(x))


class HighResolution(nn.Module):
    """Details: the matte around edges."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.enter2, self.down2 = conv_ibnorm(16, width, 1), conv_ibnorm(width + channels, width, 3, 2)
        self.enter4, self.join4 = conv_ibnorm(24, width, 1), conv_ibnorm(2 * width, 2 * width, 3)
        self.conv4 = nn.Sequential(
            conv_ibnorm(3 * width + channels, 2 * width, 3),
            conv_ibnorm(2 * width, 2 * width, 3),
            conv_ibnorm(2 * width, width, 3),
        )
        self.conv2 = nn.Sequential(
            conv_ibnorm(2 * width, 2 * width, 3),
            conv_ibnorm(2 * width, width, 3),
            conv_ibnorm(width, width, 3),
            conv_ibnorm(width, width, 3),
        )
        self.head = nn.Sequential(conv_ibnorm(width + channels, width, 3), nn.Conv2d(width, 1, 1))

    def forward(
        self, image: Tensor, map2: Tensor, map4: Tensor, low: Tensor, inference: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, width, h / 2, w / 2) from maps of 1/2, 1/4 and 1/8, and unless `inference` a matte."""
        image2, image4 = _scaled(image, 1 / 2), _scaled(image, 1 / 4)
        map2 = self.enter2(map2)
        x = self.down2(torch.cat((image2, map2), dim=1))
        x = self.join4(torch.cat((x, self.enter4(map4)), dim=1))
        x = self.conv4(torch.cat((x, _larger(low), image4), dim=1))
        x = self.conv2(torch.cat((_larger(x), map2), dim=1))
        if inference:
            return x, None
        return x, torch.sigmoid(self.head(torch.cat((_larger(x), image), dim=1)))


class Fusion(nn.Module):
    """Both: the matte."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv4, self.conv2 = conv_ibnorm(32, width, 5), conv_ibnorm(2 * width, width, 3)
        self.head = nn.Sequential(conv_ibnorm(width + channels, width // 2, 3), nn.Conv2d(width // 2, 1, 1))

    def forward(self, image: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """(B, 32, h / 8, w / 8) and (B, width, h / 2, w / 2) -> (B, 1, h, w) in [0, 1]."""
        x = _larger(self.conv4(_larger(low)))
        x = self.conv2(torch.cat((x, high), dim=1))
        return torch.sigmoid(self.head(torch.cat((_larger(x), image), dim=1)))


class MODNet(nn.Module):
    """The matting network.

    Args:
        width: of the branch for details.
        channels: of the images.
    """

    def __init__(self, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.backbone = Backbone(channels)
        self.low = LowResolution()
        self.high = HighResolution(width, channels)
        self.fusion = Fusion(width, channels)
        he_normal(self)

    def forward(self, image: Tensor, inference: bool = True) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """(B, channels, h, w), sizes multiples of 32 -> coarse matte, details (None at inference), matte."""
        map2, map4, _, _, last = self.backbone(image)
        low, semantics = self.low(last)
        high, details = self.high(image, map2, map4, low, inference)
        matte = self.fusion(image, low, high)
        return None if inference else semantics, details, matte


def _larger(x: Tensor) -> Tensor:
    return _scaled(x, 2)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


if __name__ == "__main__":
    image = torch.zeros(1, 3, 512, 512)
    print(slim(MODNet().eval(), image, ratio=0.5, values={"inference": False}).report)
