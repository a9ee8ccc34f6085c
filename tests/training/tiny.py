"""Detectors of a few thousand weights to train: one from a cfg, one written in torch; and batches for it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.detection.decode import HeadSpec
from utils.training.options import TrainingOptions

TINY_CFG = """
[net]
width=64
height=64
channels=3
learning_rate=0.01
momentum=0.9
decay=0.0005
max_epochs=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=1
activation=leaky

[shortcut]
from=-2
activation=linear

[convolutional]
filters={filters}
size=1
activation=linear

[yolo]
mask=0,1
anchors=12,12, 28,28
classes={classes}
num=2
"""


def write_cfg(path: Path, classes: int = 4) -> Path:
    """Write the tiny network for `classes` classes."""
    path.write_text(TINY_CFG.format(classes=classes, filters=2 * (5 + classes)))
    return path


SPEC = HeadSpec(anchors=((20.0, 20.0), (40.0, 30.0)), classes=2, stride=16)
OPTIONS = TrainingOptions(
    epochs=2, batch_size=2, accumulate=1, image_size=(32, 32), optimizer="sgd", learning_rate=0.32,
    momentum=0.0, decay=0.0, burn_in=0, precision="fp32", ema_epochs=0.0, clip_norm=1e9,
    schedule="steps",
)  # fmt: skip


@dataclass
class FakeBatch:
    images: Tensor
    targets: Tensor


class TinyDetector(nn.Module):
    """One conv, one batch norm, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=16, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 14, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        raw = self.head(self.norm(self.conv(images)))
        return [raw.view(len(raw), 2, 7, *raw.shape[2:]).permute(0, 1, 3, 4, 2)]


def make_model() -> TinyDetector:
    torch.manual_seed(0)
    return TinyDetector()


def make_batches(count: int) -> list[FakeBatch]:
    generator = torch.Generator().manual_seed(5)
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.5, 0.6], [1, 0, 0.7, 0.2, 0.9, 0.9]])
    return [FakeBatch(torch.rand(2, 3, 32, 32, generator=generator), targets) for _ in range(count)]


def ignore(number: int, means: object) -> None:
    """An observer that does not look."""


def with_batches_of(size: int) -> TrainingOptions:
    return replace(OPTIONS, batch_size=size)


class Frozen(nn.BatchNorm2d):
    """Batch norm whose statistics never change; its gamma and beta learn."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


def frozen_model() -> TinyDetector:
    model = make_model()
    model.norm = Frozen(4)
    return model


def part_of(step: int, rank: int, count: int) -> FakeBatch:
    """A share of the 8 images of a step; all objects but one are in the first half."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    targets = torch.rand(6, 6, generator=generator)
    targets[:, 0] = torch.tensor([0, 1, 1, 2, 3, 6])
    targets[:, 1] = targets[:, 1].round()
    size = 8 // count
    inside = (targets[:, 0] >= rank * size) & (targets[:, 0] < (rank + 1) * size)
    mine = targets[inside] - torch.tensor([rank * size, 0, 0, 0, 0, 0])
    return FakeBatch(images[rank * size : (rank + 1) * size], mine)
