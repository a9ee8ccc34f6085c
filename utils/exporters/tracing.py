"""Trace modules to ONNX files, and run modules on any runtime via such a file.

torch's older exporter is used: it takes fractions of a second where the newer one takes seconds.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..extras import package
from ..runtimes.runtime import Runtime, Session
from ..runtimes.torch import Torch


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
