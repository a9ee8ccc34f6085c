"""torch's exporter to ONNX: the older one, which takes fractions of a second instead of seconds."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from .packages import package


def trace_onnx(module: nn.Module, example: Tensor, file: Path, opset: int, **names: Any) -> None:
    """Write `module`, as it runs on `example`, to an ONNX file; its input is called "images".

    Args:
        module: in evaluation mode.
        example: (B, C, H, W); sizes become constants unless they are named as dynamic.
        file: of the graph.
        opset: of the ONNX operators.
        names: `output_names` and `dynamic_axes` of torch.onnx.export.

    Raises:
        ExportError: an operator has no ONNX form, or the package onnx is missing.
    """
    package("ONNX export", "onnx")
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of sizes that may become constants, and torch of its newer exporter.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # is left to the runtime then
        # an instance norm without statistics of its own takes those of the image at any time
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
