"""A small detector to export, and what it is exported with."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.detection.decode import HeadSpec
from utils.exporters.job import Exported, Exporting, exporting
from utils.exporters.onnx import export_onnx
from utils.runtimes.runtime import Images

CLASSES = 2
SIZE = (32, 48)
SPECS = (
    HeadSpec(((10.0, 14.0), (20.0, 9.0)), CLASSES, stride=8),
    HeadSpec(((30.0, 40.0),), CLASSES, stride=16),
)


class TwoHeads(nn.Module):
    """A detector with batch norms that have moved from their start, and heads at stride 8 and 16."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 8, stride=8, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.1)
        )
        self.down = nn.Sequential(nn.Conv2d(6, 8, 2, stride=2, bias=False), nn.BatchNorm2d(8), nn.Mish())
        self.fine, self.coarse = nn.Conv2d(6, 14, 1), nn.Conv2d(8, 7, 1)
        for norm in (self.stem[1], self.down[1]):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.stem(images)
        heads = self.fine(fine), self.coarse(self.down(fine))
        return [self.split(head) for head in heads]

    def split(self, head: Tensor) -> Tensor:
        batch, channels, height, width = head.shape
        return head.view(batch, channels // 7, 7, height, width).permute(0, 1, 3, 4, 2)


def noise(count: int = 4, size: tuple[int, int] = SIZE) -> list[Images]:
    """One batch to calibrate on."""
    return [np.random.default_rng(0).random((count, 3, *size), dtype="f4")]


def small_job(model: nn.Module | None = None, **options: Any) -> Exporting:
    model = TwoHeads() if model is None else model
    return exporting(model, SPECS, SIZE, calibration=noise, **options)


def export_small(folder: Path, model: nn.Module | None = None, **options: Any) -> Exported:
    return export_onnx(small_job(model, **options), folder / "net.onnx")
