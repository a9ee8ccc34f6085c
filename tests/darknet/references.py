"""Independent ways to compute what a Darknet network computes: OpenCV, and plain loops."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.darknet.model import Darknet
from utils.darknet.modules import ConvBlock
from utils.darknet.weights import write_weights
from utils.files import write_text

# OpenCV has 1e-6 under the root where Darknet has 1e-5.
OPENCV_VARIANCE_SHIFT = 9e-6


def randomised(model: Darknet, seed: int = 0) -> Darknet:
    """Random weights and batch-norm statistics that keep activations near 1; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.layers:
        if isinstance(layer, ConvBlock):
            layer.conv.weight.data.normal_(0, 1, generator=generator)
            layer.conv.weight.data *= (1.5 / layer.conv.weight[0].numel()) ** 0.5
            if layer.norm is None:
                layer.conv.bias.data.normal_(0, 0.1, generator=generator)
            else:
                layer.norm.weight.data.uniform_(0.5, 1.5, generator=generator)
                layer.norm.bias.data.normal_(0, 0.2, generator=generator)
                layer.norm.running_mean.normal_(0, 0.2, generator=generator)
                layer.norm.running_var.uniform_(0.5, 1.5, generator=generator)
        elif getattr(layer, "weights", None) is not None:
            layer.weights.data.normal_(0.5, 0.5, generator=generator)
    return model.eval()


def old_names(model: Darknet, conv: str, norm: str) -> dict[str, torch.Tensor]:
    """Its state as the published programs name it."""
    names = {}
    for name, tensor in model.state_dict().items():
        _, index, part, field = name.split(".")
        part = (conv if part == "conv" else norm).format(index)
        names[f"module_list.{index}.{part}.{field}"] = tensor
    return names


def random_images(model: Darknet, size: tuple[int, int] | None = None, batch: int = 1) -> torch.Tensor:
    """(batch, channels, H, W) in 0..1; by default of the network's own size."""
    height, width = size or (model.network.height, model.network.width)
    shape = (batch, model.network.channels(-1), height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def as_map(head: torch.Tensor) -> np.ndarray:
    """A raw head (B, A, h, w, width) as the map (B, A * width, h, w) that enters the yolo section."""
    return head.detach().permute(0, 1, 4, 2, 3).flatten(1, 2).numpy()


def opencv_heads(model: Darknet, images: torch.Tensor, folder: Path) -> list[np.ndarray]:
    """The maps entering each yolo section, computed by OpenCV from the written cfg and weights."""
    shifted = Darknet(model.network)
    shifted.load_state_dict(model.state_dict())
    for layer in shifted.layers:
        if isinstance(layer, ConvBlock) and layer.norm is not None:
            layer.norm.running_var += OPENCV_VARIANCE_SHIFT
    write_text(folder / "net.cfg", model.network.to_cfg())
    write_weights(folder / "net.weights", shifted, model.header)
    net = cv2.dnn.readNetFromDarknet(str(folder / "net.cfg"), str(folder / "net.weights"))
    net.enableWinograd(False)
    net.setInput(images.numpy())
    names = net.getLayerNames()
    before = [model.network.sources(head)[0] for head in model.network.heads]
    # An activation becomes a layer of its own, numbered one higher than its convolution.
    last = [next((n for n in names if n == f"logistic_{i + 1}"), f"conv_{i}") for i in before]
    return list(net.forward(last))


def pool_by_loops(x: np.ndarray, size: int, stride: tuple[int, int], padding: int) -> np.ndarray:
    """forward_maxpool_layer: windows from -(padding / 2), cells outside the map left out; x is (C, h, w)."""
    channels, height, width = x.shape
    rows, columns = ((n + padding - size) // s + 1 for n, s in zip((height, width), stride, strict=True))
    out = np.empty((channels, rows, columns), x.dtype)
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride[0] - padding // 2, j * stride[1] - padding // 2
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
            out[:, i, j] = window.max((1, 2))
    return out


def convolve_by_loops(
    x: np.ndarray, weight: np.ndarray, stride: tuple[int, int], padding: int, dilation: int, groups: int
) -> np.ndarray:
    """im2col and gemm: the map padded by padding * dilation, output size without dilation; x is (C, h, w)."""
    filters, _, size, _ = weight.shape
    channels, height, width = x.shape
    rows, columns = ((n + 2 * padding - size) // s + 1 for n, s in zip((height, width), stride, strict=True))
    margin = padding * dilation
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    out = np.zeros((filters, rows, columns), x.dtype)
    for group in range(groups):
        ours = slice(group * filters // groups, (group + 1) * filters // groups)
        theirs = slice(group * channels // groups, (group + 1) * channels // groups)
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride[0], j * stride[1]
                reach = (size - 1) * dilation + 1
                window = padded[theirs, top : top + reach : dilation, left : left + reach : dilation]
                out[ours, i, j] = np.tensordot(weight[ours], window, 3)
    return out


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # activations.h
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu": lambda x: x * (x > 0),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "elu": lambda x: np.where(x >= 0, x, np.exp(x) - 1),
    "selu": lambda x: np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * (np.exp(x) - 1)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_mish": lambda x: np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
}
