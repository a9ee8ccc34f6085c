"""Does pruning pay? How much of what multiply-adds promise arrives as speed, on each runtime.

    python benchmarks/speedup.py --network tiny --cfg tiny3.cfg --weights last.pt --data bccd.data --threads 1

A network is pruned to --shares of its multiply-adds, in two ways: by one threshold over the gammas, and by
latency (Taylor scores for each millisecond of the runtime's latency table, its stairs kept; the same
multiply-adds end it). Then the unpruned network and all pruned ones are measured interleaved.

    gain     times as fast as unpruned
    yield    gain x share of the multiply-adds that is left: 1 where every multiply-add saved is time saved

mAP@0.5 is of the validation images, recalibrated on --recalibrate training images, not fine-tuned. Rows go to
--table; a network that is there on a runtime with these threads is not measured again.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from utils.cli import run_main
from utils.commands.arguments import InputOptions, MachineOptions, Parser, add_machine, prepare
from utils.commands.csv_results import read_rows, write_rows
from utils.commands.latency.network import network_latencies
from utils.commands.prune.budget import STAGES
from utils.commands.prune.budget_latency import Clock
from utils.commands.prune.job import Job, open_job
from utils.commands.prune.options import PruningOptions, amount
from utils.darknet.model import Darknet
from utils.frontends.darknet.subject import DarknetSubject
from utils.options import FRACTION, POSITIVE_INT, add_options, from_arguments
from utils.pruning.budget_search import BudgetSearch, Limit
from utils.pruning.channels import UnitMask, WidthLimits
from utils.pruning.costs import Costs, costs_of, count_macs, count_parameters
from utils.pruning.policies import slim_threshold
from utils.pruning.subject import ChannelPlan
from utils.pruning.surgery import prune
from utils.runtimes.runtime import NAMES

LAYER_KEEP = 0.01
_HALVINGS, _ROUNDS = 12, 60


@dataclass(frozen=True)
class Row:
    """A network on a runtime; milliseconds are medians of one interleaved run.

    Attributes:
        macs: share of the multiply-adds that is left.
        gain: times as fast as unpruned.
    """

    network: str
    method: str
    share: float
    runtime: str
    threads: int
    macs: float
    parameters: float
    milliseconds: float
    unpruned: float
    gain: float
    map50: float


def main() -> None:
    """Compute what is missing."""
    parser = Parser(__doc__)
    add_options(parser, InputOptions)
    parser.add_argument("--network", required=True, help="its name in the table")
    parser.add_argument(
        "--shares", nargs="+", type=FRACTION, default=[0.5, 0.25], help="of multiply-adds left"
    )
    parser.add_argument("--runtimes", nargs="+", choices=NAMES, default=["onnxruntime", "openvino", "torch"])
    parser.add_argument("--recalibrate", type=POSITIVE_INT, default=128, help="training images")
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".csv"), help="CSV")
    add_machine(parser)
    args = parser.parse_args()
    device = prepare(from_arguments(MachineOptions, args))
    rows = read_rows(args.table, Row)
    threads = torch.get_num_threads()
    done = {row.runtime for row in rows if (row.network, row.threads) == (args.network, threads)}
    wanted = [name for name in args.runtimes if name not in done]
    for name in wanted:
        job = _job(args, device, name)
        networks = dict(_networks(job, args.shares))
        maps = {key: _map50(job, subject) for key, subject in networks.items()}
        rows += _measured(job, args.network, networks, maps)
        write_rows(args.table, rows)
        for row in rows[-len(networks) :]:
            print(row)


def _job(args: Namespace, device: torch.device, runtime: str) -> Job:
    """What slim_prune.py --max-ms would work on."""
    options = PruningOptions(
        cfg=args.cfg,
        weights=args.weights,
        data=args.data,
        max_ms=amount("50%"),
        runtime=runtime,
        recalibrate=args.recalibrate,
        workers=args.workers,
        layer_keep=LAYER_KEEP,
    )
    return open_job(options, device)


def _networks(job: Job, shares: list[float]) -> Iterator[tuple[tuple[str, float], DarknetSubject]]:
    """By method and share of the multiply-adds."""
    graph = job.subject.graph
    image = torch.zeros(1, job.model.network.channels(-1), *job.image_size)
    costs = costs_of(job.model, graph, image.to(job.device))
    whole = costs.macs(np.ones(graph.unit_count, dtype=np.bool_))
    clock = Clock.of(job)
    for share in shares:
        yield ("threshold", share), _by_threshold(job, costs, share * whole)
        limit = Limit("multiply-adds", costs.macs, clock.layer, share * whole)
        widths = WidthLimits(job.align, 1, LAYER_KEEP)
        keep = BudgetSearch(job.subject, job.scorer, (limit,), widths, "max", STAGES).mask()
        yield ("latency", share), _compact(job, keep)


def _by_threshold(job: Job, costs: Costs, most: float) -> DarknetSubject:
    """The smallest share of gammas that leaves at most this many multiply-adds."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        percent = (low + high) / 2
        found = prune(job.subject, [slim_threshold(percent, LAYER_KEEP)])
        low, high = (low, percent) if costs.macs(found.keep) <= most else (percent, high)
    return prune(job.subject, [slim_threshold(high, LAYER_KEEP)]).compact


def _compact(job: Job, keep: UnitMask) -> DarknetSubject:
    return prune(job.subject, [lambda _subject, _scores: ChannelPlan(keep)], lambda _: {}).compact


def _map50(job: Job, subject: DarknetSubject) -> float:
    return job.map50(job.recalibrated(subject, job.options.images_to_recalibrate).model, "mAP")


def _measured(
    job: Job,
    network: str,
    networks: dict[tuple[str, float], DarknetSubject],
    maps: dict[tuple[str, float], float],
) -> list[Row]:
    models: dict[str, Darknet] = {"unpruned": job.model}
    models |= {f"{method} {share}": subject.model for (method, share), subject in networks.items()}
    times = network_latencies(models, job.runtime, job.image_size, _ROUNDS)
    whole = times["unpruned"]
    macs = {name: count_macs(model, job.image_size) for name, model in models.items()}
    sizes = {name: count_parameters(model) for name, model in models.items()}
    return [
        Row(
            network=network,
            method=method,
            share=share,
            runtime=job.runtime.name,
            threads=whole.threads,
            macs=macs[f"{method} {share}"] / macs["unpruned"],
            parameters=sizes[f"{method} {share}"] / sizes["unpruned"],
            milliseconds=times[f"{method} {share}"].p50,
            unpruned=whole.p50,
            gain=whole.p50 / times[f"{method} {share}"].p50,
            map50=map50,
        )
        for (method, share), map50 in maps.items()
    ]


if __name__ == "__main__":
    run_main(main)
