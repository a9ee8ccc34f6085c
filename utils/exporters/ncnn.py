"""A network as an ncnn file pair, by way of pnnx, and proof that ncnn computes the same with it.

ncnn has no batch and no open sizes here: a file takes one image of one size. In fp16 the weights alone are
stored in half precision; what ncnn computes in is for the program that loads them to say.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch

from ..errors import ExportError
from ..extras import package
from ..files import atomic_paths
from ..runtimes.ncnn import Ncnn
from ..runtimes.runtime import texts_path
from .job import Exported, Exporting, Limits
from .torchscript import traced
from .verification import verify

PLACE = "ncnn export"
LIMITS = Limits(
    "ncnn",
    refused={
        "int8": ("its quantizer is a separate C++ program", "use fp16, or --format onnx or openvino"),
    },
    fixed=("a file takes one image of one size", "leave --dynamic out, or export another format"),
)
LOWEST = "-3.402823e+38"  # of float32
NOTE = "takes one image of this size at a time"


def export_ncnn(job: Exporting, path: Path) -> Exported:
    """Write `.ncnn.param`, `.ncnn.bin` and the texts as JSON beside them.

    Args:
        job: fp32 or fp16, of one image and one size.
        path: of the file that ends in `.ncnn.param`.

    Raises:
        ExportError: a package is missing, int8 or an open size is asked for, ncnn lacks a layer, or the files
            would compute something else.
    """
    LIMITS.check(job.precision, job.dynamic_batch or job.dynamic_size)
    for name in ("ncnn", "pnnx"):
        package(PLACE, name)
    paths = (path, path.with_suffix(".bin"), texts_path(path))
    with atomic_paths(*paths) as (param, binary, texts):
        _convert(job, param, binary)
        _require_layers(param)
        infer = Ncnn().load(param).infer
        parities = verify(job, infer, "ncnn")
        texts.write_text(json.dumps(dict(job.metadata)), encoding="utf-8")
    return Exported(paths, "ncnn", job.precision, parities, infer, note=NOTE)


def _convert(job: Exporting, param: Path, binary: Path) -> None:
    """Run pnnx, which leaves six more files behind, in a folder that goes away."""
    program = package(PLACE, "pnnx").EXEC_PATH
    shape = job.shapes[0]
    with tempfile.TemporaryDirectory() as folder:
        traced(job.module, torch.zeros(shape)).save(f"{folder}/net.pt")
        options = {
            "inputshape": f"[{','.join(map(str, shape))}]f32",
            "fp16": int(job.precision == "fp16"),
            "ncnnparam": param.absolute(),
            "ncnnbin": binary.absolute(),
        }
        line = [program, "net.pt", *(f"{name}={value}" for name, value in options.items())]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (param.exists() and binary.exists()):
        last = (done.stderr + done.stdout).strip().rpartition("\n")[2]
        fact = f"pnnx failed with status {done.returncode} ({last})"
        raise ExportError(PLACE, fact, "export another format, nothing was written")
    # ncnn reads no infinity, which pnnx writes for the padding of a max-pool
    text = param.read_text(encoding="utf-8")
    param.write_text(text.replace("=-inf", f"={LOWEST}"), encoding="utf-8")


def _require_layers(param: Path) -> None:
    """Refuse what pnnx did not convert: it passes that on, under torch's name."""
    ncnn = package(PLACE, "ncnn")
    kinds = {line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:]}
    missing = sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)
    if missing:
        fact = f"pnnx has no ncnn layer for {', '.join(missing)} in this network"
        raise ExportError(PLACE, fact, "try --raw-heads or another format, nothing was written")
