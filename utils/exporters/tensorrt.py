"""A network as a TensorRT engine, built from its ONNX file.

The network is strongly typed: the ONNX file of the precision decides what is computed in float32, float16 or
int8, so there are no flags for that. TensorRT-RTX builds without a GPU, for those that are named or for all
of compute capability 8.0 and newer (Turing, SM75, has to be named). Classic TensorRT builds for the GPU of
this machine, and is taken where it is installed and no GPU is named. Either reads only engines of its own;
the JSON beside an engine says whose it is.
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
from ..runtimes.runtime import texts_path
from ..runtimes.tensorrt import TensorRt
from .job import Exported, Exporting
from .parity import Shape
from .verification import verify
from .wrappers import Ending

PLACE = "TensorRT export"
LARGEST_BATCH = 8
NOT_RUN = "built and not run: that needs an NVIDIA GPU with its driver, and torch with CUDA"


@dataclass(frozen=True)
class Profile:
    """Shapes (B, C, H, W) that an engine takes: from `least` to `most`; it is tuned for `best`."""

    least: Shape
    best: Shape
    most: Shape


def profile(job: Exporting) -> Profile:
    """The shapes of a job: where open, batch 1 .. 8 and sizes of half to one and a half of the job's.

    >>> from utils.exporters.wrappers import RawHeads
    >>> ending = RawHeads(torch.nn.Identity(), 1)
    >>> shapes = profile(Exporting(ending, (), (416, 320), dynamic_batch=True, dynamic_size=True))
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
    """Build an engine, and write the texts with what it was built for as JSON beside it.

    The ONNX file was compared with torch; the engine is loaded only where there is a driver.

    Args:
        job: its `targets` are compute capabilities of TensorRT-RTX, such as SM86.
        path: of the engine.

    Raises:
        ExportError: no TensorRT is installed, a target is not known, or TensorRT cannot build the network.
    """
    trt = library(job.targets)
    log = _log(trt)
    shapes = profile(job)
    paths = (path, texts_path(path))
    with atomic_paths(*paths) as (engine, texts):
        engine.write_bytes(_built(trt, log, job, shapes))
        facts = {
            "package": trt.__name__,
            "version": trt.__version__,
            "precision": job.precision,
            "targets": job.targets,
            "shapes": dataclasses.asdict(shapes),
        }
        texts.write_text(json.dumps({**job.metadata, "tensorrt": facts}, indent=1), encoding="utf-8")
        infer = TensorRt().load(engine).infer if torch.cuda.is_available() and not job.targets else None
        parities = verify(job, infer, "TensorRT") if infer else ()
    return Exported(paths, "tensorrt", job.precision, parities, infer, note="" if infer else NOT_RUN)


def library(targets: Collection[str] = ()) -> ModuleType:
    """TensorRT or TensorRT-RTX, whose interface is the same.

    Raises:
        ExportError: neither is installed.
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
        raise ExportError(PLACE, f"cannot read the ONNX file: {_told(faults or log.lines)}")
    require_contract(trt, network, job.module)
    if job.dynamic_batch or job.dynamic_size:
        ranges = builder.create_optimization_profile()
        ranges.set_shape("images", shapes.least, shapes.best, shapes.most)
        config.add_optimization_profile(ranges)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(PLACE, f"cannot build the network: {_told(log.lines)}", "nothing was written")
    return bytes(plan)


def require_contract(trt: Any, network: Any, ending: Ending) -> None:
    """float32 images in, and the float32 outputs of `ending`: the file's precision is inside alone."""
    tensors = [
        *(network.get_input(number) for number in range(network.num_inputs)),
        *(network.get_output(number) for number in range(network.num_outputs)),
    ]
    found = [(tensor.name, tensor.dtype) for tensor in tensors]
    wanted = [(name, trt.float32) for name in ("images", *ending.outputs)]
    if found != wanted:
        raise ExportError(PLACE, f"the ONNX file has {found}, not {wanted}", "nothing was written")


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    """Compute capabilities of the GPUs to build for; without, the engine is portable."""
    if not targets:
        return
    require_targets(trt, targets)
    config.num_compute_capabilities = len(targets)
    for number, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), number)


def require_targets(trt: Any, targets: Sequence[str]) -> None:
    """Refuse GPUs that TensorRT-RTX does not know.

    Args:
        trt: what `library` gives for these targets.
        targets: compute capabilities, such as SM86.

    Raises:
        ExportError: with those that are known.
    """
    if not targets:
        return
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise ExportError(f"--target {','.join(unknown)}", "is not known", f"use some of {','.join(known)}")


@cache
def _log(trt: Any) -> Any:
    """Keeps errors; one for the process, since TensorRT stays with the first that it is given."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.lines.append(text)

    return Log()


def _told(lines: Sequence[str]) -> str:
    """What its log says, without places in its sources."""
    texts = [" ".join(re.sub(r" In \w+ at /_src\S+", "", line).split()) for line in lines]
    return " | ".join(dict.fromkeys(texts)) or "its log says nothing"
