"""Middles of networks whose code does something else with channels than ordinary code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.frontends.networks import HalfInstanceNorm


class Middle(nn.Module):
    """Two convolutions and a parameter, of which subclasses make what they like."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
        self.single = nn.Conv2d(channels, 1, 1)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.1)
        self.other = nn.Module()
        self.other.scale = self.scale


class SharedParameter(Middle):
    """By two names."""

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x * self.scale) * self.other.scale


class ParameterReadTwice(Middle):
    """As it is, and in another shape."""

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x * self.scale) * self.scale.view(1, -1, 1, 1)


class WeightsReadTwice(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.one(x)) * F.conv2d(x, self.one.weight)


class TiedWeights(Middle):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(16, 16, 1)
        self.second.weight = self.one.weight
        self.behind = nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(torch.cat((F.relu(self.one(x)), F.relu(self.second(x))), dim=1))


class ZerosOfItsSize(Middle):
    """The shortcut of residual networks on small images: new channels are zeros."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(x.shape[0], 16 - x.shape[1] // 2, x.shape[2], x.shape[3])
        return torch.cat((F.relu(self.one(x))[:, :8], zeros), dim=1)


class ZerosLike(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.one(x), torch.zeros_like(x)), dim=1)[:, 8:24]


class Constants(Middle):
    """Tensors that the code makes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) * torch.tensor(0.5) + x.index_select(1, torch.arange(16)) * torch.tensor([2.0])


class DecidesByWidth(Middle):
    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.relu(self.one(x)))
        return y * 3 if self.one.out_channels == 16 else y


class OneChannelFirst(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.single(x)) * self.two(F.relu(self.single(x) * x))


class OneChannelSpread(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.single(x)).expand_as(x) * x


class OneOfMany(Middle):
    """A slice of one channel meets all of another map."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.one(x)[:, :1])


class Powers(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return self.two(x.abs().pow(self.scale)) * x


class PixelsByThemselves(Middle):
    def forward(self, x: Tensor) -> Tensor:
        pixels = F.pixel_shuffle(F.relu(self.one(x)), 2)  # 4 channels
        return x * F.max_pool2d(pixels, 2).mean((1, 2, 3), keepdim=True)


class AttentionOverWindows(Middle):
    """Windows lie in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.shrink = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        batch, height, width, channels = y.shape
        y = y.reshape(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        y = self.shrink(F.gelu(self.widen(y.reshape(-1, 16, channels))))
        y = y.view(batch, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        return x + y.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class Heads(Middle):
    """Multi-head attention reads weights of a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).flatten(2).transpose(1, 2)
        return x * self.attention(y, y, y, need_weights=False)[0].mean((1, 2))[:, None, None, None]


class AsFloat(Middle):
    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(y * torch.softmax(y.flatten(2), 2, dtype=torch.float32).view(x.shape).float())


class WhereTheLargestWere(Middle):
    """SegNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        largest, places = self.pool(F.relu(self.one(x)))
        return self.unpool(largest, places)


class NormsOfOneLayer(Middle):
    """A layer called for several maps, each with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norms, self.three = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)]), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = (F.relu(norm(self.one(x))) for norm in self.norms)
        return self.two(one) + self.three(two)


class NormWithoutGammas(Middle):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.norm(self.one(x))))


class AcrossChannels(Middle):
    """Efficient channel attention: a convolution along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.along(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return x * torch.sigmoid(gate).transpose(-1, -2).unsqueeze(-1)


class OuterProduct(Middle):
    def forward(self, x: Tensor) -> Tensor:
        one, two = (F.relu(layer(x)).mean((2, 3)) for layer in (self.one, self.two))
        return x * (one.unsqueeze(1) * two.unsqueeze(2)).flatten(1).mean(1)[:, None, None, None]


class Squeezes(Middle):
    """Every axis of size 1 goes: that of a batch of 1, too."""

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(self.one(x), 1).squeeze()
        return x * gate[:, :, None, None]


class Grouped(Middle):
    """Groups that end with a channel each, and one that ends alone."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.depthwise = nn.Conv2d(16, 16, 1, groups=4), nn.Conv2d(16, 32, 1, groups=16)
        self.behind = nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(F.relu(self.depthwise(F.relu(self.two(F.relu(self.groups(self.one(x))))))))


class TrainsOtherwise(HalfInstanceNorm):
    """Its code holds a number of channels, and a dropout."""

    def __init__(self) -> None:
        super().__init__(16)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


# middle -> what its report says of it; "" where all is followed
MIDDLES: dict[type[nn.Module], str] = {
    SharedParameter: "",
    ParameterReadTwice: "",
    WeightsReadTwice: "",
    TiedWeights: "",
    ZerosOfItsSize: "",
    ZerosLike: "",
    Constants: "index_select",
    DecidesByWidth: "",
    OneChannelFirst: "",
    OneChannelSpread: "",
    OneOfMany: "slice) selects by number",
    Powers: "",
    PixelsByThemselves: "mean) computes statistics over channels",
    AttentionOverWindows: "",
    Heads: "mean) computes statistics over channels",
    AsFloat: "",
    WhereTheLargestWere: "MaxUnpool2d",
    NormsOfOneLayer: "",
    NormWithoutGammas: "",
    AcrossChannels: "Conv1d middle.along (convolution) slides along it",
    OuterProduct: "mean) computes statistics over channels",
    Squeezes: "",
    Grouped: "",
    TrainsOtherwise: "",
}
