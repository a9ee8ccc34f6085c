"""Check a network, its data set and its weights before hours of training are spent on them.

    python doctor.py --cfg cfg/my.cfg --data data/my.data --weights weights/my.weights
    python doctor.py --data data/my.data
    python doctor.py --cfg cfg/my.cfg --json doctor.json

Give any of the three. What is checked:
    cfg      every section and its maps, parameters and multiply-adds; heads against the classes of the data;
             what can be pruned; what Darknet, OpenCV 4, ONNX and TensorRT make of it
    data     lists, label lines, duplicates, images that cannot be read, images that are in two splits,
             classes that never occur; anchors against the objects, with a suggestion to paste
    weights  length and numbers; whether they are a backbone, or made for other classes
In the table of sections, 3x3/2 is size/stride, g32 stands for 32 groups, dw for depthwise, d2 for dilation 2.
It goes on behind a fault. The exit code is 0 if all is well, 1 with warnings, 2 with errors.
"""

import sys

from utils.commands.arguments import run_main
from utils.commands.doctor import doctor_parser, run_doctor


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, check, and end with the exit code."""
    sys.exit(run_doctor(doctor_parser(__doc__).parse_args(argv)))


if __name__ == "__main__":
    run_main(main)
