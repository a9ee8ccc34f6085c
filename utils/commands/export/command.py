"""Export a network to other formats; each file is compared with the network before it is moved into place.

    python export.py --cfg cfg/yolov3-tiny.cfg --weights weights/best.weights
    python export.py --weights weights/best.pt --img_size 320 416 --dynamic batch
    python export.py --weights weights/best.pt --data data/my.data --precision int8 --int8-skip auto

Input:   images  (B, C, H, W)       RGB in 0..1, float32
Outputs: boxes   (B, N, 4)          left, top, right, bottom in pixels of the input, float32
         scores  (B, N, classes)    objectness times class probability, float32
Files are written beside the weights, with _fp16 or _int8 in the name for these precisions. NMS is left to the
program that uses the file. Class names are stored in a file only if --data is given.

--format       onnx; openvino (.xml, .bin); tensorrt (.engine); ncnn (.ncnn.param, .ncnn.bin; fixed size, no
               int8); torchscript (no int8). Several, with commas between; requirements: docs/guides/export.md
--target       GPUs of a TensorRT engine, such as SM75,SM86; without it, all from SM80 on. An
               engine is compared only where it can run: on a machine with a GPU
--dynamic      dynamic dimensions: batch, size or both; otherwise one image of --img_size
--precision    fp16: the network up to its raw heads in float16. int8: its convolutions in int8, calibrated
               on 128 images of the training list. With --data, mAP of fp16 and int8 before and after is
               measured on the valid list. A file that loses more than a point is written, with a warning.
--int8-skip    sections that stay in float, or auto: as few as possible, most sensitive first, until at most
               one point of mAP is lost (auto is not for openvino)
--raw-heads    outputs head_0, head_1, ... (B, anchors, h, w, 5 + classes) before any sigmoid
--nms          ONNX only, one output: detections (M, 7) of number in the batch, left, top, right, bottom,
               score, class; sorted by image, class and falling score. Needs --opset 13 or newer
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...exporters.job import ALLOWED_LOSS, Exported
from ...options import from_arguments
from ..arguments import InputFiles, Parser, add_command, next_command
from ..output import bar, percent, quoted, show
from .run import ExportOptions, ExportResult, export


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, export, print the comparisons and the next command."""
    parser = Parser(__doc__, "export")
    add_command(parser, ExportOptions)
    options = from_arguments(ExportOptions, parser.parse_args(argv))
    results: list[ExportResult] = []
    try:
        result = export(options, track=bar, on_file=results.append)
    finally:
        if results:  # also when a later format failed: these files have been written
            _report(results[-1])
    usable = [made for made in result.exports if _runs(made)]
    if usable:
        _next(result.files, usable[0], decoded=not (options.raw_heads or options.nms))


def _report(result: ExportResult) -> None:
    table = Table("file", "MB")
    has_accuracy = result.before is not None
    for title in (*result.outputs, *(("mAP\nbefore", "mAP\nafter") if has_accuracy else ())):
        table.add_column(title, justify="right")
    for made in result.exports:
        table.add_row(
            Text(made.paths[0].name, overflow="fold"),
            f"{sum(path.stat().st_size for path in made.paths) / 1e6:.1f}",
            *(_largest(made, name) for name in result.outputs),
            *((percent(result.before), percent(made.accuracy)) if has_accuracy else ()),
        )
    show(f"{result.source} in {result.precision}, in {result.exports[0].paths[0].parent}", table)
    console = Console()
    for made in result.exports:
        for line in filter(None, (_compared(made), _loss(made, result.before), made.note)):
            console.print(f"{made.format}: {line}", highlight=False, soft_wrap=True, markup=False)


def _loss(made: Exported, before: float | None) -> str:
    """A warning about a file that loses too much mAP."""
    if before is None or made.accuracy is None or before - made.accuracy <= ALLOWED_LOSS:
        return ""
    remedy = "export fp32"
    if made.precision == "int8":
        remedy = "--int8-skip auto, with --format onnx, finds the sections to leave in float"
    return f"WARNING: loses {100 * (before - made.accuracy):.1f} points of mAP; {remedy}"


def _largest(made: Exported, output: str) -> str:
    values = [parity.differences[output] for parity in made.parities]
    return f"{max(values):.1e}" if values else "-"


def _compared(made: Exported) -> str:
    """The shapes at which the file was compared with torch."""
    if not made.parities:
        return ""
    shapes = (parity.shape for parity in made.parities)
    compared = " and ".join(f"batch {batch}, {height}x{width}" for batch, _, height, width in shapes)
    return f"compared with torch on {compared}: largest difference / largest value"


def _runs(made: Exported) -> bool:
    """Whether this machine can load the file; an engine may need another one."""
    return made.format != "tensorrt" or made.infer is not None


def _next(files: InputFiles, made: Exported, decoded: bool) -> None:
    path = quoted(made.paths[0])
    if decoded and files.data:
        next_command("python evaluate.py", f"--weights {path} --data {quoted(files.data)}")
    elif decoded:
        next_command("python detect.py", f"--weights {path} --source IMAGE")
    elif made.format == "onnx":
        load = f"import onnxruntime; print(onnxruntime.InferenceSession({path!r}).get_outputs())"
        next_command(f'python -c "{load}"')
