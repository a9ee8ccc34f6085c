"""Trace modules to ONNX files, and run modules on any runtime via such a file.

torch's older exporter is used: it takes fractions of a second where the newer one takes seconds.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..detection.boxes import xywh_to_xyxy
from ..detection.decode import HeadSpec, decode_heads
from ..errors import ExportError
from ..extras import package
from ..runtimes.runtime import Runtime, Session
from ..runtimes.torch import Torch

Axes = dict[int, str]


class BoxesAndScores(nn.Module):
    """A detector with its decoding, as two plain outputs.

    Args:
        model: images (B, C, H, W) in 0..1 -> raw heads (B, A, h, w, width).
        specs: one for each head.
    """

    def __init__(self, model: nn.Module, specs: Sequence[HeadSpec]) -> None:
        super().__init__()
        self.model = model
        self.specs = tuple(specs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) as xyxy in pixels of `images`; scores (B, N, classes), objectness times class."""
        decoded = decode_heads(self.model(images), self.specs)
        return xywh_to_xyxy(decoded[..., :4]), decoded[..., 4:5] * decoded[..., 5:]

    @property
    def outputs(self) -> dict[str, Axes]:
        """Names of the outputs, in order, and those of their axes that depend on batch and size."""
        return {name: {0: "batch", 1: "count"} for name in ("boxes", "scores")}


class RawHeads(nn.Module):
    """A detector without decoding: the values of its heads before any sigmoid.

    Args:
        model: as for `BoxesAndScores`.
        heads: how many heads it has.
    """

    def __init__(self, model: nn.Module, heads: int) -> None:
        super().__init__()
        self.model = model
        self.heads = heads

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """For each head (B, A, h, w, width), as `decode_heads` takes them."""
        return tuple(self.model(images))

    @property
    def outputs(self) -> dict[str, Axes]:
        """Names of the outputs, in order, and those of their axes that depend on batch and size."""
        return {f"head_{index}": _head_axes(index) for index in range(self.heads)}


def _head_axes(index: int) -> Axes:
    return {0: "batch", 2: f"rows_{index}", 3: f"columns_{index}"}


Wrapper = BoxesAndScores | RawHeads


def trace_onnx(module: nn.Module, example: Tensor, file: Path, opset: int, **names: Any) -> None:
    """Write `module`, as it runs on `example`, to an ONNX file; its input is called "images".

    Args:
        module: in evaluation mode.
        example: (B, C, H, W); sizes become constants unless they are named as dynamic.
        file: of the graph.
        opset: of the ONNX operators.
        names: `output_names` and `dynamic_axes` of torch.onnx.export.

    Raises:
        ExportError: an operator has no ONNX form.
        MissingPackageError: onnx is missing.
    """
    package("ONNX export", "onnx")
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of sizes that may become constants, and torch of its newer exporter.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # is left to the runtime then
        # an instance norm without running statistics always uses those of the image
        warnings.filterwarnings("ignore", ".*operator 'instance_norm' is set to train", UserWarning)
        try:
            torch.onnx.export(
                module,
                (example,),
                file,
                input_names=["images"],
                opset_version=opset,
                dynamo=False,
                **names,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"torch.onnx, opset {opset}", str(error), "nothing was written") from error


def module_session(module: nn.Module, example: Tensor, runtime: Runtime, opset: int = 17) -> Session:
    """Get a module ready to run on a runtime, via a temporary ONNX file.

    Args:
        module: in evaluation mode, on the CPU, batch norms folded; (B, C, H, W) -> a tensor or several.
        example: (B, C, H, W) of the only size that the session takes.
        runtime: torch takes the module as it is.
        opset: of the ONNX operators.

    Raises:
        ToolkitError: the module cannot be exported, or the runtime cannot load it.
    """
    if isinstance(runtime, Torch):
        return runtime.wrap(module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        trace_onnx(module, example, path, opset)
        return runtime.load(path)
