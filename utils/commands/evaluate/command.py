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

from ...options import from_arguments
from ...runtimes.detecting import is_exported
from ..arguments import Parser, add_command, next_command
from ..output import bar, print_evaluation, quoted
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


def _next(result: EvaluationResult) -> None:
    files = result.files
    weights = files.needed("weights")
    if is_exported(weights):
        next_command(f"python benchmark.py --models {quoted(weights)}", files.options("data"))
    else:
        next_command("python slim_prune.py", files.options(), "--global_percent 0.8 --layer_keep 0.01")
