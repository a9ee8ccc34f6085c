"""Measure how well a network detects: mean average precision, for all classes and for each.

    python evaluate.py --cfg cfg/yolov3-tiny.cfg --weights weights/yolov3-tiny.weights --data data/coco.data
    python evaluate.py --weights weights/best.pt --data data/my.data --split test --style coco --json out.json
    python evaluate.py --weights weights/best_int8.onnx --data data/my.data

--weights takes exported files too: .onnx, .xml (OpenVINO), .engine (TensorRT), .ncnn.param, .torchscript.

Styles:
    darknet  as `darknet detector map`: area under the curve at IoU 0.5; classes that do not occur count 0
    voc      the same, averaged over the classes that occur
    coco     COCO's evaluation by faster-coco-eval, also by object size
Images are stretched to the network's input as Darknet does; `letter_box=1` in the cfg, or --letterbox, keeps
their aspect. The JSON file holds style, map50, map50_95, per_class, images, images_per_second and more; all
figures are fractions 0..1.
"""

from utils.commands.arguments import run_main
from utils.commands.evaluate import evaluate_parser, run_evaluation


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and evaluate."""
    run_evaluation(evaluate_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
