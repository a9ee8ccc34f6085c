"""Export to ONNX: images in, boxes and scores out; the file is compared with torch.

Invariant: a file exists under the given name only if onnx.checker accepts it and onnxruntime's outputs agree
with torch's within the tolerance of the precision.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from ..errors import ExportError
from ..extras import package
from ..files import atomic_path
from .job import BOUNDS, Exported, Exporting, Precision, verify
from .parity import Parity, onnx_infer
from .tracing import trace_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

    from .onnx_int8_sections import Quantised

TOLERANCE = BOUNDS["fp32"].tolerance
_LEAST_OPSET = 11  # the first with torch's Resize
_INT8_OPSET = 13  # the first with scales by channel
_NMS_OPSET = 13  # the first whose Unsqueeze takes its axes as the suppression gives them
_MOST_OPSET = 20  # of torch's older exporter
_PLACE = "ONNX export"


def export_onnx(job: Exporting, path: Path) -> Exported:
    """Write a network to an ONNX file, with batch norms folded into their convolutions.

    Raises:
        ExportError: the options contradict each other, or the outputs differ from torch's.
        MissingPackageError: onnx, onnxslim or onnxruntime is missing.
    """
    onnx = package(_PLACE, "onnx")
    _require_possible(job)
    with atomic_path(path) as temporary:
        graph = _graph(onnx, job, temporary)
        _save(onnx, graph.proto, job.metadata, temporary)
        _check(onnx, temporary, path)
        parities = verify(job, onnx_infer(temporary), "onnxruntime")
        if job.suppress:
            return _with_suppression(onnx, job, graph, temporary, path, parities)
    return Exported((path,), "onnx", job.precision, parities, onnx_infer(path), graph.accuracy, graph.note)


def _require_possible(job: Exporting) -> None:
    if job.suppress and tuple(job.module.outputs) != ("boxes", "scores"):
        raise ExportError("--nms", "raw heads contain no boxes to suppress", "leave --raw-heads out")
    require_opset(job.opset, job.precision, job.suppress)


def require_opset(opset: int, precision: Precision, suppress: bool) -> None:
    """Refuse an unsupported opset.

    Args:
        opset: of the ONNX operators.
        precision: of the ONNX file.
        suppress: whether it includes the NMS.

    Raises:
        ExportError: names the supported ones.
    """
    if suppress and opset < _NMS_OPSET:
        fact = f"--nms needs operators of opset {_NMS_OPSET}"
        raise ExportError(f"--opset {opset}", fact, f"use {Exporting.opset}, or leave --nms out")
    least, most = (_INT8_OPSET if precision == "int8" else _LEAST_OPSET), _MOST_OPSET
    if not least <= opset <= most:
        fact = f"unsupported for {precision}, which needs opset {least} to {most}"
        raise ExportError(f"--opset {opset}", fact, f"use {Exporting.opset}")


def _graph(onnx: ModuleType, job: Exporting, scratch: Path) -> "Quantised":
    """The graph in the job's precision; `scratch` is a temporary file."""
    # imported here, since they import onnx, which may be missing
    from .onnx_half import to_half
    from .onnx_int8_sections import Quantised, quantise

    trace(job, scratch)
    proto = onnx.load(scratch)
    if job.precision == "fp16":
        to_half(proto)
    proto = _slim(proto)
    return quantise(proto, job) if job.precision == "int8" else Quantised(proto)


def _slim(proto: "ModelProto") -> "ModelProto":
    """Simplify a graph: fold constants, remove operators without effect."""
    onnxslim = package(_PLACE, "onnxslim")
    try:
        return onnxslim.slim(proto)
    except Exception as error:  # its rewriting rules raise anything
        raise ExportError(
            _PLACE, f"onnxslim cannot simplify the graph ({error})", "nothing was written"
        ) from error


def _with_suppression(
    onnx: ModuleType,
    job: Exporting,
    graph: "Quantised",
    temporary: Path,
    path: Path,
    parities: tuple[Parity, ...],
) -> Exported:
    """Add the NMS to the verified graph in `temporary`."""
    from .onnx_suppression import suppressed, verify_suppression

    accuracy = graph.accuracy
    if accuracy is None and job.accuracy is not None:
        accuracy = job.accuracy.measure(onnx_infer(temporary))
    proto = onnx.load(temporary)
    verify_suppression(proto, job)
    _save(onnx, suppressed(proto, job.confidence, job.overlap), job.metadata, temporary)
    _check(onnx, temporary, path)
    kind = job.specs[-1].nms_kind
    other = "" if kind == "default" else f"NMS by plain IoU, not the cfg's nms_kind={kind}"
    return Exported(
        (path,), "onnx", job.precision, parities, None, accuracy, "; ".join(filter(None, (graph.note, other)))
    )


class OnnxFiles:
    """Verified ONNX files of one network, made when first asked for: what `Exporting.onnx` gives.

    Args:
        job: what to export; its precision does not matter.
        folder: for files that are not kept.
    """

    def __init__(self, job: Exporting, folder: Path) -> None:
        self._job = job
        self._folder = folder
        self._made: dict[Precision, Exported] = {}

    def __call__(self, precision: Precision) -> Path:
        """The file in that precision.

        Raises:
            ExportError: see `export_onnx`.
        """
        return self.export(precision, self._folder / f"{precision}.onnx").paths[0]

    def export(self, precision: Precision, path: Path) -> Exported:
        """The file in that precision, written to `path` unless it was made before."""
        if precision not in self._made:
            self._made[precision] = export_onnx(replace(self._job, precision=precision), path)
        return self._made[precision]


def trace(job: Exporting, file: Path) -> None:
    """Trace a network to an ONNX file in float32, neither simplified nor verified.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    example = torch.zeros(job.shapes[0])
    with torch.no_grad():
        job.module(example)  # an invalid size raises the model's own error; traced, models do not check
    # A size that became a constant is found by the comparison at a second size.
    axes = _dynamic_axes(job) or None
    trace_onnx(job.module, example, file, job.opset, output_names=list(job.module.outputs), dynamic_axes=axes)


def _dynamic_axes(job: Exporting) -> dict[str, dict[int, str]]:
    def kept(axes: Mapping[int, str]) -> dict[int, str]:
        return {
            axis: name
            for axis, name in axes.items()
            if (job.dynamic_batch if axis == 0 else job.dynamic_size)
        }

    named = {"images": {0: "batch", 2: "height", 3: "width"}} | job.module.outputs
    return {name: kept(axes) for name, axes in named.items() if kept(axes)}


def _save(onnx: ModuleType, proto: "ModelProto", metadata: Mapping[str, str], file: Path) -> None:
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, file)


def _check(onnx: ModuleType, file: Path, path: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(path, f"onnx.checker refuses the graph ({error})", "nothing was written") from error
