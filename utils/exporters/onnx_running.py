"""ONNX files run by onnxruntime, to verify and to measure them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError
from ..extras import package
from ..runtimes.onnxruntime import inference_session
from ..runtimes.runtime import Images, Outputs
from .parity import Infer

if TYPE_CHECKING:
    from onnx import ModelProto


def onnx_infer(file: Path, outputs: Sequence[str] | None = None) -> Infer:
    """A callable that runs an ONNX file under onnxruntime.

    Args:
        file: is read now and not needed any more afterwards.
        outputs: which ones, in this order; None for all.

    Raises:
        ExportError: the package is missing, or it cannot load the file.
    """
    onnxruntime = package("ONNX export", "onnxruntime")
    try:
        session = inference_session(onnxruntime, file)
    except Exception as error:  # its own types have no other public base
        raise ExportError("", "onnxruntime cannot load the graph", f"nothing was written: {error}") from error

    def infer(images: Images) -> Outputs:
        return list(session.run(outputs, {"images": images}))

    return infer


def proto_infer(proto: "ModelProto", outputs: Sequence[str] | None = None) -> Infer:
    """A callable that runs a graph that is in no file; arguments and errors as for `onnx_infer`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(proto.SerializeToString())
        return onnx_infer(path, outputs)
