"""Measure what convolutions of any width take on a runtime of this machine.

    python latency.py --cfg cfg/yolov3-tiny.cfg --runtime onnxruntime --threads 1

Every kind of convolution of the cfg (kernel, stride, groups, activation, size of its map) is measured over a
grid of widths, and so are the stairs: widths between which time stays the same. No weights are needed. The
measurements go to a file of this machine, runtime and number of threads in runs/latency, where later runs
and other cfgs find them: only what is missing is measured, after an interruption too. The table ends with
what its sum predicts for the whole network beside what the whole network takes.

    --runtime    torch, onnxruntime, openvino (python -m pip install openvino) or tensorrt (an NVIDIA GPU)
    --precision  openvino: f32, bf16, f16 or dynamic; tensorrt: f32 or f16
    --widths     measured along each axis of the grid
"""

from utils.commands.arguments import run_main
from utils.commands.latency import latency_parser, run_latency


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    run_latency(latency_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
