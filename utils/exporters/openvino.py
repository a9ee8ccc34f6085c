"""A network as an OpenVINO IR, made from its float32 ONNX file, and proof that OpenVINO computes the same.

What the precisions mean: fp32 and fp16 are the same graph in float32, and in fp16 its weights are stored in
half precision, which halves the file; in what either is computed is for the program that loads it to say
(INFERENCE_PRECISION_HINT; OpenVINO's own choice on recent processors is bf16). In int8, NNCF puts quantisers
in front of the convolutions by ranges found on the job's images; all else stays in float, the decoding too: a
pixel position has no room in 8 bits.
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
from .job import Exported, Exporting, Precision
from .verification import verify

PLACE = "OpenVINO export"
NOTES: Mapping[Precision, str] = {
    "fp16": "its weights are stored in half precision; in what is computed, who loads it says",
    "int8": "compared on images of the training list",
}

Sections = tuple[int, ...] | Literal["auto"]


def export_openvino(job: Exporting, path: Path) -> Exported:
    """Write a `.xml` and its `.bin`; the texts are its rt_info, under their names.

    Args:
        job: int8 needs its `calibration`.
        path: of the `.xml` file.

    Raises:
        ExportError: a package is missing, int8 is asked for without images or with sections to find
            automatically, or the file would compute something else.
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
    """The job's images one by one, since a file that is not dynamic takes no batch."""
    batches = job.calibration() if job.calibration else ()
    samples = [image[None] for batch in batches for image in batch]
    if not samples:
        fact = "int8 needs images to find the ranges of activations"
        raise ExportError(PLACE, fact, "give a data set with a training list")
    return samples


def _quantised(model: Any, samples: list[Images], skip: Sections) -> Any:
    if skip == "auto":
        fact = "sections to leave in float are found for ONNX alone"
        raise ExportError(PLACE, fact, "name them, such as those that the export to ONNX found")
    nncf = package(PLACE, "nncf")
    operators = model.get_ordered_ops()
    convolutions = [op.get_friendly_name() for op in operators if _is_convolution(op)]
    # Quantising additions and activations too made yolov4 slower and no better.
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
    """Names of the convolutions of sections of the cfg, whose numbers tracing has put into the names."""
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
    """Without its lines on every single operator."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)
