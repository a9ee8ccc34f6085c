"""Export to ncnn, via pnnx; the files are compared with torch.

ncnn has no batch and no dynamic sizes here: a file takes one image of one size. In fp16 only the weights are
stored in half precision; the program that loads them decides the precision of the arithmetic.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch

from ..errors import ExportError
from ..extras import package
from ..files import atomic_paths
from ..runtimes.metadata import metadata_path
from ..runtimes.ncnn import Ncnn
from .job import Exported, Exporting, Limits, verify
from .torchscript import traced

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
    """Write `.ncnn.param`, `.ncnn.bin` and the metadata as JSON beside them.

    Args:
        job: fp32 or fp16, of one image and one size.
        path: of the file that ends in `.ncnn.param`.

    Raises:
        ExportError: int8 or a dynamic size is requested, ncnn lacks a layer, or the outputs differ from
            torch's.
        MissingPackageError: ncnn or pnnx is missing.
    """
    LIMITS.check(job.precision, job.dynamic_batch or job.dynamic_size)
    for name in ("ncnn", "pnnx"):
        package(PLACE, name)
    paths = (path, path.with_suffix(".bin"), metadata_path(path))
    with atomic_paths(*paths) as (param, binary, metadata):
        _convert(job, param, binary)
        _require_layers(param)
        infer = Ncnn().load(param).infer
        parities = verify(job, infer, "ncnn")
        metadata.write_text(json.dumps(dict(job.metadata)), encoding="utf-8")
    return Exported(paths, "ncnn", job.precision, parities, infer, note=NOTE)


def _convert(job: Exporting, param: Path, binary: Path) -> None:
    """Run pnnx in a temporary folder, since it writes six more files."""
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
        raise ExportError(PLACE, fact, "nothing was written; try another format")
    # ncnn cannot read the infinity that pnnx writes for the padding of a max-pool
    text = param.read_text(encoding="utf-8")
    param.write_text(text.replace("=-inf", f"={LOWEST}"), encoding="utf-8")


def _require_layers(param: Path) -> None:
    """Refuse layers that pnnx did not convert: it writes them under torch's name."""
    ncnn = package(PLACE, "ncnn")
    kinds = {line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:]}
    missing = sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)
    if missing:
        fact = f"unsupported operators: {', '.join(missing)}"
        raise ExportError(PLACE, fact, "nothing was written; try --raw-heads or another format")
