"""Does a budget of milliseconds give a better network than one threshold that ends up as fast?

    python benchmarks/budgets.py --cfg tiny3.cfg --weights sparse/last.pt --data bccd/bccd.data \\
        --max-ms 27% 24% 21% --runtime onnxruntime --threads 1

For each budget `slim_prune.py --max-ms` is run as a user would. Then the share of `slim_prune.py
--global_percent` is searched, the smallest whose network is measured to be as fast, and at last the unpruned
network, the budget's and the threshold's are measured again, interleaved in one run. Both are recalibrated on
the same training images before mAP is taken. Rows go to --table; a budget that is there is not done again.
"""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.cli import run_main
from utils.commands.arguments import InputOptions, MachineOptions, Parser, add_machine, prepare, resolve
from utils.commands.csv_results import read_rows, write_rows
from utils.commands.evaluate.run import evaluate_network, open_split
from utils.commands.inputs import open_files, open_network
from utils.commands.latency.network import network_latencies
from utils.darknet.model import Darknet
from utils.data.listing import DataFile, read_data_file
from utils.frontends.darknet.subject import DarknetSubject
from utils.options import POSITIVE_INT, add_options, from_arguments
from utils.pruning.costs import count_macs, count_parameters
from utils.pruning.policies import slim_threshold
from utils.pruning.recalibrate import recalibrate
from utils.pruning.surgery import prune
from utils.runtimes.runtime import NAMES, find_runtime

LAYER_KEEP = 0.01
_HALVINGS, _ROUNDS = 8, 60
_AS_FAST = 1.02


@dataclass(frozen=True)
class Row:
    """A network, milliseconds, interleaved in one run; mAP@0.5 as a fraction, recalibrated.

    Attributes:
        budget: as asked for.
        method: "budget", or "threshold" with its share.
        asked: milliseconds, the share of the unpruned network's in the same turns.
    """

    budget: str
    method: str
    runtime: str
    asked: float
    milliseconds: float
    unpruned: float
    parameters: int
    macs: int
    valid: float
    test: float


def main() -> None:
    """Compute the budgets that are missing."""
    parser = Parser(__doc__)
    add_options(parser, InputOptions)
    parser.add_argument("--max-ms", nargs="+", required=True, help="budgets, shares such as 25%%")
    parser.add_argument("--runtime", choices=NAMES, default="onnxruntime", help="what is timed")
    parser.add_argument("--recalibrate", type=POSITIVE_INT, default=128, help="training images")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks" / "budgets.csv", help="CSV")
    add_machine(parser)
    args = parser.parse_args()
    prepare(from_arguments(MachineOptions, args))
    rows = read_rows(args.table, Row)
    for budget in args.max_ms:
        if not any((row.budget, row.runtime) == (budget, args.runtime) for row in rows):
            rows += compare(args, budget)
            write_rows(args.table, rows)


def compare(args: Namespace, budget: str) -> list[Row]:
    """Both ways to a budget."""
    project = resolve(from_arguments(InputOptions, args))
    model = open_network(project).eval()
    data = read_data_file(project.needed("data"))
    ours = _by_budget(args, budget)
    percent, threshold = _as_fast(args, model, ours)
    images = open_split(data, "train", model, _size(model), batch_size=8, limit=args.recalibrate)
    recalibrate(threshold, (batch.images for batch in images))
    models = {"unpruned": model, "budget": ours, f"threshold {percent:.4f}": threshold}
    times = network_latencies(models, find_runtime(args.runtime), _size(model), _ROUNDS)
    whole = times.pop("unpruned").p50
    asked = float(budget.rstrip("%")) / 100 * whole if budget.endswith("%") else float(budget)
    return [
        Row(
            budget,
            method,
            args.runtime,
            asked,
            time.p50,
            whole,
            count_parameters(models[method]),
            count_macs(models[method], _size(model)),
            *(_map50(models[method], data, split) for split in ("valid", "test")),
        )
        for method, time in times.items()
    ]


def _by_budget(args: Namespace, budget: str) -> Darknet:
    """What slim_prune.py --max-ms makes, recalibrated, read from its files."""
    with tempfile.TemporaryDirectory() as name:
        words = ["--cfg", args.cfg, "--weights", args.weights, "--data", args.data, "--output", name]
        words += ["--max-ms", budget, "--runtime", args.runtime, "--recalibrate", args.recalibrate]
        words += ["--layer_keep", LAYER_KEEP, "--no-report", "--workers", args.workers, "--seed", args.seed]
        words += ["--threads", args.threads] if args.threads else []
        command = [sys.executable, str(ROOT / "slim_prune.py"), *map(str, words)]
        subprocess.run(command, check=True)
        (cfg,), (weights,) = Path(name).glob("*.cfg"), Path(name).glob("*.weights")
        (report,) = Path(name).glob("*.json")
        print(*json.loads(report.read_text(encoding="utf-8"))["notes"], sep="\n")
        return open_files(cfg, weights).eval()


def _as_fast(args: Namespace, model: Darknet, ours: Darknet) -> tuple[float, Darknet]:
    """The threshold's network that removes least and is as fast as `ours`, but for `_AS_FAST`."""
    runtime, subject = find_runtime(args.runtime), DarknetSubject.of(model)

    def tried(percent: float) -> tuple[bool, Darknet]:
        pruned = prune(subject, [slim_threshold(percent, LAYER_KEEP)]).compact.model.eval()
        times = network_latencies({"ours": ours, "theirs": pruned}, runtime, _size(model), _ROUNDS)
        return times["theirs"].p50 <= _AS_FAST * times["ours"].p50, pruned

    low, high = 0.0, 0.99
    for _ in range(_HALVINGS):
        percent = (low + high) / 2
        low, high = (low, percent) if tried(percent)[0] else (percent, high)
    # Time is a staircase and a clock errs: a smaller share may do, too, and has the better chance.
    for percent in (high - step / 100 for step in range(8, -1, -1)):
        is_as_fast, network = tried(percent)
        if is_as_fast:
            break
    return percent, network


def _size(model: Darknet) -> tuple[int, int]:
    return model.network.height, model.network.width


def _map50(model: Darknet, data: DataFile, split: str) -> float:
    images = open_split(data, split, model, _size(model), batch_size=8)
    return evaluate_network(model, images, data.names).map50


if __name__ == "__main__":
    run_main(main)
