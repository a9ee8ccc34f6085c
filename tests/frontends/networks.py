"""Small networks, one awkward thing each, in the middle of a plain one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate.view(batch, channels, 1, 1).expand_as(x)


class InvertedResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.branch = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class HalfInstanceNorm(nn.Module):
    """MODNet's: the code holds how many channels the first half has."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.batch, self.instance = nn.BatchNorm2d(self.half), nn.InstanceNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, : self.half].contiguous(), x[:, self.half :].contiguous()
        return torch.cat([self.batch(first), self.instance(second)], dim=1)


class Shuffle(nn.Module):
    """ShuffleNet's unit; two behind each other mix the halves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        x = torch.cat((kept, self.branch(changed)), dim=1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(batch, -1, height, width)


class UpAndDown(nn.Module):
    """Pixel shuffle, a transposed convolution, a parameter for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen, self.shuffle = nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2)
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        shuffled = F.interpolate(self.shuffle(self.widen(x)) * self.scale, scale_factor=0.5)
        return shuffled + F.max_pool2d(self.up(x), 2)


class ChannelMlp(nn.Module):
    """ConvNeXt's: a norm over the channels, linear layers on the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen, self.shrink = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.widen(self.norm(x.permute(0, 2, 3, 1))))
        return x + self.shrink(hidden).permute(0, 3, 1, 2)


class SplitSizes(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [channels // 4, channels - channels // 4]
        self.one = nn.Conv2d(self.sizes[0], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, self.sizes, dim=1)
        return self.one(first) + F.pad(second, (0, 0, 0, 0, 0, self.sizes[0]))


class Twice(nn.Module):
    """One convolution, called two times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.relu(self.norm(self.conv(x)))))


class Network(nn.Module):
    """Convolution, norm, PReLU, the awkward middle, convolution, pool, linear; (B, 3, h, w) -> (B, 10)."""

    def __init__(self, middle: nn.Module, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.PReLU(channels)
        )
        self.middle = middle
        self.behind, self.pool = nn.Conv2d(channels, channels, 3, padding=1), nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.behind(self.middle(self.stem(x)))))
        return self.head(torch.flatten(x, 1))


MIDDLES = {
    "nothing": nn.Identity,
    "squeeze and excitation": lambda: SqueezeExcitation(16),
    "inverted residuals": lambda: nn.Sequential(InvertedResidual(16), InvertedResidual(16)),
    "half instance norm": lambda: HalfInstanceNorm(16),
    "shuffles": lambda: nn.Sequential(Shuffle(16), Shuffle(16)),
    "up and down": lambda: UpAndDown(16),
    "channel mlp": lambda: ChannelMlp(16),
    "split sizes": lambda: SplitSizes(16),
    "called twice": lambda: Twice(16),
    "grouped": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=4),
    "group norm": lambda: nn.Sequential(nn.Conv2d(16, 16, 1), nn.GroupNorm(8, 16), nn.ReLU()),
    "a group each": lambda: nn.GroupNorm(16, 16),
    "one group": lambda: nn.GroupNorm(1, 16),
    "norm of a map": lambda: nn.Sequential(nn.Conv2d(16, 16, 1), nn.LayerNorm((8, 8))),
    "transposed": lambda: nn.ConvTranspose2d(16, 16, 2, stride=2),
    "transposed depthwise": lambda: nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1, groups=16),
    "transposed grouped": lambda: nn.ConvTranspose2d(16, 16, 2, stride=2, groups=4),
}


def network(middle: str, seed: int = 0) -> Network:
    """One of `MIDDLES` with random weights, gammas and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    model = Network(MIDDLES[middle]())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0, 1)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()
