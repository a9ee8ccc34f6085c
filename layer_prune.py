"""Remove whole residual blocks: fewer layers, not only thinner ones, is what saves most time.

    python layer_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --shortcuts 8

A block is a shortcut with the layers between it and what it adds to. Each is scored by the mean gamma of the
layer right before its shortcut; the lowest --shortcuts blocks go, and what they read takes their place. An
activation behind the sum stays, as an [activation] section.
"""

from utils.commands.arguments import positive_int, run_main
from utils.commands.prune import prune_parser, run_pruning
from utils.pruning.policies import WeakestBlocks


def main(argv: list[str] | None = None) -> None:
    """Parse, prune, report."""
    parser = prune_parser(__doc__)
    parser.add_argument("--shortcuts", type=positive_int, default=8, help="number of blocks to remove")
    args = parser.parse_args(argv)
    run_pruning(args, [WeakestBlocks(args.shortcuts)], tag=f"prune_{args.shortcuts}_shortcut")


if __name__ == "__main__":
    run_main(main)
