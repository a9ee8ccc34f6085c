"""Export a network, from Python: `export(ExportOptions(...))`."""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from torch import nn

from ...data.listing import read_data_file
from ...errors import ExportError
from ...exporters import ncnn, onnx, tensorrt, torchscript
from ...exporters.job import PRECISIONS, Exported, Exporting, Limits, Precision
from ...exporters.onnx import OnnxFiles
from ...exporters.openvino import export_openvino
from ...extras import package
from ...files import require_writable
from ...options import FRACTION, POSITIVE_INT, check_ranges, option
from ..arguments import ImageSizeOptions, InputFiles, InputOptions, MachineOptions, prepare, resolve
from ..inputs import open_network
from ..output import Track, untracked
from .job import make_job


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the file that one names to load it.
        export: writes it to a path.
        packages: modules that writing it needs; TensorRT's own is for `tensorrt.library` to find.
        limits: what it cannot do.
    """

    suffix: str
    export: Callable[[Exporting, Path], Exported]
    packages: tuple[str, ...] = ()
    limits: Limits | None = None


_ONNX = ("onnx", "onnxslim", "onnxruntime")  # also of formats that are made from an ONNX file
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(".onnx", onnx.export_onnx, _ONNX),
        "openvino": Format(".xml", export_openvino, (*_ONNX, "openvino")),
        "tensorrt": Format(".engine", tensorrt.export_tensorrt, _ONNX),
        "ncnn": Format(".ncnn.param", ncnn.export_ncnn, ("ncnn", "pnnx"), ncnn.LIMITS),
        "torchscript": Format(".torchscript", torchscript.export_torchscript, (), torchscript.LIMITS),
    }
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _targets(text: str) -> tuple[str, ...]:
    return _words(text.upper())


def _formats(text: str) -> tuple[str, ...]:
    names = _words(text)
    if fact := _unknown_formats(names):
        raise argparse.ArgumentTypeError(f"{fact}; use some of {','.join(FORMATS)}")
    return names


def _unknown_formats(names: Sequence[str]) -> str:
    unknown = [name for name in names if name not in FORMATS]
    return "" if names and not unknown else f"unknown format {', '.join(map(repr, unknown or ['']))}"


def _sections(text: str) -> tuple[int, ...] | str:
    if text == "auto":
        return text
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither auto nor section numbers such as 3,15"
        ) from None


@dataclass(frozen=True)
class ExportOptions(MachineOptions, ImageSizeOptions, InputOptions):
    """Options of an export; `data` gives class names, calibration images and the mAP of the files."""

    format: tuple[str, ...] = option(
        ("onnx",), f"some of {','.join(FORMATS)} (default: onnx)", _formats, metavar="LIST"
    )
    precision: Precision = option("fp32", "of weights and arithmetic", choices=PRECISIONS)
    dynamic: Literal["batch", "size", "both"] | None = option(
        None,
        "dynamic dimensions of the input (without a word: both)",
        nargs="?",
        choices=("batch", "size", "both"),
        const="both",
    )
    raw_heads: bool = option(False, "outputs are the raw heads, before decoding", flags=("--raw-heads",))
    nms: bool = option(False, "suppress overlapping boxes in the ONNX file")
    conf: float | None = option(
        None, f"minimum score, with --nms (default: {Exporting.confidence})", FRACTION
    )
    nms_overlap: float | None = option(
        None,
        f"maximum overlap (IoU) of two boxes of a class, with --nms (default: {Exporting.overlap})",
        FRACTION,
        flags=("--nms-overlap",),
    )
    opset: int = option(Exporting.opset, "of the ONNX operators", POSITIVE_INT)
    int8_skip: tuple[int, ...] | Literal["auto"] = option(
        (), "sections that stay in float, as 3,15", _sections, metavar="auto|LIST", flags=("--int8-skip",)
    )
    target: tuple[str, ...] = option((), "GPUs of a TensorRT engine, as SM86", _targets, metavar="LIST")
    output: Path | None = option(
        None, "folder of the files (default: that of the weights)", Path, metavar="DIR"
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if fact := _unknown_formats(self.format):
            raise ExportError("--format", fact, f"use some of {','.join(FORMATS)}")
        others = [name for name in self.format if name != "onnx"]
        if self.nms and others:
            fact = f"{', '.join(others)} cannot take over ONNX's NMS operator"
            raise ExportError("--nms", fact, "leave it out, or give --format onnx")
        if self.nms and self.raw_heads:
            raise ExportError("--nms", "raw heads contain no boxes to suppress", "leave --raw-heads out")
        for flag, value in (("--conf", self.conf), ("--nms-overlap", self.nms_overlap)):
            if value is not None and not self.nms:
                raise ExportError(flag, "applies only with --nms", "leave it out, or add --nms")
        if self.target and "tensorrt" not in self.format:
            fact = f"applies only to --format tensorrt, not {','.join(self.format)}"
            raise ExportError("--target", fact, "leave it out")
        if self.int8_skip and self.precision != "int8":
            fact = f"applies only to --precision int8, not {self.precision}"
            raise ExportError("--int8-skip", fact, "leave it out")
        if self.int8_skip == "auto" and self.raw_heads:
            fact = "needs boxes and scores to measure mAP"
            raise ExportError("--int8-skip auto", fact, "leave --raw-heads out, or name sections")
        if self.int8_skip == "auto" and "openvino" in self.format:
            fact = "supports ONNX only, not openvino"
            raise ExportError("--int8-skip auto", fact, "export openvino separately, with the sections found")


@dataclass(frozen=True)
class ExportResult:
    """Files that were written and verified.

    Attributes:
        exports: each of them, with its difference from torch and its mAP where that was measured.
        source: of the network, for messages.
        precision: of the files.
        outputs: names of their outputs.
        before: mAP@0.5 of the network itself, 0..1; None where nothing is measured.
        files: the network and the data set.
    """

    exports: tuple[Exported, ...]
    source: str
    precision: Precision
    outputs: tuple[str, ...]
    before: float | None
    files: InputFiles


def export(
    options: ExportOptions,
    *,
    track: Track = untracked,
    on_file: Callable[[ExportResult], object] | None = None,
) -> ExportResult:
    """Export a network to one or more formats; each file is compared with torch before it gets its name.

    Args:
        options: what to export and how.
        track: shows the progress, see `Track`.
        on_file: called after each file with the result so far, also if a later format fails.

    Raises:
        ToolkitError: a file cannot be used, or an exported one would not compute the same.
    """
    prepare(options)
    files = resolve(options, needs=("cfg", "weights"))
    weights = files.needed("weights")
    model = open_network(files)
    data = read_data_file(files.data) if files.data else None
    folder = options.output or weights.parent
    for limits in filter(None, (FORMATS[name].limits for name in options.format)):
        limits.check(options.precision, options.dynamic is not None)
    require_possible(options, files, model)
    require_writable(folder, "choose another folder with --output DIR")
    job = make_job(
        model,
        data,
        options.img_size or (model.network.height, model.network.width),
        options.workers,
        raw_heads=options.raw_heads,
        track=track,
        dynamic_batch=options.dynamic in ("batch", "both"),
        dynamic_size=options.dynamic in ("size", "both"),
        opset=options.opset,
        precision=options.precision,
        int8_skip=options.int8_skip,
        suppress=options.nms,
        targets=options.target,
        confidence=Exporting.confidence if options.conf is None else options.conf,
        overlap=Exporting.overlap if options.nms_overlap is None else options.nms_overlap,
    )
    before = None if job.accuracy is None else job.accuracy.before
    result = ExportResult((), model.network.source, job.precision, tuple(job.module.outputs), before, files)
    stem = weights.stem if job.precision == "fp32" else f"{weights.stem}_{job.precision}"
    with tempfile.TemporaryDirectory() as scratch:
        onnx_files = OnnxFiles(job, Path(scratch))
        # ONNX first: others are made from that file
        for name in sorted(options.format, key=list(FORMATS).index):
            path = folder / (stem + FORMATS[name].suffix)
            if name == "onnx":
                made = onnx_files.export(job.precision, path)
            else:
                made = FORMATS[name].export(replace(job, onnx=onnx_files), path)
            result = replace(result, exports=(*result.exports, _measured(made, job)))
            if on_file is not None:
                on_file(result)
    return result


def _measured(export: Exported, job: Exporting) -> Exported:
    """With the mAP of the file, measured now unless its export did so; None where it cannot be."""
    if export.accuracy is not None or job.accuracy is None or export.infer is None:
        return export
    return replace(export, accuracy=job.accuracy.measure(export.infer))


def require_possible(options: ExportOptions, files: InputFiles, model: nn.Module) -> None:
    """Refuse, before any file is made, what needs a package, a data set or sections that are missing.

    Raises:
        ExportError: with what to change.
        MissingPackageError: with the line that installs it.
    """
    if options.precision == "int8" and not files.data:
        fact = "int8 needs images to find the ranges of activations"
        raise ExportError("--precision int8", fact, "add --data FILE, its training list is used")
    if options.int8_skip and options.int8_skip != "auto":
        known = convolutional_sections(model)
        unknown = ",".join(str(section) for section in options.int8_skip if section not in known)
        if unknown:
            fact = "not a convolution that can be quantized"
            raise ExportError(f"--int8-skip {unknown}", fact, f"choose among {','.join(map(str, known))}")
    formats = set(options.format)
    if formats & {"onnx", "openvino", "tensorrt"}:
        # OpenVINO starts from float32
        precision = options.precision if formats & {"onnx", "tensorrt"} else "fp32"
        onnx.require_opset(options.opset, precision, options.nms)
    require_packages(options.format, options.precision)
    if "tensorrt" in formats:
        tensorrt.require_targets(tensorrt.library(options.target), options.target)


def require_packages(formats: Iterable[str], precision: Precision) -> None:
    """Refuse formats of which a package is missing.

    Raises:
        MissingPackageError: with the line that installs it.
    """
    for name in formats:
        quantizer = ("nncf",) if name == "openvino" and precision == "int8" else ()
        for module in (*FORMATS[name].packages, *quantizer):
            package(f"--format {name}", module)


def convolutional_sections(model: nn.Module) -> list[int]:
    """Numbers of the sections with a convolution, in order.

    Those with equal weights stay several here, though simplifying an ONNX graph merges them.
    """
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return sorted({int(name.split(".")[1]) for name in names if name.startswith("layers.")})
