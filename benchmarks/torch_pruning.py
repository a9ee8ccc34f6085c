"""This project beside Torch-Pruning 1.6.1: the same modules, the same share, the same kind of score.

    pip install torch-pruning==1.6.1
    python benchmarks/torch_pruning.py networks             # the examples' networks, pruned by half
    python benchmarks/torch_pruning.py digits               # those of examples/digits.py, before fine-tuning
    python benchmarks/torch_pruning.py time --threads 1
    python benchmarks/torch_pruning.py speed --cfg cfg/yolov3.cfg --threads 1
    python benchmarks/torch_pruning.py equality tests/cfgs/*.cfg cfg/*.cfg
    python benchmarks/torch_pruning.py map --cfg my.cfg --weights sparse.pt --data my.data \\
        --global_percent .5 .7 .75

Any network, `slim(score="l1", align=8)` against MagnitudePruner with GroupMagnitudeImportance(p=1) and
round_to=8, which adds up what reads a channel, too; layers of the outputs are left alone:
networks: is the pruned network the full one whose layers read 0 for the removed channels? In float64; nan and
the error where there is no network or it does not run.
digits: right answers of the digit head on the test images, trained without a penalty, not fine-tuned; widths
are not rounded here, so that both leave networks of one size, and other scores are tried: "group" is of the
peer's kind.
time: seconds from the module to the pruned one, interleaved; ours with its proof, folding and report.

Darknet networks, slim against Torch-Pruning's batch-norm pruner: speed: seconds of the graph and of the whole
cut at 50 % with random gammas at 416, in one process, both programs interleaved each round: medians with
their 95 % interval, and the ratios of each round. This project's figures include copies of the network and
the folding of constants; Torch-Pruning cuts in place. equality: as networks, at a small size. map: mAP@0.5 of
the validation images before any fine-tuning. Torch-Pruning's ratio is found by bisection so that parameters
match those of slim; both are evaluated as they are, and with batch-norm statistics of --recalibrate training
images. Torch-Pruning averages a group's gammas, divided by their mean by default ("mean") or as they are
("raw").

Each figure is a row of --csv; what is there is not measured again.
"""

import argparse
import sys
import warnings
from pathlib import Path

# In the place of this file's folder, where `import torch_pruning` would find this file.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import peer, peer_darknet, peer_networks
from benchmarks.rows import Rows
from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.options import FRACTION, NON_NEGATIVE_INT, POSITIVE_INT


def main(argv: list[str] | None = None) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    peer.package()
    warnings.filterwarnings("ignore", module="torch_pruning")
    args.run(args, Rows(args.csv))


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_name("torch_pruning.csv"))
    tasks = parser.add_subparsers(required=True, parser_class=argparse.ArgumentParser)
    _add_networks(tasks)
    _add_darknet(tasks)
    return parser


def _add_networks(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    networks = tasks.add_parser("networks")
    networks.set_defaults(run=peer_networks.compare_networks)
    digits = tasks.add_parser("digits")
    digits.add_argument("--seeds", type=POSITIVE_INT, default=3)
    digits.add_argument("--ratios", type=FRACTION, nargs="+", default=[0.1, 0.2, 0.3, 0.5])
    digits.set_defaults(run=peer_networks.measure_digits)
    time = tasks.add_parser("time")
    time.set_defaults(run=peer_networks.measure_time)
    for task in (networks, time):
        names = list(peer_networks.NETWORKS)
        task.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
        task.add_argument("--ratio", type=FRACTION, default=0.5)
        task.add_argument("--seconds", type=POSITIVE_INT, default=120, help="most that a cut may take")
    time.add_argument("--threads", type=POSITIVE_INT, default=1)
    time.add_argument("--rounds", type=POSITIVE_INT, default=10)


def _add_darknet(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    speed = tasks.add_parser("speed")
    speed.add_argument("--cfg", type=Path, required=True)
    speed.add_argument("--threads", type=POSITIVE_INT, default=1)
    speed.add_argument("--rounds", type=POSITIVE_INT, default=15)
    speed.set_defaults(run=peer_darknet.measure_speed)
    equality = tasks.add_parser("equality")
    equality.add_argument("cfgs", type=Path, nargs="+")
    equality.add_argument("--seconds", type=POSITIVE_INT, default=60, help="most that a cut may take")
    equality.set_defaults(run=peer_darknet.compare_equality)
    worth = tasks.add_parser("map")
    for name in ("--cfg", "--weights", "--data"):
        worth.add_argument(name, type=Path, required=True)
    worth.add_argument("--global_percent", type=FRACTION, nargs="+", default=[0.5, 0.7])
    worth.add_argument("--recalibrate", type=NON_NEGATIVE_INT, default=128, metavar="N")
    worth.set_defaults(run=peer_darknet.measure_map)


if __name__ == "__main__":
    run_main(main)
