"""Prune channels by one threshold, leaving alone what a shortcut adds.

    python prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --percent 0.7

Every batch-norm gamma of a channel that no shortcut ties goes into one pool; a channel is removed when its
gamma is among the lowest --percent of it. The weights should come from sparse training:
python train.py -sr --s 0.001 --prune 0
"""

from utils.commands.arguments import fraction, run_main
from utils.commands.prune import prune_parser, run_pruning
from utils.pruning.policies import normal


def main(argv: list[str] | None = None) -> None:
    """Parse, prune, report."""
    parser = prune_parser(__doc__)
    parser.add_argument("--percent", type=fraction, default=0.7, help="share of the candidates to remove")
    args = parser.parse_args(argv)
    run_pruning(args, [normal(args.percent)], tag=f"normal_{args.percent}")


if __name__ == "__main__":
    run_main(main)
