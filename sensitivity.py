"""Find what must not be cut: each group of layers pruned alone, at several ratios, and evaluated.

    python sensitivity.py --cfg cfg/my.cfg --weights weights/last.pt --data data/my.data
    python sensitivity.py ... --ratios .3 .6 .9 --score l1

A group is the layers that have to have the same width: one, or all that a shortcut ties. The worst channels
of one group at a time are removed, batch-norm statistics are estimated anew (--recalibrate), and mAP is
measured on a sample of the validation images. What is lost is counted from the unpruned network with
statistics estimated in the same way. The groups that lose most are named for --keep-sections.

Files: <weights>_sensitivity.csv, .png (a heat map) and .json. A run that is broken off, or one with more
ratios, computes only what the CSV file lacks; a changed option computes anew.
"""

from utils.commands.arguments import run_main
from utils.commands.sensitivity import run_sensitivity, sensitivity_parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and try every group."""
    run_sensitivity(sensitivity_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
