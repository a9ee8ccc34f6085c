"""Prune channels by one threshold over the whole network, keeping a floor in every layer.

    python slim_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data \\
        --global_percent 0.8 --layer_keep 0.01

Every batch-norm gamma of the network goes into one pool; a channel is removed when its gamma is among the
lowest --global_percent of it. Channels that a shortcut adds stay as long as one of them is above the
threshold. The weights should come from sparse training: python train.py -sr --s 0.001 --prune 1

Instead of a share, say what you need, and the best network that fits is searched for and measured:

    python slim_prune.py ... --max-ms 12 --runtime onnxruntime
    python slim_prune.py ... --max-macs 50% --max-mb 4
    python slim_prune.py ... --min-map 0.78
"""

from utils.commands.arguments import fraction, run_main
from utils.commands.prune import prune_parser, run_pruning
from utils.commands.pruning_options import add_budget, add_merge
from utils.pruning.policies import slim


def main(argv: list[str] | None = None) -> None:
    """Parse, prune, report."""
    parser = prune_parser(__doc__)
    parser.add_argument(
        "--global_percent", type=fraction, default=0.8, help="share of all channels to remove"
    )
    parser.add_argument("--layer_keep", type=fraction, default=0.01, help="least share that a layer keeps")
    add_merge(parser)
    add_budget(parser)
    args = parser.parse_args(argv)
    policies = [slim(args.global_percent, args.layer_keep, args.merge)]
    run_pruning(args, policies, tag=f"prune_{args.global_percent}_keep_{args.layer_keep}")


if __name__ == "__main__":
    run_main(main)
