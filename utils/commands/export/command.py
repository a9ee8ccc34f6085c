"""Write a network as files for other programs, each compared with the network before it gets its name.

    python export.py --cfg cfg/yolov3-tiny.cfg --weights weights/best.weights
    python export.py --weights weights/best.pt --img_size 320 416 --dynamic batch
    python export.py --weights weights/best.pt --data data/my.data --precision int8 --int8-skip auto

Input:   images  (B, C, H, W)       RGB in 0..1, float32
Outputs: boxes   (B, N, 4)          left, top, right, bottom in pixels of the input, float32
         scores  (B, N, classes)    objectness times class probability, float32
The files lie beside the weights, their stem ending in _fp16 or _int8 with these precisions. Overlapping boxes
are left for their user to suppress. The names of the classes are in a file only if --data is given.

--format       onnx; openvino (.xml, .bin); tensorrt (.engine); ncnn (.ncnn.param, .ncnn.bin; fixed size, no
               int8); torchscript (no int8). Several, with commas between; requirements: docs/guides/export.md
--target       GPUs of a TensorRT engine, such as SM75,SM86; without, all from SM80 on. An
               engine is compared only where it can run: on a machine with a GPU
--dynamic      what stays open: batch, size or both; otherwise one image of --img_size
--precision    fp16: the network up to its raw heads in float16. int8: its convolutions in int8, with ranges
               from 128 images of the training list. With --data, mAP of fp16 and int8 before and after is
               measured on the valid list. A file that loses more than a point is written, with a warning.
--int8-skip    sections that stay in float, or auto: the fewest of those that harm most alone, until at most a
               point of mAP is lost (auto is not for openvino)
--raw-heads    outputs head_0, head_1, ... (B, anchors, h, w, 5 + classes) before any sigmoid
--nms          ONNX only, one output: detections (M, 7) of number in the batch, left, top, right, bottom,
               score, class; by image, then class, best score first. Needs --opset 13 or newer
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...darknet.model import Darknet
from ...data.listing import read_data_file
from ...exporters import ncnn, torchscript
from ...exporters.job import ALLOWED_LOSS, PRECISIONS, Accuracy, Exported, Exporting
from ...exporters.limits import Limits
from ...exporters.ncnn import export_ncnn
from ...exporters.onnx import OnnxFiles, export_onnx
from ...exporters.openvino import export_openvino
from ...exporters.tensorrt import export_tensorrt
from ...exporters.torchscript import export_torchscript
from ...files import require_writable
from ...options import FRACTION, POSITIVE_INT
from ..arguments import (
    Parser,
    Project,
    add_common,
    add_data,
    add_image_size,
    add_network,
    next_command,
    prepare,
    resolve,
)
from ..inputs import open_network
from ..results import quoted
from ..tables import percent, show
from .checks import require_possible, suppression
from .job import make_job


@dataclass(frozen=True)
class Format:
    """A kind of file: its suffix, what writes it to a path, and what it cannot do."""

    suffix: str
    export: Callable[[Exporting, Path], Exported]
    limits: Limits | None = None


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(".onnx", export_onnx),
        "openvino": Format(".xml", export_openvino),
        "tensorrt": Format(".engine", export_tensorrt),
        "ncnn": Format(".ncnn.param", export_ncnn, ncnn.LIMITS),
        "torchscript": Format(".torchscript", export_torchscript, torchscript.LIMITS),
    }
)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_export(export_parser().parse_args(argv))


def export_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "export")
    add_network(parser)
    add_data(parser)
    names = ",".join(FORMATS)
    parser.add_argument(
        "--format", type=_formats, default=("onnx",), metavar="LIST", help=f"of {names} (default: onnx)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of weights and arithmetic")
    add_image_size(parser)
    parser.add_argument(
        "--dynamic",
        nargs="?",
        choices=("batch", "size", "both"),
        const="both",
        help="leave open (without a word: both)",
    )
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--raw-heads", action="store_true", help="end before decoding")
    ending.add_argument("--nms", action="store_true", help="suppress overlapping boxes in the ONNX file")
    parser.add_argument(
        "--conf", type=FRACTION, help=f"least score, with --nms (default: {Exporting.confidence})"
    )
    parser.add_argument(
        "--nms-overlap",
        type=FRACTION,
        help=f"largest in a class, with --nms (default: {Exporting.overlap})",
    )
    parser.add_argument("--opset", type=POSITIVE_INT, default=Exporting.opset, help="of the ONNX operators")
    parser.add_argument(
        "--int8-skip",
        type=_sections,
        default=(),
        metavar="auto|LIST",
        help="sections that stay in float, as 3,15",
    )
    parser.add_argument(
        "--target", type=_targets, default=(), metavar="LIST", help="GPUs of a TensorRT engine, as SM86"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the files (default: the weights')"
    )
    add_common(parser)
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _targets(text: str) -> tuple[str, ...]:
    return _words(text.upper())


def _formats(text: str) -> tuple[str, ...]:
    names = _words(text)
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or text!r} is not known; use some of {','.join(FORMATS)}"
        )
    return names


def _sections(text: str) -> tuple[int, ...] | str:
    if text == "auto":
        return text
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither auto nor section numbers such as 3,15"
        ) from None


def run_export(args: argparse.Namespace) -> None:
    """Export as the command line says, and print what was compared.

    Raises:
        ToolkitError: a file cannot be used, or an exported one would not compute the same.
    """
    prepare(args)
    project = resolve(args, needs=("cfg", "weights"))
    weights = project.needed("weights")
    model = open_network(project)
    data = read_data_file(project.data) if project.data else None
    folder = args.output or weights.parent
    for limits in filter(None, (FORMATS[name].limits for name in args.format)):
        limits.check(args.precision, args.dynamic is not None)
    require_possible(args, project, model)
    require_writable(folder, "choose another folder with --output DIR")
    job = make_job(
        model,
        data,
        args.img_size or (model.network.height, model.network.width),
        args.workers,
        raw_heads=args.raw_heads,
        dynamic_batch=args.dynamic in ("batch", "both"),
        dynamic_size=args.dynamic in ("size", "both"),
        opset=args.opset,
        precision=args.precision,
        int8_skip=args.int8_skip,
        suppress=args.nms,
        targets=args.target,
        **suppression(args),
    )
    stem = weights.stem if job.precision == "fp32" else f"{weights.stem}_{job.precision}"
    exports: list[Exported] = []
    try:
        _export(job, args.format, folder / stem, exports)
    except Exception:
        if exports:  # a later format failed, these files are there
            _report(exports, job, model)
        raise
    _report(exports, job, model)
    usable = [export for export in exports if _runs(export)]
    if usable:
        _next(project, usable[0], decoded=not (args.raw_heads or args.nms))


def _export(job: Exporting, names: Sequence[str], stem: Path, exports: list[Exported]) -> None:
    """Add each file to `exports` as soon as it is written."""
    with tempfile.TemporaryDirectory() as scratch:
        files = OnnxFiles(job, Path(scratch))
        # ONNX first: others are made from that file
        for name in sorted(names, key=list(FORMATS).index):
            path = stem.with_name(stem.name + FORMATS[name].suffix)
            if name == "onnx":
                exports.append(files.export(job.precision, path))
            else:
                exports.append(FORMATS[name].export(replace(job, onnx=files), path))


def _report(exports: Sequence[Exported], job: Exporting, model: Darknet) -> None:
    table = Table("file", "MB")
    for title in (*job.module.outputs, *(("mAP\nbefore", "mAP\nafter") if job.accuracy else ())):
        table.add_column(title, justify="right")
    losses: list[str] = []
    for export in exports:
        after = _after(export, job.accuracy)
        losses.append(_loss(export, job.accuracy, after))
        table.add_row(
            Text(export.paths[0].name, overflow="fold"),
            f"{sum(path.stat().st_size for path in export.paths) / 1e6:.1f}",
            *(_largest(export, name) for name in job.module.outputs),
            *((percent(job.accuracy.before), percent(after)) if job.accuracy else ()),
        )
    show(f"{model.network.source} in {job.precision}, in {exports[0].paths[0].parent}", table)
    console = Console()
    for export, loss in zip(exports, losses, strict=True):
        for line in filter(None, (_compared(export), loss, export.note)):
            console.print(f"{export.format}: {line}", highlight=False, soft_wrap=True, markup=False)


def _after(export: Exported, accuracy: Accuracy | None) -> float | None:
    """The mAP of the file, measured now unless its export did so; None where it cannot be."""
    if export.accuracy is not None or accuracy is None or export.infer is None:
        return export.accuracy
    return accuracy.measure(export.infer)


def _loss(export: Exported, accuracy: Accuracy | None, after: float | None) -> str:
    """A warning where a file loses more than it may."""
    if accuracy is None or after is None or accuracy.before - after <= ALLOWED_LOSS:
        return ""
    remedy = "export fp32"
    if export.precision == "int8":
        remedy = "--int8-skip auto, with --format onnx, finds what to leave in float"
    return f"WARNING loses {100 * (accuracy.before - after):.1f} points of mAP; {remedy}"


def _largest(export: Exported, output: str) -> str:
    values = [parity.differences[output] for parity in export.parities]
    return f"{max(values):.1e}" if values else "-"


def _compared(export: Exported) -> str:
    """On what the file was compared with torch."""
    if not export.parities:
        return ""
    shapes = (parity.shape for parity in export.parities)
    compared = " and ".join(f"batch {batch}, {height}x{width}" for batch, _, height, width in shapes)
    return f"compared with torch on {compared}: largest difference / largest value"


def _runs(export: Exported) -> bool:
    """Whether this machine can load the file, which it may not of an engine alone."""
    return export.format != "tensorrt" or export.infer is not None


def _next(project: Project, export: Exported, decoded: bool) -> None:
    file = quoted(export.paths[0])
    if decoded and project.data:
        next_command("python evaluate.py", f"--weights {file} --data {quoted(project.data)}")
    elif decoded:
        next_command("python detect.py", f"--weights {file} --source IMAGE")
    elif export.format == "onnx":
        load = f"import onnxruntime; print(onnxruntime.InferenceSession({file!r}).get_outputs())"
        next_command(f'python -c "{load}"')
