"""Write a network as an ONNX file with two outputs, and prove that onnxruntime computes the same with it.

    python export.py --cfg cfg/yolov3-tiny.cfg --weights weights/best.weights
    python export.py --weights weights/best.pt --img_size 320 416 --dynamic

Input:   images  (B, 3, H, W)       RGB in 0..1
Outputs: boxes   (B, N, 4)          left, top, right, bottom in pixels of the input
         scores  (B, N, classes)    objectness times class probability
The file lies beside the weights, with the suffix .onnx. Overlapping boxes are left for its user to suppress.
"""

from utils.commands.arguments import run_main
from utils.commands.export import export_parser, run_export


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and export."""
    run_export(export_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
