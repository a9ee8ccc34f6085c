"""Run ONNX files with onnxruntime, to verify and to measure them."""

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
        file: is read now and not needed afterwards.
        outputs: names of the outputs, in this order; None for all.

    Raises:
        ExportError: onnxruntime cannot load the file.
        MissingPackageError: onnxruntime is missing.
    """
    onnxruntime = package("ONNX export", "onnxruntime")
    try:
        session = inference_session(onnxruntime, file)
    except Exception as error:  # its own types have no other public base
        fact = f"onnxruntime cannot load the graph ({error})"
        raise ExportError("ONNX export", fact, "nothing was written") from error

    def infer(images: Images) -> Outputs:
        return list(session.run(outputs, {"images": images}))

    return infer


def proto_infer(proto: "ModelProto", outputs: Sequence[str] | None = None) -> Infer:
    """A callable that runs a graph in memory; arguments and errors as for `onnx_infer`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(proto.SerializeToString())
        return onnx_infer(path, outputs)
