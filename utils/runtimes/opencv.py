"""OpenCV's Darknet importer: the one program besides Darknet that reads a cfg and its weights as they are."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor

from utils.darknet.compatibility import opencv_findings
from utils.darknet.model import Darknet
from utils.darknet.modules import BATCH_NORM_EPS, ConvBlock
from utils.darknet.network import Network
from utils.darknet.weights import write_weights
from utils.files import write_text

# Inside the root, where Darknet has `BATCH_NORM_EPS`: the variances are shifted by the difference.
OPENCV_EPS = 1e-6


def opencv_objection(network: Network) -> str | None:
    """Why OpenCV cannot be compared with: it refuses the cfg or is known to read it wrongly; else None."""
    findings = [f for f in opencv_findings(network) if f.effect in ("refuses", "reads wrongly")]
    if not findings:
        return None
    section = findings[0].place.rpartition(": ")[2]  # the file may be a temporary one
    return f"OpenCV {findings[0].effect} {section}: {findings[0].fact}"


def opencv_maps(model: Darknet, images: Tensor) -> list[Tensor]:
    """The maps that enter the heads, as OpenCV computes them from the model written to files.

    Args:
        model: the network, on the CPU; one that OpenCV has no objection to.
        images: (B, channels, H, W) in 0..1, float32; H and W need not be the cfg's.

    Returns:
        For each head (B, filters, h, w).
    """
    with tempfile.TemporaryDirectory() as name:
        cfg, weights = Path(name) / "net.cfg", Path(name) / "net.weights"
        _write(model, cfg, weights, (images.shape[2], images.shape[3]))
        net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.enableWinograd(False)  # it alone is off by 1e-3
    net.setInput(images.numpy())
    # Its own layer in front of every head, whatever that reads; channels last.
    maps = net.forward([f"permute_{head}" for head in model.network.heads])
    return [torch.from_numpy(values).permute(0, 3, 1, 2) for values in maps]


def raw_maps(heads: Sequence[Tensor]) -> list[Tensor]:
    """The heads of `Darknet`, (B, A, h, w, width) each, as the maps (B, A * width, h, w) that enter them."""
    return [head.permute(0, 1, 4, 2, 3).flatten(1, 2) for head in heads]


def _write(model: Darknet, cfg: Path, weights: Path, size: tuple[int, int]) -> None:
    write_text(cfg, model.network.resized(*size).to_cfg())
    shift = BATCH_NORM_EPS - OPENCV_EPS
    norms = [layer.norm for layer in model.layers if isinstance(layer, ConvBlock) and layer.norm is not None]
    norms = list(dict.fromkeys(norms))  # sections may share one
    before = [norm.running_var for norm in norms]
    try:
        for norm in norms:
            assert norm.running_var is not None
            norm.running_var = norm.running_var + shift
        write_weights(weights, model, model.header)
    finally:
        for norm, variance in zip(norms, before, strict=True):
            norm.running_var = variance
