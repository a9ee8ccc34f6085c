"""Export to OpenVINO IR, from the float32 ONNX file; the file is compared with torch.

Precisions: fp32 and fp16 are the same graph in float32; fp16 stores the weights in half precision, which
halves the file. The program that loads it decides the precision of the arithmetic (INFERENCE_PRECISION_HINT;
OpenVINO's default on recent CPUs is bf16). For int8, NNCF inserts quantizers before the convolutions, with
ranges found on the job's images; everything else stays in float, including the decoding: 8 bits are too few
for pixel positions.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ..errors import ExportError
from ..extras import package
from ..files import atomic_paths
from ..runtimes.openvino import OpenVino
from ..runtimes.runtime import Images
from .job import Exported, Exporting, Precision, verify

PLACE = "OpenVINO export"
NOTES: Mapping[Precision, str] = {
    "fp16": "weights in half precision; the program that loads it decides the precision of the arithmetic",
    "int8": "compared on images of the training list",
}

Sections = tuple[int, ...] | Literal["auto"]


def export_openvino(job: Exporting, path: Path) -> Exported:
    """Write a `.xml` and its `.bin`; the metadata are its rt_info, under their names.

    Args:
        job: int8 needs its `calibration`.
        path: of the `.xml` file.

    Raises:
        ExportError: int8 is requested without images or with automatic sections, or the outputs differ from
            torch's.
        MissingPackageError: openvino, nncf or a package of the ONNX export is missing.
    """
    openvino = package(PLACE, "openvino")
    model = openvino.Core().read_model(job.onnx("fp32"))
    if job.precision == "int8":
        model = _quantised(model, _samples(job), job.int8_skip)
    for name, text in job.metadata.items():
        model.set_rt_info(text, [name])
    paths = (path, path.with_suffix(".bin"))
    with atomic_paths(*paths) as (temporary, _):
        openvino.save_model(model, temporary, compress_to_fp16=job.precision == "fp16")
        infer = OpenVino().load(temporary).infer
        parities = verify(job, infer, "OpenVINO")
    note = NOTES.get(job.precision, "")
    return Exported(paths, "openvino", job.precision, parities, infer, note=note)


def _samples(job: Exporting) -> list[Images]:
    """The job's images one by one, since a file that is not dynamic takes a batch of 1."""
    batches = job.calibration() if job.calibration else ()
    samples = [image[None] for batch in batches for image in batch]
    if not samples:
        fact = "int8 needs images to find the ranges of activations"
        raise ExportError(PLACE, fact, "give a data set with a training list")
    return samples


def _quantised(model: Any, samples: list[Images], skip: Sections) -> Any:
    if skip == "auto":
        fact = "--int8-skip auto supports ONNX only"
        raise ExportError(PLACE, fact, "name sections, such as those that the export to ONNX found")
    nncf = package(PLACE, "nncf")
    operators = model.get_ordered_ops()
    convolutions = [op.get_friendly_name() for op in operators if _is_convolution(op)]
    # Quantizing additions and activations too made yolov4 slower and not more accurate.
    kinds = ("Constant", "Parameter", "Result")
    others = [
        op.get_friendly_name()
        for op in operators
        if not _is_convolution(op) and op.get_type_name() not in kinds
    ]
    ignored = nncf.IgnoredScope(names=[*others, *_of_sections(convolutions, skip)])
    with _quiet("nncf"):
        return nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), ignored_scope=ignored)


def _is_convolution(operator: Any) -> bool:
    return operator.get_type_name() in ("Convolution", "GroupConvolution")


def _of_sections(convolutions: Sequence[str], sections: Iterable[int]) -> list[str]:
    """Names of the convolutions of cfg sections; tracing has put the section numbers into the names."""
    found = {
        section: [name for name in convolutions if f"/layers.{section}/" in name] for section in sections
    }
    for section, names in found.items():
        if not names:
            fact = f"section {section} has no convolution to leave in float"
            raise ExportError(PLACE, fact, "give other numbers with --int8-skip")
    return [name for names in found.values() for name in names]


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Silence its lines about every single operator."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)
