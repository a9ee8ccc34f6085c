"""The mini detector: one convolution and its head, all that a command needs to have a network."""

from pathlib import Path

import torch
from torch import nn

from utils.darknet.model import Darknet


def mini_cfg(height: int = 64, net: str = "", head: str = "", classes: int = 4) -> str:
    """The cfg: 64 pixels wide, cells of 16, two anchors.

    Args:
        height: of the input.
        net: more lines of [net].
        head: more lines of [yolo].
        classes: number of classes.
    """
    return f"""[net]
width=64
height={height}
channels=3
{net}

[convolutional]
filters={2 * (5 + classes)}
size=5
stride=16
pad=1
activation=linear

[yolo]
mask=0,1
anchors=10,14, 23,27
classes={classes}
num=2
{head}
"""


def mini_detector(folder: Path, height: int = 64, net: str = "", head: str = "") -> Darknet:
    """Random weights that find much; its cfg is `folder`/net.cfg."""
    (folder / "net.cfg").write_text(mini_cfg(height, net, head))
    torch.manual_seed(0)
    model = Darknet.from_cfg(folder / "net.cfg").eval()
    nn.init.normal_(model.layers[0].conv.weight, std=0.3)
    nn.init.zeros_(model.layers[0].conv.bias)
    return model
