"""OpenCV's Darknet importer: the one program besides Darknet that reads a cfg and its weights as they are."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..darknet.compatibility import opencv_findings
from ..darknet.model import Darknet
from ..darknet.modules import BATCH_NORM_EPS, ConvBlock
from ..darknet.network import Network
from ..darknet.weights import write_weights
from ..detection.boxes import xywh_to_xyxy
from ..detection.decode import decode_heads
from ..errors import Finding, ToolkitError
from ..extras import OPENCV_REMEDY
from ..files import write_text
from .runtime import OPEN, Images, Outputs, Session, Sizes

# OpenCV 5 dropped it; other projects bring that, beside or in place of the one of this project.
HAS_IMPORTER = hasattr(cv2.dnn, "readNetFromDarknet")
NO_IMPORTER = f"OpenCV {cv2.__version__} has no Darknet importer"
# Inside the root, where Darknet has `BATCH_NORM_EPS`: the variances are shifted by the difference.
OPENCV_EPS = 1e-6


@dataclass(frozen=True)
class OpenCv:
    """Runs Darknet networks, not exported files: use `wrap` instead of `load`.

    Attributes:
        winograd: use Winograd convolutions for 3x3 kernels, OpenCV's default: faster, with errors of 1e-3
            where everything else has 1e-6.
    """

    winograd: bool = True
    name: str = "opencv"
    precision: str = "f32"
    device: None = None

    @property
    def version(self) -> str:
        """Version of OpenCV."""
        return str(cv2.__version__)

    def load(self, path: Path) -> Session:
        """Always refuse: OpenCV is given a cfg and its weights here."""
        raise ToolkitError(path, "the opencv runtime needs a cfg and its .weights", "give these")

    def wrap(self, model: Darknet, image_size: tuple[int, int]) -> Session:
        """A network with its batch norms, on the CPU, for images of one size (height, width).

        Its outputs are boxes (B, N, 4) xyxy in pixels and scores (B, N, classes); decoding is included in
        timings.

        Raises:
            ToolkitError: OpenCV refuses the cfg or reads it wrongly.
        """
        if not HAS_IMPORTER:
            raise ToolkitError("opencv", NO_IMPORTER, OPENCV_REMEDY)
        if objection := opencv_objection(model.network):
            raise ToolkitError(model.network.source, objection, "use another runtime")
        cv2.setNumThreads(torch.get_num_threads())
        try:
            net = _read(model, image_size, self.winograd)
        except cv2.error as error:
            fact = f"OpenCV cannot read it: {' '.join(str(error).split())}"
            raise ToolkitError(model.network.source, fact, "use another runtime") from error
        return _Session(net, model, (None, model.network.channels(-1), *image_size))


@dataclass(frozen=True)
class _Session:
    net: Any
    model: Darknet
    sizes: Sizes = OPEN
    metadata: Mapping[str, str] = field(default_factory=dict)

    def infer(self, images: Images) -> Outputs:
        network, specs = self.model.network, self.model.head_specs
        maps = _maps(self.net, network, images)
        heads = [
            one.unflatten(1, (len(spec.anchors), -1)).permute(0, 1, 3, 4, 2)
            for one, spec in zip(maps, specs, strict=True)
        ]
        decoded = decode_heads(heads, specs)
        return [xywh_to_xyxy(decoded[..., :4]).numpy(), (decoded[..., 4:5] * decoded[..., 5:]).numpy()]

    def bound(self, images: Images) -> Callable[[], object]:
        names = self.net.getUnconnectedOutLayersNames()

        def run() -> object:
            self.net.setInput(images)
            return self.net.forward(names)

        return run


def opencv_finding() -> tuple[Finding, ...]:
    """A warning where the installed OpenCV cannot read Darknet networks; else nothing."""
    return () if HAS_IMPORTER else (Finding("warning", "cv2", NO_IMPORTER, OPENCV_REMEDY),)


def opencv_objection(network: Network) -> str | None:
    """Why no comparison with OpenCV is possible: it refuses the cfg or reads it wrongly; otherwise None."""
    if not HAS_IMPORTER:
        return f"{NO_IMPORTER}; OpenCV 4 has one"
    findings = [f for f in opencv_findings(network) if f.effect in ("refuses", "reads wrongly")]
    if not findings:
        return None
    section = findings[0].place.rpartition(": ")[2]  # the file may be a temporary one
    return f"OpenCV {findings[0].effect} {section}: {findings[0].fact}"


def opencv_maps(model: Darknet, images: Tensor) -> list[Tensor]:
    """Input maps of the heads, as OpenCV computes them from the model written to files.

    Args:
        model: the network, on the CPU; `opencv_objection` is None for it.
        images: (B, channels, H, W) in 0..1, float32; H and W need not be the cfg's.

    Returns:
        For each head (B, filters, h, w).
    """
    net = _read(model, (images.shape[2], images.shape[3]), winograd=False)
    return _maps(net, model.network, images.numpy())


def raw_maps(heads: Sequence[Tensor]) -> list[Tensor]:
    """The heads of `Darknet`, (B, A, h, w, width) each, as their input maps (B, A * width, h, w)."""
    return [head.permute(0, 1, 4, 2, 3).flatten(1, 2) for head in heads]


def _read(model: Darknet, size: tuple[int, int], winograd: bool) -> Any:
    with tempfile.TemporaryDirectory() as name:
        cfg, weights = Path(name) / "net.cfg", Path(name) / "net.weights"
        _write(model, cfg, weights, size)
        net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.enableWinograd(winograd)
    return net


def _maps(net: Any, network: Network, images: Images) -> list[Tensor]:
    """For each head (B, filters, h, w)."""
    net.setInput(images)
    # OpenCV inserts a layer of this name before every head; channels last.
    maps = net.forward([f"permute_{head}" for head in network.heads])
    return [torch.from_numpy(np.array(values)).permute(0, 3, 1, 2) for values in maps]


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
