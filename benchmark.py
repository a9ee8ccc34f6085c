"""Compare networks where they run: the original against pruned ones, on every runtime of this machine.

    python benchmark.py --models cfg/a.cfg:weights/a.weights cfg/prune_a.cfg:weights/prune_a.weights
    python benchmark.py --models weights/best.onnx weights/prune_best.onnx weights/prune_best_int8.onnx \\
        --runtime onnxruntime openvino --threads 1 2 --batch 1 8 --data data/my.data

The first model is the reference. A model is cfg:weights, a checkpoint or an exported file (.onnx, .xml,
.engine, .ncnn.param, .torchscript). Networks come to a runtime by way of an ONNX file that is not kept; torch
and OpenCV run them as they are. What is timed ends with boxes and scores; bringing an image to the input
(prepare) and suppressing overlapping boxes (NMS) are columns of their own, milliseconds an image.

    --img_size  pixels of the long side
    --shape     square: the image is stretched; rect: it keeps its aspect, the short side padded to a multiple
                of 32: 416x320 for the pixels of 4:3 that stand in where neither --source nor --data is given
    --runtime   torch, onnxruntime, openvino, tensorrt, opencv, ncnn

Without these and --batch, an exported file runs on the runtime that reads it, and a file of fixed size or
batch has all models measured at that.

For each input all models take turns, --rounds times or until --seconds are spent. The ratio is the first
model's time over another's: above 1 the other is faster. It is called faster or slower only where the 95 %
interval of the median of the paired ratios leaves out 1 (the order statistics that belong to the sign test).
What a file or runtime cannot serve is n/a, with the reason. Results go to runs/benchmark (--output) as CSV,
Markdown and PNG; figures that are there are not measured again, after Ctrl-C too, as long as the models are
the same: those that are compared come from the same rounds. What was n/a is tried again.
"""

from utils.commands.arguments import run_main
from utils.commands.benchmark import benchmark_parser, run_benchmark


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    run_benchmark(benchmark_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
