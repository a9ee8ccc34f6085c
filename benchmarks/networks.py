"""Prune every network of examples/ by several shares: what is left, whether it is exact, how fast it is.

    python benchmarks/networks.py --page docs/results/networks.md
    python benchmarks/networks.py --only modnet mobilenet --seconds 5 --output runs/networks.csv

On one thread. A line for each network and share goes into the CSV file at once, so that the same command goes
on where it was interrupted. Before and after are measured interleaved; `--seconds` is for each pair. Exit
code 1 if a pruned network is not its zeroed self, or onnxruntime computes something else.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.networks_page import Row, page
from examples.lenet import LeNet
from examples.mobilenetv2 import MobileNetV2
from examples.modnet import MODNet
from examples.preresnet import PreResNet
from examples.resnet import resnet18, resnet50, resnet_cifar
from examples.vgg import VGG16
from slim import SlimResult, slim
from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.commands.csv_results import read_rows, write_rows
from utils.errors import ToolkitError
from utils.exporters.parity import onnx_infer
from utils.exporters.tracing import trace_onnx
from utils.files import write_text
from utils.frontends.module.subject import ModuleSubject
from utils.options import POSITIVE_FLOAT
from utils.profiling import interleaved_times

EXACT, PARITY = 1e-12, 1e-3
BATCHES = (1, 8, 64)
LEAST = 3  # rounds


@dataclass(frozen=True)
class Case:
    """A network, the height and width of its images, the shares to remove, and other options of `slim`."""

    build: Callable[[], nn.Module]
    size: int
    ratios: tuple[float, ...] = (0.5,)
    channels: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)


_HEADS = {"values": {"inference": False}}
CASES = {
    "lenet": Case(LeNet, 32, channels=1),
    "vgg16, 32 px": Case(lambda: VGG16(10, small=True), 32, (0.5, 0.7)),
    "resnet18": Case(resnet18, 224),
    "resnet50": Case(resnet50, 224),
    "resnet20": Case(resnet_cifar, 32),
    "resnet56": Case(lambda: resnet_cifar(56), 32, (0.5, 0.7)),
    "preresnet56": Case(lambda: PreResNet(56), 32),
    "preresnet56, selecting": Case(lambda: PreResNet(56, selecting=True), 32, options={"score": "gamma"}),
    "mobilenetv2": Case(MobileNetV2, 224, (0.2, 0.4, 0.5, 0.6, 0.8)),
    "mobilenetv2 512": Case(MobileNetV2, 512, (0.8,)),
    "modnet": Case(MODNet, 512, (0.3, 0.5), options=_HEADS),
    "modnet, backbone, follow": Case(MODNet, 512, options={**_HEADS, "scope": "backbone"}),
    "modnet, backbone, keep": Case(MODNet, 512, options={**_HEADS, "scope": "backbone", "interface": "keep"}),
}


def main(argv: list[str] | None = None) -> None:
    """Run what the CSV file lacks."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    rows = read_rows(args.output, Row)
    done = {(row.network, row.ratio) for row in rows}
    names = [name for name in CASES if any(text.lower() in name for text in args.only)]
    if not names:
        fact = "is in no network's name"
        raise ToolkitError(f"--only {' '.join(args.only)}", fact, f"they are {'; '.join(CASES)}")
    for row in _run(names, done, args.seconds):
        rows.append(row)
        write_rows(args.output, rows)
    if args.page:
        write_text(args.page, page(rows))
    wrong = [row for row in rows if not (row.difference <= EXACT and row.onnx <= PARITY)]
    print(f"{len(rows)} networks, {len(rows) - len(wrong)} exact")
    for row in wrong:
        print(f"{row.network}, {row.ratio}: zeroed / pruned {row.difference:.1e}, ONNX {row.onnx:.1e}")
    if wrong:
        sys.exit(1)


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="with this in the name")
    parser.add_argument("--seconds", type=POSITIVE_FLOAT, default=1.0, help="for each pair of latencies")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/networks.csv", metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write what the CSV file has as Markdown")
    return parser


def _run(names: Sequence[str], done: set[tuple[str, float]], seconds: float) -> Iterator[Row]:
    cases = [(name, ratio) for name in names for ratio in CASES[name].ratios if (name, ratio) not in done]
    with tqdm(cases, unit="network", disable=None) as bar:
        for name, ratio in bar:
            bar.set_description(f"{name}, {ratio}")
            yield measured(name, CASES[name], ratio, seconds)


def measured(name: str, case: Case, ratio: float, seconds: float) -> Row:
    """A line of the CSV file.

    Args:
        name: of the case.
        case: what to prune.
        ratio: share of the channels to remove.
        seconds: for each pair of latencies.
    """
    model = with_random_norms(case.build())
    image = torch.rand(1, case.channels, case.size, case.size, generator=torch.Generator().manual_seed(0))
    result = slim(model, image, ratio, **case.options)
    graph = ModuleSubject.of(model, image, case.options.get("values")).graph
    reasons = Counter(graph.pin_reasons.values())
    report = result.report
    with torch.no_grad():
        times, parity = _times(model, result, image, seconds)
    return Row(
        network=name,
        size=case.size,
        ratio=ratio,
        units=graph.unit_count,
        pinned=int(graph.pinned.sum()),
        reasons="; ".join(f"{count} {reason}" for reason, count in reasons.items()),
        not_followed="; ".join(report.not_followed),
        difference=report.difference,
        onnx=parity,
        parameters=report.parameters[0],
        parameters_after=report.parameters[1],
        macs=report.macs[0],
        macs_after=report.macs[1],
        **times,
    )


def with_random_norms(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode with norms as after training: spread out, none of them 0."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.data.uniform_(0.2, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def _times(
    model: nn.Module, result: SlimResult, image: Tensor, seconds: float
) -> tuple[dict[str, float], float]:
    """Milliseconds by the names of `Row`, and how far onnxruntime is from torch on the pruned network."""
    pair = {"": model, "_after": result.model}
    times: dict[str, float] = {}
    for batch in BATCHES:
        images = image.repeat(batch, 1, 1, 1)
        runs = {f"torch_{batch}{name}": _bound(network, images) for name, network in pair.items()}
        times |= _medians(runs, seconds)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"network{name}.onnx" for name in pair}
        for name, network in pair.items():
            trace_onnx(network, image, files[name], 17)
        sessions = {name: onnx_infer(file) for name, file in files.items()}
    array = image.numpy()
    found, expected = sessions["_after"](array)[-1], _last(result.model(image)).numpy()
    times |= _medians({f"onnx_1{name}": _bound(infer, array) for name, infer in sessions.items()}, seconds)
    return times, float(np.abs(found - expected).max() / np.abs(expected).max())


def _bound(run: Callable[[Any], object], images: Any) -> Callable[[], object]:
    return lambda: run(images)


def _medians(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    turns = interleaved_times(runs, rounds=200, warmup=1, seconds=seconds, least=LEAST)
    return {name: float(np.median(values)) for name, values in turns.items()}


def _last(outputs: Any) -> Tensor:
    """Of several heads the one that is read; the others are None at inference."""
    return outputs if isinstance(outputs, Tensor) else outputs[-1]


if __name__ == "__main__":
    run_main(main)
