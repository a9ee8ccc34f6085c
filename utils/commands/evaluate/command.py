"""Measure how well a network detects: mean average precision, overall and per class.

    python evaluate.py --cfg cfg/yolov3-tiny.cfg --weights weights/yolov3-tiny.weights --data data/coco.data
    python evaluate.py --weights weights/best.pt --data data/my.data --split test --style coco --json out.json
    python evaluate.py --weights weights/best_int8.onnx --data data/my.data

--weights takes exported files too: .onnx, .xml (OpenVINO), .engine (TensorRT), .ncnn.param, .torchscript.

Styles:
    darknet  as `darknet detector map`: area under the curve at IoU 0.5; classes that do not occur count 0
    voc      the same, averaged over the classes that occur
    coco     COCO's evaluation by faster-coco-eval, also by object size
Images are stretched to the network's input as Darknet does; `letter_box=1` in the cfg, or --letterbox, keeps
their aspect ratio. The JSON file has style, map50, map50_95, per_class, images, images_per_second and more;
all figures are fractions 0..1.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...detection.evaluator import Evaluation
from ...options import from_arguments
from ...runtimes.choice import is_exported
from ..arguments import Parser, add_command, next_command
from ..output import bar, quoted, show
from .run import EvaluationOptions, EvaluationResult, evaluate


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, evaluate, print the tables and the next command."""
    parser = Parser(__doc__, "evaluate")
    add_command(parser, EvaluationOptions)
    options = from_arguments(EvaluationOptions, parser.parse_args(argv))
    result = evaluate(options, track=bar)
    title = f"{result.files.weights} on {options.split} of {result.files.data}"
    print_evaluation(result.figures, result.problems, title)
    _next(result)


def print_evaluation(figures: Evaluation, problems: Sequence[str], title: str) -> None:
    """Print a line for each class that occurs, the means, and what was wrong with the data set."""
    console = Console()
    show(title, _table(figures))
    means = f"mAP@0.5 {figures.map50:.4f}   mAP@0.5:0.95 {figures.map50_95:.4f}   ({figures.style} style)"
    console.print(means, highlight=False, soft_wrap=True)
    if figures.by_size:
        sizes = (f"{name} {'-' if ap is None else f'{ap:.4f}'}" for name, ap in figures.by_size.items())
        console.print("mAP@0.5:0.95 by size: " + ", ".join(sizes), highlight=False, soft_wrap=True)
    shown = f"score > 0.25: precision {figures.precision:.4f}, recall {figures.recall:.4f}"
    console.print(f"{shown}   {figures.images_per_second:.1f} images/s", highlight=False, soft_wrap=True)
    for line in (*_counts(figures), *problems):
        console.print(line, highlight=False, soft_wrap=True)


def _table(figures: Evaluation) -> Table:
    table = Table()
    table.add_column("class")
    table.add_column("objects", justify="right")
    table.add_column("AP@0.5", justify="right")
    for name, ap in figures.per_class.items():
        if figures.truths[name]:  # Text, since a name may contain rich's markup
            table.add_row(Text(name), str(figures.truths[name]), f"{ap:.4f}")
    return table


def _counts(figures: Evaluation) -> list[str]:
    lines = [f"{figures.images} images, {figures.without_objects} without objects"]
    absent = sum(count == 0 for count in figures.truths.values())
    if absent:
        counted = "count as 0 in the mean" if figures.style == "darknet" else "are left out of the mean"
        lines.append(f"{absent} of {len(figures.truths)} classes do not occur and {counted}")
    return lines


def _next(result: EvaluationResult) -> None:
    files = result.files
    weights = files.needed("weights")
    if is_exported(weights):
        next_command(f"python benchmark.py --models {quoted(weights)}", files.options("data"))
    else:
        next_command("python slim_prune.py", files.options(), "--global_percent 0.8 --layer_keep 0.01")
