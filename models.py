"""Darknet detectors as PyTorch modules: build, load, save, convert.

    from models import *
    model = Darknet.from_cfg("cfg/yolov3.cfg")
    load_weights(model, "weights/yolov3.weights")
    heads = model(images)                              # images (B, 3, H, W), RGB in 0..1
    convert("cfg/yolov3.cfg", "weights/yolov3.weights")   # writes and prints weights/yolov3.pt

A backbone file (the first N sections, such as darknet53.conv.74) is loaded with `cutoff=N` or
`cutoff="auto"`.
"""

from pathlib import Path

from utils.darknet import checkpoint
from utils.darknet.checkpoint import load_weights, save_weights
from utils.darknet.model import Darknet

__all__ = ["Darknet", "convert", "load_weights", "save_weights"]


def convert(cfg: str | Path, weights: str | Path, output: str | Path | None = None) -> Path:
    """Convert .pt to .weights or back; print and return the path, see `utils.darknet.checkpoint.convert`."""
    path = checkpoint.convert(cfg, weights, output)
    print(path)
    return path
