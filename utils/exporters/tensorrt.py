"""Export to a TensorRT engine, built from the ONNX file.

The network is strongly typed: the ONNX file of the precision decides what is computed in float32, float16 or
int8, so there are no flags for that. TensorRT-RTX builds without a GPU, for the given GPUs or for all of
compute capability 8.0 and newer (Turing, SM75, has to be named). Classic TensorRT builds for the GPU of this
machine, and is used where it is installed and no GPU is named. Each reads only its own engines; the JSON
beside an engine names the package.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import ExportError, MissingPackageError
from ..extras import package
from ..files import atomic_paths
from ..runtimes.metadata import metadata_path
from ..runtimes.tensorrt import TensorRt
from .job import Exported, Exporting, verify
from .parity import Shape
from .tracing import Wrapper

PLACE = "TensorRT export"
LARGEST_BATCH = 8
NOT_RUN = "built, but not run: that needs an NVIDIA GPU with a driver, and torch with CUDA"


@dataclass(frozen=True)
class Profile:
    """Shapes (B, C, H, W) that an engine accepts: `least` to `most`; it is tuned for `best`."""

    least: Shape
    best: Shape
    most: Shape


def profile(job: Exporting) -> Profile:
    """The shapes of a job: where dynamic, batch 1 .. 8 and sizes of half to one and a half of the job's.

    >>> from utils.exporters.tracing import RawHeads
    >>> wrapper = RawHeads(torch.nn.Identity(), 1)
    >>> shapes = profile(Exporting(wrapper, (), (416, 320), dynamic_batch=True, dynamic_size=True))
    >>> shapes.least, shapes.most
    ((1, 3, 192, 160), (8, 3, 640, 480))
    """
    step, sizes = job.size_step, (job.image_size, job.image_size)
    if job.dynamic_size:
        height, width = job.image_size
        sizes = (
            (max(step, height // (2 * step) * step), max(step, width // (2 * step) * step)),
            (-(-3 * height // (2 * step)) * step, -(-3 * width // (2 * step)) * step),
        )
    most = LARGEST_BATCH if job.dynamic_batch else 1
    channels = job.channels
    return Profile((1, channels, *sizes[0]), (1, channels, *job.image_size), (most, channels, *sizes[1]))


def export_tensorrt(job: Exporting, path: Path) -> Exported:
    """Build an engine, and write the metadata and what it was built for as JSON beside it.

    The ONNX file is compared with torch; the engine only where there is a driver.

    Args:
        job: its `targets` are compute capabilities of TensorRT-RTX, such as SM86.
        path: of the engine.

    Raises:
        ExportError: a target is unknown, or TensorRT cannot build the network.
        MissingPackageError: TensorRT or a package of the ONNX export is missing.
    """
    trt = library(job.targets)
    log = _log(trt)
    shapes = profile(job)
    paths = (path, metadata_path(path))
    with atomic_paths(*paths) as (engine, metadata):
        engine.write_bytes(_built(trt, log, job, shapes))
        facts = {
            "package": trt.__name__,
            "version": trt.__version__,
            "precision": job.precision,
            "targets": job.targets,
            "shapes": dataclasses.asdict(shapes),
        }
        metadata.write_text(json.dumps({**job.metadata, "tensorrt": facts}, indent=1), encoding="utf-8")
        infer = TensorRt().load(engine).infer if torch.cuda.is_available() and not job.targets else None
        parities = verify(job, infer, "TensorRT") if infer else ()
    return Exported(paths, "tensorrt", job.precision, parities, infer, note="" if infer else NOT_RUN)


def library(targets: Collection[str] = ()) -> ModuleType:
    """TensorRT or TensorRT-RTX, which have the same interface.

    Raises:
        MissingPackageError: neither is installed.
    """
    if torch.cuda.is_available() and not targets:
        with suppress(MissingPackageError):
            return package(PLACE, "tensorrt")
    return package(PLACE, "tensorrt_rtx")


def _built(trt: Any, log: Any, job: Exporting, shapes: Profile) -> bytes:
    log.lines.clear()
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa would not be float32
    _set_targets(trt, config, job.targets)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(job.onnx(job.precision))):
        faults = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        fact = f"cannot read the ONNX file ({_log_text(faults or log.lines)})"
        raise ExportError(PLACE, fact, "nothing was written; try another --opset or format")
    require_contract(trt, network, job.module)
    if job.dynamic_batch or job.dynamic_size:
        ranges = builder.create_optimization_profile()
        ranges.set_shape("images", shapes.least, shapes.best, shapes.most)
        config.add_optimization_profile(ranges)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(PLACE, f"cannot build the network: {_log_text(log.lines)}", "nothing was written")
    return bytes(plan)


def require_contract(trt: Any, network: Any, wrapper: Wrapper) -> None:
    """float32 images in, float32 outputs out: only the inside has the precision of the file."""
    tensors = [
        *(network.get_input(number) for number in range(network.num_inputs)),
        *(network.get_output(number) for number in range(network.num_outputs)),
    ]
    found = [(tensor.name, tensor.dtype) for tensor in tensors]
    wanted = [(name, trt.float32) for name in ("images", *wrapper.outputs)]
    if found != wanted:
        raise ExportError(PLACE, f"the ONNX file has {found}, not {wanted}", "nothing was written")


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    """Compute capabilities of the GPUs to build for; without them, the engine is portable."""
    if not targets:
        return
    require_targets(trt, targets)
    config.num_compute_capabilities = len(targets)
    for number, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), number)


def require_targets(trt: Any, targets: Sequence[str]) -> None:
    """Refuse GPUs that TensorRT-RTX does not support.

    Args:
        trt: the package from `library`.
        targets: compute capabilities, such as SM86.

    Raises:
        ExportError: names the supported ones.
    """
    if not targets:
        return
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise ExportError(f"--target {','.join(unknown)}", "unsupported", f"use some of {','.join(known)}")


@cache
def _log(trt: Any) -> Any:
    """Keeps errors; one for the process, since TensorRT keeps the first logger that it is given."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.lines.append(text)

    return Log()


def _log_text(lines: Sequence[str]) -> str:
    """The log in one line, without places in TensorRT's sources."""
    texts = [" ".join(re.sub(r" In \w+ at /_src\S+", "", line).split()) for line in lines]
    return " | ".join(dict.fromkeys(texts)) or "its log is empty"
