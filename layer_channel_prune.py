"""Prune channels as slim_prune.py does and remove whole residual blocks as layer_prune.py does, in one run.

    python layer_channel_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data \\
        --shortcuts 12 --global_percent 0.8 --layer_keep 0.01

Blocks are judged by the gammas of the network as given. With --classic they are judged after their channels
were cut, as the published program does it, which favours blocks that lost much.
"""

from utils.commands.arguments import fraction, positive_int, run_main
from utils.commands.prune import prune_parser, run_pruning
from utils.commands.pruning_options import add_merge
from utils.pruning.policies import Policy, WeakestBlocks, slim


def main(argv: list[str] | None = None) -> None:
    """Parse, prune, report."""
    parser = prune_parser(__doc__)
    parser.add_argument("--shortcuts", type=positive_int, default=8, help="number of blocks to remove")
    parser.add_argument(
        "--global_percent", type=fraction, default=0.8, help="share of all channels to remove"
    )
    parser.add_argument("--layer_keep", type=fraction, default=0.01, help="least share that a layer keeps")
    add_merge(parser)
    args = parser.parse_args(argv)
    policies: list[Policy] = [
        slim(args.global_percent, args.layer_keep, args.merge),
        WeakestBlocks(args.shortcuts),
    ]
    tag = f"prune_{args.shortcuts}_shortcut_{args.global_percent}_keep_{args.layer_keep}"
    run_pruning(args, policies, tag=tag)


if __name__ == "__main__":
    run_main(main)
