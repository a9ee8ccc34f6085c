"""Prune channels by one threshold; of the layers that a shortcut adds, the first decides for all.

    python shortcut_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --percent 0.7

As prune.py, but channels that shortcuts tie are candidates too: the first layer of each such group has its
gammas in the pool, and the others keep the channels that it keeps. slim_prune.py, where every layer of a
group has a vote, is usually the better choice. Train with: python train.py -sr --s 0.001 --prune 1
"""

from utils.commands.arguments import fraction, run_main
from utils.commands.prune import prune_parser, run_pruning
from utils.pruning.policies import shortcut


def main(argv: list[str] | None = None) -> None:
    """Parse, prune, report."""
    parser = prune_parser(__doc__)
    parser.add_argument("--percent", type=fraction, default=0.7, help="share of the candidates to remove")
    args = parser.parse_args(argv)
    run_pruning(args, [shortcut(args.percent)], tag=f"shortcut_{args.percent}")


if __name__ == "__main__":
    run_main(main)
