"""Writes the files beside it; meant for commit 2462526, and only for it: what it wrote stays as it is.

    python -m tests.written_by_0_1.write

shapes/, shapes.data     six images of 64x64 with a rectangle or a disc each
last.pt                  tiny.cfg after the first of two epochs of sparse training
prune_*.cfg, .weights, .json    by slim_prune.py from last.pt
last_ladder.csv          by ladder.py from last.pt
latency.json             by latency.py for tiny.cfg, without most of its points
slim.pt                  plan and state of `slim()` on `network()`
outputs.pt               what these networks put out for `IMAGES`, and what trainings from them come to
"""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import ladder
import latency
import slim_prune
import train
from models import Darknet, load_weights
from slim import slim

HERE = Path(__file__).resolve().parent
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
MACHINE = ("--threads", "1", "--workers", "0", "--device", "cpu", "--seed", "0")
FILES = ("--cfg", "tiny.cfg", "--weights", "last.pt", "--data", "shapes.data")
SHARE = ("--global_percent", "0.4", "--layer_keep", "0.1")
RUNGS = ("--rungs", "0.2", "0.4", "--refine", "0", "--recalibrate", "4", "--runtime", "none")
PRUNED = "prune_0.4_keep_0.1_tiny.cfg", "prune_0.4_keep_0.1_last.weights"
DISTILLATION = (
    *("--cfg", PRUNED[0], "--weights", PRUNED[1], "--data", "shapes.data", "--epochs", "1"),
    *("--t_cfg", "tiny.cfg", "--t_weights", "last.pt", "--distill", "feature"),
    *("--batch-size", "2", "--precision", "fp32"),
)


def network(seed: int = 0) -> nn.Module:
    """A convolution, a residual block with a norm behind its sum, and a classifier."""
    torch.manual_seed(seed)
    return Tiny().eval()


class Tiny(nn.Module):
    """What `network` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.block = nn.Sequential(
            nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1)
        )
        self.after = nn.BatchNorm2d(12)
        self.classifier = nn.Linear(12, 5)
        for norm in (self.norm, self.block[1], self.after):
            nn.init.uniform_(norm.weight, 0.1, 1.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 5)."""
        maps = torch.relu(self.norm(self.stem(images)))
        return self.classifier(torch.relu(self.after(maps + self.block(maps))).mean((2, 3)))


def heads(cfg: str | Path, weights: str | Path) -> list[Tensor]:
    """What a Darknet network puts out for `IMAGES`."""
    model = Darknet.from_cfg(cfg)
    load_weights(model, weights)
    with torch.no_grad():
        return list(model.eval()(IMAGES))


def history(folder: Path) -> dict[str, float]:
    """The last line of a training's history."""
    with (folder / "history.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in last.items() if value and not name.endswith("per_second")}


def main() -> None:
    """Write all of it again."""
    os.chdir(HERE)
    shutil.rmtree("shapes", ignore_errors=True)
    _write_images()
    train.main(
        [*("--cfg", "tiny.cfg", "--data", "shapes.data", "--output", "run", "--batch-size", "2"),
         *("--epochs", "2", "--precision", "fp32", "-sr", "--s", "0.01", *MACHINE)]
    )  # fmt: skip
    shutil.copy("run/previous.pt", "last.pt")
    slim_prune.main([*FILES, *SHARE, "--no-report", "--output", ".", *MACHINE])
    ladder.main([*FILES, *RUNGS, "--output", "ladder", *MACHINE])
    shutil.copy("ladder/last_ladder.csv", ".")
    _write_latencies()
    train.main([*DISTILLATION, "--output", "taught", *MACHINE])
    result = slim(network(), IMAGES[:1], ratio=0.5, score="gamma", scheme="global", align=1)
    torch.save({"plan": result.plan.to_json(), "state": result.model.state_dict()}, "slim.pt")
    with torch.no_grad():
        outputs = {
            "slim": result.model(IMAGES),
            "last": heads("tiny.cfg", "last.pt"),
            "pruned": heads(*PRUNED),
            "resumed": heads("tiny.cfg", "run/last.pt"),
            "resumed_history": history(Path("run")),
            "taught": heads(PRUNED[0], "taught/last.pt"),
            "taught_history": history(Path("taught")),
        }
    torch.save(outputs, "outputs.pt")
    for folder in ("run", "ladder", "taught"):
        shutil.rmtree(folder)


def _write_images() -> None:
    """Three lists of two images; each shows one object."""
    numbers = np.random.default_rng(3)
    for folder in ("images", "labels"):
        Path("shapes", folder).mkdir(parents=True)
    for split in ("train", "valid"):
        names = []
        for number in range(4 if split == "train" else 2):
            kind, side = number % 2, int(numbers.integers(20, 36))
            x, y = (int(value) for value in numbers.integers(0, 64 - side, 2))
            image = np.full((64, 64, 3), numbers.integers(0, 90, 3), np.uint8)
            color = [int(value) for value in numbers.integers(150, 255, 3)]
            if kind:
                cv2.circle(image, (x + side // 2, y + side // 2), side // 2, color, -1)
            else:
                cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), color, -1)
            names.append(f"{split}_{number}.png")
            cv2.imwrite(f"shapes/images/{names[-1]}", image)
            box = (x + side / 2) / 64, (y + side / 2) / 64, side / 64, side / 64
            line = " ".join(f"{value:.6f}" for value in box)
            Path(f"shapes/labels/{split}_{number}.txt").write_text(f"{kind} {line}\n", encoding="utf-8")
        text = "".join(f"images/{name}\n" for name in names)
        Path(f"shapes/{split}.txt").write_text(text, encoding="utf-8")
    Path("shapes.names").write_text("square\ncircle\n", encoding="utf-8")
    lists = "train = shapes/train.txt\nvalid = shapes/valid.txt\n"
    Path("shapes.data").write_text(f"classes = 2\n{lists}names = shapes.names\n", encoding="utf-8")


def _write_latencies() -> None:
    latency.main(["--cfg", "tiny.cfg", "--widths", "2", "--output", "latency.json", *MACHINE])
    table = json.loads(Path("latency.json").read_text(encoding="utf-8"))
    table["fingerprint"]["cpu"] = "a processor of no machine"
    Path("latency.json").write_text(json.dumps(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
