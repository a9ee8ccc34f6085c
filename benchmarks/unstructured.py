"""Masks alone give no speed: torch.nn.utils.prune beside slim_prune at the same share.

    python benchmarks/unstructured.py --cfg cfg/yolov3-tiny.cfg --weights weights/yolov3-tiny.weights \\
        --data data/coco.data --threads 1 --page docs/results/unstructured.md

At each --share, of the trained network, nothing fine-tuned:
    l1_unstructured      in every layer by itself the weights that are smallest
    ln_structured        in every convolution the filters with the smallest L2 norm, as zeros
    global_unstructured  the smallest weights of all layers together
    slim                 slim_prune.py --global_percent: channels by their gammas, cut out
the first three on the convolutions' weights alone and on the batch norms' gammas alone (which have no second
dimension, so ln_structured cannot be asked). What was masked is zero for good. mAP@0.5 on the validation
images in Darknet's style; latency of all networks interleaved, batch 1, batch norms folded, boxes and scores
as the output, and how many times as fast as the unpruned network each is, with the 95 % interval of the
median of the paired ratios (order statistics). The page is made from the CSV file.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.nn.utils import prune as masks

from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.commands.csv_results import read_rows, write_rows
from utils.commands.evaluate.run import evaluate_network, open_split
from utils.commands.inputs import open_files
from utils.darknet.model import Darknet, fused
from utils.data.listing import read_data_file
from utils.exporters.tracing import BoxesAndScores, module_session
from utils.files import write_text
from utils.frontends.darknet.subject import DarknetSubject
from utils.options import FRACTION, POSITIVE_INT
from utils.profiling import interleaved_times, median_interval
from utils.pruning.costs import count_macs, count_parameters
from utils.pruning.layers import torch_threads
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune
from utils.runtimes.runtime import NAMES, find_runtime, random_images

LAYER_KEEP = 0.01
LAYERS: Mapping[str, type[nn.Module]] = {"convolutions": nn.Conv2d, "batch norms": nn.BatchNorm2d}
INTRODUCTION = """# Masks alone give no speed

Made by `python benchmarks/unstructured.py --page docs/results/unstructured.md`; its docstring explains the
comparison, the figures are in `benchmarks/unstructured.csv`. *zeros*: share of the learnable values that are
0; *faster*: the unpruned network's time over this one's, with its 95 % interval. Nothing is fine-tuned: mAP
is what the cut alone leaves. A network that was not trained sparsely bears the loss of single weights, and
of next to no whole channel.

Runtimes multiply zeros as they do any other number. Only what is cut out of the network is not computed.

"""

Mask = Callable[[Sequence[nn.Module], float], None]


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        network: name of the weights.
        method: as in the manual; "unpruned" for the network as given.
        layers: which were masked.
        share: of weights, filters or channels.
        parameters, macs: of the network that is run.
        zeros: share of the parameters that are 0.
        map50: fraction.
        runtime, threads: where latency was measured.
        milliseconds: median of a run.
        faster, low, high: the unpruned network's time / this one's, and its 95 % interval.
    """

    network: str
    method: str
    layers: str
    share: float
    parameters: int
    macs: int
    zeros: float
    map50: float
    runtime: str
    threads: int
    milliseconds: float
    faster: float
    low: float
    high: float


def main(argv: list[str] | None = None) -> None:
    """Measure as the command line says; write the page."""
    args = _parser().parse_args(argv)
    rows = read_rows(args.csv, Row)
    wanted = {(args.weights.stem, name, args.threads) for name in args.runtime}
    if wanted - {(row.network, row.runtime, row.threads) for row in rows}:
        rows = [row for row in rows if (row.network, row.runtime, row.threads) not in wanted]
        with torch_threads(args.threads):
            rows += measure(args)
        write_rows(args.csv, rows)
    if args.page:
        write_text(args.page, page(rows))


def measure(args: argparse.Namespace) -> list[Row]:
    """All networks on all runtimes."""
    model = open_files(args.cfg, args.weights).eval()
    data = read_data_file(args.data)
    size = (model.network.height, model.network.width)
    loader = open_split(data, "valid", model, size)
    networks = {("unpruned", "-", 0.0): model}
    for share in args.share:
        networks |= {(*name, share): found for name, found in variants(model, share)}
    maps = {name: evaluate_network(found, loader, data.names).map50 for name, found in networks.items()}
    found = []
    for runtime in args.runtime:
        times = latencies(networks, runtime, size, args.rounds)
        first = times["unpruned", "-", 0.0]
        for name, network in networks.items():
            channels = network.network.channels(-1)
            costs = count_parameters(network), count_macs(network, size, channels), zeros(network)
            ratios = [theirs / own for theirs, own in zip(first, times[name], strict=True)]
            place = runtime, args.threads, median_interval(times[name])[0]
            row = Row(args.weights.stem, *name, *costs, maps[name], *place, *median_interval(ratios))
            print(row)
            found.append(row)
    return found


def variants(model: Darknet, share: float) -> Iterator[tuple[tuple[str, str], Darknet]]:
    """Method and layers, and what it makes of a copy of the network."""
    for layers, kind in LAYERS.items():
        for method, mask in MASKS.items():
            if method == "ln_structured" and kind is nn.BatchNorm2d:
                continue  # filters need a second dimension
            copy = deepcopy(model)
            mask([module for module in copy.modules() if isinstance(module, kind)], share)
            yield (method, layers), copy
    yield (
        ("slim", "channels"),
        prune(DarknetSubject.of(model), [slim_threshold(share, LAYER_KEEP)]).compact.model,
    )


def _each(mask: Callable[[nn.Module, float], object]) -> Mask:
    def apply(modules: Sequence[nn.Module], share: float) -> None:
        for module in modules:
            mask(module, share)
            masks.remove(module, "weight")

    return apply


def _together(modules: Sequence[nn.Module], share: float) -> None:
    weights = [(module, "weight") for module in modules]
    masks.global_unstructured(weights, pruning_method=masks.L1Unstructured, amount=share)
    for module in modules:
        masks.remove(module, "weight")


MASKS: Mapping[str, Mask] = {
    "l1_unstructured": _each(lambda module, share: masks.l1_unstructured(module, "weight", share)),
    "ln_structured": _each(lambda module, share: masks.ln_structured(module, "weight", share, n=2, dim=0)),
    "global_unstructured": _together,
}


def zeros(model: nn.Module) -> float:
    """Share of the learnable values that are exactly 0."""
    return sum(int((values == 0).sum()) for values in model.parameters()) / count_parameters(model)


def latencies(
    networks: Mapping[tuple[str, str, float], Darknet], runtime: str, size: tuple[int, int], rounds: int
) -> dict[tuple[str, str, float], list[float]]:
    """Milliseconds of every round of each network, all interleaved."""
    runs = {}
    for name, model in networks.items():
        images = random_images((1, model.network.channels(-1), *size))
        module = BoxesAndScores(fused(model), model.head_specs).eval()
        ready = module_session(module, torch.from_numpy(images), find_runtime(runtime))
        runs[repr(name)] = ready.bound(images)
    times = interleaved_times(runs, rounds)
    return {name: times[repr(name)] for name in networks}


def page(rows: Sequence[Row]) -> str:
    """The page, a table for each network, runtime and number of threads."""
    parts = [INTRODUCTION]
    for network, runtime, threads in dict.fromkeys((row.network, row.runtime, row.threads) for row in rows):
        own = [row for row in rows if (row.network, row.runtime, row.threads) == (network, runtime, threads)]
        parts += [f"## {network}, {runtime}, threads {threads}\n\n"]
        parts += ["| method | on | share | zeros | parameters | MACs | mAP@0.5 | ms | faster |\n"]
        parts += ["|---|---|---|---|---|---|---|---|---|\n", *map(_line, own), "\n"]
    return "".join(parts).rstrip() + "\n"


def _line(row: Row) -> str:
    faster = f"{row.faster:.2f} ({row.low:.2f} to {row.high:.2f})"
    sizes = f"{row.zeros:.0%} | {row.parameters:,} | {row.macs / 1e9:.2f} G"
    figures = f"{row.map50:.1%} | {row.milliseconds:.1f} | {'' if row.method == 'unpruned' else faster}"
    return f"| {row.method} | {row.layers} | {row.share:.0%} | {sizes} | {figures} |\n"


def _parser() -> Parser:
    parser = Parser(__doc__)
    for name in ("--cfg", "--weights", "--data"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--share", type=FRACTION, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--runtime", nargs="+", choices=NAMES, default=["onnxruntime", "openvino", "torch"])
    parser.add_argument("--threads", type=POSITIVE_INT, default=1)
    parser.add_argument("--rounds", type=POSITIVE_INT, default=21)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the table of the CSV file as Markdown"
    )
    return parser


if __name__ == "__main__":
    run_main(main)
