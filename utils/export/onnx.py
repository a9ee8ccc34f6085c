"""A network as an ONNX file: images in, boxes and scores out, and proof that it computes the same.

Invariant: a file exists under the given name only if onnx.checker accepts it and onnxruntime's outputs stay
within the tolerance of its precision of torch's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from utils.errors import ExportError
from utils.export.endings import Ending
from utils.export.job import Exported, Exporting, Precision
from utils.export.packages import package
from utils.export.parity import Infer, Parity, Shape, compare
from utils.export.tracing import trace_onnx
from utils.files import atomic_path
from utils.runtimes.onnxruntime import inference_session
from utils.runtimes.runtime import Images, Outputs

TOLERANCE = 1e-4  # largest difference / largest value; float32 rounding stays near 1e-6
_PLACE = "ONNX export"


def export_onnx(job: Exporting, path: Path) -> Exported:
    """Write a network to an ONNX file; batch norms are folded into their convolutions on the way.

    Raises:
        ExportError: a package is missing, or the file would not compute what the network does.
    """
    onnx = package(_PLACE, "onnx")
    with atomic_path(path) as temporary:
        write_graph(job, temporary)
        _check(onnx, temporary, path)
        parities = verify_onnx(job.module, temporary, job.shapes)
    return Exported((path,), "onnx", job.precision, parities, onnx_infer(path))


class OnnxFiles:
    """Verified ONNX files of one network, made when first asked for: what `Exporting.onnx` gives.

    Args:
        job: what to export; its precision does not matter.
        folder: where files go that nobody asked to keep.
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
        """The file in that precision, at `path` if there is none yet."""
        if precision not in self._made:
            self._made[precision] = export_onnx(replace(self._job, precision=precision), path)
        return self._made[precision]


def write_graph(job: Exporting, file: Path) -> None:
    """Trace a network to an ONNX file in float32, unverified, with the job's metadata.

    Raises:
        ExportError: a package is missing, or an operator has no ONNX form.
    """
    onnx = package(_PLACE, "onnx")
    example = torch.zeros(job.shapes[0])
    with torch.no_grad():
        job.module(example)  # a size that does not fit is the model's own error; traced, models do not check
    # Whether a size became a constant, comparing on a second size finds.
    axes = _dynamic_axes(job) or None
    trace_onnx(job.module, example, file, job.opset, output_names=list(job.module.outputs), dynamic_axes=axes)
    _add_metadata(onnx, file, job.metadata)


def _dynamic_axes(job: Exporting) -> dict[str, dict[int, str]]:
    def kept(axes: Mapping[int, str]) -> dict[int, str]:
        return {
            axis: name
            for axis, name in axes.items()
            if (job.dynamic_batch if axis == 0 else job.dynamic_size)
        }

    named = {"images": {0: "batch", 2: "height", 3: "width"}} | job.module.outputs
    return {name: kept(axes) for name, axes in named.items() if kept(axes)}


def _add_metadata(onnx: ModuleType, file: Path, metadata: Mapping[str, str]) -> None:
    proto = onnx.load(file)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, file)


def _check(onnx: ModuleType, file: Path, path: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path}: onnx.checker refuses the graph; nothing was written: {error}") from error


def verify_onnx(
    ending: Ending, file: Path, shapes: Sequence[Shape], tolerance: float = TOLERANCE
) -> tuple[Parity, ...]:
    """Compare an ONNX file under onnxruntime with the module it came from, on random images.

    Raises:
        ExportError: onnxruntime cannot run the file, or a difference is above `tolerance`.
    """
    return compare(ending, onnx_infer(file), shapes, "onnxruntime", tolerance)


def onnx_infer(file: Path) -> Infer:
    """A callable that runs an ONNX file under onnxruntime.

    Raises:
        ExportError: the package is missing, or it cannot load the file.
    """
    onnxruntime = package(_PLACE, "onnxruntime")
    try:
        session = inference_session(onnxruntime, file)
    except Exception as error:  # its own types have no other public base
        raise ExportError(f"onnxruntime cannot load the graph; nothing was written: {error}") from error

    def infer(images: Images) -> Outputs:
        return list(session.run(None, {"images": images}))

    return infer
