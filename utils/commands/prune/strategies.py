"""The strategies of the pruning commands: the manual, the options and the policies of each.

A strategy is a list of policies; everything else is the same for all of them, see `command`.
"""

from collections.abc import Sequence

from ...options import FRACTION, POSITIVE_INT
from ...pruning.policies import Policy, WeakestBlocks, normal_threshold, shortcut_threshold, slim_threshold
from ..arguments import Parser
from .command import run_pruning
from .options import add_budget, add_merge, prune_parser

SLIM_PRUNE = """Prune channels by one threshold over the whole network, keeping a floor in every layer.

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

PRUNE = """Prune channels by one threshold, leaving alone what a shortcut adds.

    python prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --percent 0.7

Every batch-norm gamma of a channel that no shortcut ties goes into one pool; a channel is removed when its
gamma is among the lowest --percent of it. The weights should come from sparse training:
python train.py -sr --s 0.001 --prune 0
"""

SHORTCUT_PRUNE = """Prune channels by one threshold; the first layer of a shortcut group decides for it.

    python shortcut_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --percent 0.7

As prune.py, but channels that shortcuts tie are candidates too: the first layer of each such group has its
gammas in the pool, and the others keep the channels that it keeps. slim_prune.py, where every layer of a
group has a vote, is usually the better choice. Train with: python train.py -sr --s 0.001 --prune 1
"""

LAYER_PRUNE = """Remove whole residual blocks: fewer layers, not only thinner ones, is what saves most time.

    python layer_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --shortcuts 8

A block is a shortcut with the layers between it and what it adds to. Each is scored by the mean gamma of the
layer right before its shortcut; the lowest --shortcuts blocks go, and what they read takes their place. An
activation behind the sum stays, as an [activation] section.
"""

LAYER_CHANNEL_PRUNE = """Prune channels as slim_prune.py and residual blocks as layer_prune.py, in one run.

    python layer_channel_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data \\
        --shortcuts 12 --global_percent 0.8 --layer_keep 0.01

Blocks are judged by the gammas of the network as given. With --classic they are judged after their channels
were cut, as the published program does it, which favours blocks that lost much.
"""


def slim_prune(argv: Sequence[str] | None = None) -> None:
    """Run `slim-prune`."""
    parser = prune_parser(SLIM_PRUNE, "slim-prune")
    _add_share(parser)
    add_merge(parser)
    add_budget(parser)
    args = parser.parse_args(argv)
    policies = [slim_threshold(args.global_percent, args.layer_keep, args.merge)]
    run_pruning(args, policies, tag=f"prune_{args.global_percent}_keep_{args.layer_keep}")


def prune(argv: Sequence[str] | None = None) -> None:
    """Run `prune`."""
    parser = prune_parser(PRUNE, "prune")
    _add_percent(parser)
    args = parser.parse_args(argv)
    run_pruning(args, [normal_threshold(args.percent)], tag=f"normal_{args.percent}")


def shortcut_prune(argv: Sequence[str] | None = None) -> None:
    """Run `shortcut-prune`."""
    parser = prune_parser(SHORTCUT_PRUNE, "shortcut-prune")
    _add_percent(parser)
    args = parser.parse_args(argv)
    run_pruning(args, [shortcut_threshold(args.percent)], tag=f"shortcut_{args.percent}")


def layer_prune(argv: Sequence[str] | None = None) -> None:
    """Run `layer-prune`."""
    parser = prune_parser(LAYER_PRUNE, "layer-prune")
    _add_shortcuts(parser)
    args = parser.parse_args(argv)
    run_pruning(args, [WeakestBlocks(args.shortcuts)], tag=f"prune_{args.shortcuts}_shortcut")


def layer_channel_prune(argv: Sequence[str] | None = None) -> None:
    """Run `layer-channel-prune`."""
    parser = prune_parser(LAYER_CHANNEL_PRUNE, "layer-channel-prune")
    _add_shortcuts(parser)
    _add_share(parser)
    add_merge(parser)
    args = parser.parse_args(argv)
    channels = slim_threshold(args.global_percent, args.layer_keep, args.merge)
    policies: list[Policy] = [channels, WeakestBlocks(args.shortcuts)]
    tag = f"prune_{args.shortcuts}_shortcut_{args.global_percent}_keep_{args.layer_keep}"
    run_pruning(args, policies, tag=tag)


def _add_share(parser: Parser) -> None:
    text = "share of all channels to remove"
    parser.add_argument("--global_percent", type=FRACTION, default=0.8, help=text)
    parser.add_argument("--layer_keep", type=FRACTION, default=0.01, help="least share that a layer keeps")


def _add_percent(parser: Parser) -> None:
    parser.add_argument("--percent", type=FRACTION, default=0.7, help="share of the candidates to remove")


def _add_shortcuts(parser: Parser) -> None:
    parser.add_argument("--shortcuts", type=POSITIVE_INT, default=8, help="number of blocks to remove")
