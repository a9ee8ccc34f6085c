"""What of an export can be refused before any file is made."""

import argparse
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ...errors import ExportError
from ...exporters import onnx, tensorrt
from ...exporters.job import Exporting, Precision
from ...exporters.packages import package
from ..inputs import Project

_ONNX = ("onnx", "onnxslim", "onnxruntime")
# those that are made from an ONNX file need its packages too
_PACKAGES: Mapping[str, Sequence[str]] = {
    "onnx": _ONNX,
    "openvino": (*_ONNX, "openvino"),
    "tensorrt": _ONNX,
    "ncnn": ("ncnn", "pnnx"),
    "torchscript": (),
}


def require_possible(args: argparse.Namespace, project: Project, model: nn.Module) -> None:
    """Refuse what the formats asked for cannot do together, or for want of a package.

    Args:
        args: of the command line.
        project: the files that it names.
        model: the network; its `layers` are its sections.

    Raises:
        ExportError: with what to change.
    """
    _require_together(args, project)
    if args.int8_skip:
        _require_sections(args, model)
    if {"onnx", "openvino", "tensorrt"} & set(args.format):
        onnx.require_opset(args.opset, _onnx_precision(args.format, args.precision), args.nms)
    require_packages(args.format, args.precision)
    if "tensorrt" in args.format:
        tensorrt.require_targets(tensorrt.library(args.target), args.target)


def require_packages(formats: Iterable[str], precision: Precision) -> None:
    """Refuse formats of which a package is missing; TensorRT's own is for `tensorrt.library` to find.

    Raises:
        ExportError: with the line that installs it.
    """
    for name in formats:
        quantiser = ("nncf",) if name == "openvino" and precision == "int8" else ()
        for module in (*_PACKAGES[name], *quantiser):
            package(f"--format {name}", module)


def _onnx_precision(formats: Sequence[str], precision: Precision) -> Precision:
    """Of the ONNX files that are made: OpenVINO starts from float32."""
    return precision if {"onnx", "tensorrt"} & set(formats) else "fp32"


def _require_together(args: argparse.Namespace, project: Project) -> None:
    others = [name for name in args.format if name != "onnx"]
    if args.nms and others:
        fact = f"the suppression is an operator of ONNX, which {', '.join(others)} cannot take over"
        raise ExportError("--nms", fact, "leave it out, or give --format onnx")
    for flag, value in (("--conf", args.conf), ("--nms-overlap", args.nms_overlap)):
        if value is not None and not args.nms:
            raise ExportError(flag, "is about --nms, which is not given", "leave it out, or add --nms")
    if args.target and "tensorrt" not in args.format:
        fact = f"is about --format tensorrt, not {','.join(args.format)}"
        raise ExportError("--target", fact, "leave it out")
    if args.precision == "int8" and not project.data:
        fact = "int8 needs images to find the ranges of activations"
        raise ExportError("--precision int8", fact, "add --data FILE, its training list is used")
    if args.int8_skip and args.precision != "int8":
        raise ExportError("--int8-skip", f"is about --precision int8, not {args.precision}", "leave it out")


def _require_sections(args: argparse.Namespace, model: nn.Module) -> None:
    if args.int8_skip == "auto":
        if args.raw_heads:
            fact = "needs boxes and scores to measure"
            raise ExportError("--int8-skip auto", fact, "leave --raw-heads out, or name sections")
        if "openvino" in args.format:
            fact = "finds sections for ONNX alone, not for openvino"
            raise ExportError("--int8-skip auto", fact, "export that by itself, with the sections found")
        return
    known = convolutional_sections(model)
    unknown = [section for section in args.int8_skip if section not in known]
    if unknown:
        fact = f"is no convolution to quantise; choose among {','.join(map(str, known))}"
        raise ExportError(f"--int8-skip {','.join(map(str, unknown))}", fact)


def convolutional_sections(model: nn.Module) -> list[int]:
    """Numbers of the sections that hold a convolution, in order; simplifying merges those that repeat."""
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return sorted({int(name.split(".")[1]) for name in names if name.startswith("layers.")})


def suppression(args: argparse.Namespace) -> dict[str, float]:
    """Thresholds of --nms: those given, else the defaults of `Exporting`."""
    return {
        "confidence": Exporting.confidence if args.conf is None else args.conf,
        "overlap": Exporting.overlap if args.nms_overlap is None else args.nms_overlap,
    }
