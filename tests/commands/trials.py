"""A small network and data set for ladder.py and sensitivity.py, and a stand-in for mAP."""

from pathlib import Path
from types import SimpleNamespace

import torch

from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.data.shapes import make_shapes

CONVOLUTION = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\nactivation=leaky\n"
CFG = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n"
    + CONVOLUTION.format(8, 3, 2)  # 0
    + CONVOLUTION.format(16, 3, 2)  # 1, tied to 3 by the shortcut
    + CONVOLUTION.format(12, 1, 1)  # 2
    + CONVOLUTION.format(16, 3, 1)  # 3
    + "[shortcut]\nfrom=-3\nactivation=linear\n"  # 4
    + CONVOLUTION.format(24, 3, 2)  # 5
    + "[convolutional]\nfilters=18\nsize=1\nstride=1\npad=1\nactivation=linear\n"  # 6
    + "[yolo]\nmask=0,1\nanchors=10,10, 20,20\nclasses=4\nnum=2\n"  # 7
)
WORDS = (
    "--cfg", "small.cfg", "--weights", "small.weights", "--data", "data/shapes.data", "--workers", "0",
    "--recalibrate", "4", "--threads", "1",
)  # fmt: skip


def make_project(folder: Path) -> None:
    """small.cfg, small.weights with gammas and betas of all sizes, four images a split."""
    (folder / "small.cfg").write_text(CFG)
    torch.manual_seed(0)
    model = Darknet.from_cfg(folder / "small.cfg")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.0, 1.5)
                module.bias.normal_(0, 0.3)
    save_weights(model, folder / "small.weights")
    make_shapes(folder / "data", sizes={"train": 4, "valid": 4, "test": 4})


class Evaluations:
    """Stands in for `evaluate_network`: a number between 0 and 1 that every weight and statistic changes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, model, loader, names, *, label="", track=None) -> SimpleNamespace:
        self.count += 1
        image = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
        with torch.no_grad():
            total = sum(head.double().square().mean() for head in model.eval()(image))
        return SimpleNamespace(map50=float(torch.sigmoid(total - 1.0)), per_class={})
