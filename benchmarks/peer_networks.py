"""The examples' networks cut by this project and by Torch-Pruning: tasks of benchmarks/torch_pruning.py."""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peer
from benchmarks.peer_darknet import at_most
from benchmarks.rows import Row, Rows
from examples.digits_data import load_digits
from examples.digits_training import EXAMPLE, accuracies, fit, fresh
from examples.digits_training import NETWORKS as DIGITS
from examples.lenet import LeNet
from examples.mobilenetv2 import MobileNetV2
from examples.modnet import MODNet
from examples.preresnet import PreResNet
from examples.resnet import resnet18, resnet50, resnet_cifar
from examples.vgg import VGG16
from slim import slim
from utils.extras import package
from utils.frontends.module.subject import ModuleSubject
from utils.profiling import median_interval
from utils.pruning.costs import count_parameters
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.surgery import Folding

ALIGN, EPOCHS = 8, 30
# name -> network, shape of an image
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet": (LeNet, (1, 1, 32, 32)),
    "VGG-16": (lambda: VGG16(10, small=True), (1, 3, 32, 32)),
    "MobileNetV2": (MobileNetV2, (1, 3, 64, 64)),
    "ResNet-18": (resnet18, (1, 3, 64, 64)),
    "ResNet-50": (resnet50, (1, 3, 64, 64)),
    "ResNet-20": (resnet_cifar, (1, 3, 32, 32)),
    "pre-activation ResNet-164": (PreResNet, (1, 3, 32, 32)),
    "pre-activation ResNet-164, selecting": (lambda: PreResNet(selecting=True), (1, 3, 32, 32)),
    "MODNet": (lambda: AllOutputs(MODNet()), (1, 3, 64, 64)),
}


class AllOutputs(nn.Module):
    """MODNet in training: all three of its outputs, and one argument, as Torch-Pruning wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """(B, 3, h, w) -> the outputs of the branches."""
        return self.network(images, inference=False)


Cut = Callable[[nn.Module, Tensor, float], peer.PeerResult[nn.Module]]


def by_slim(model: nn.Module, example: Tensor, ratio: float) -> peer.PeerResult[nn.Module]:
    """As users call it, but with nothing folded: a folded constant is not zero."""
    found = slim(model, example, ratio, align=ALIGN, folding="off")
    graph = ModuleSubject.of(model, example).graph
    keep = np.ones(graph.unit_count, dtype=np.bool_)
    for name, mask in found.plan.kept.items():
        keep[graph.layers[name].outputs[~mask]] = False
    kept = {
        name: torch.from_numpy(np.flatnonzero(keep[layer.inputs])) for name, layer in graph.layers.items()
    }
    return peer.PeerResult(found.model, kept)


def by_peer(
    model: nn.Module, example: Tensor, ratio: float, align: int = ALIGN
) -> peer.PeerResult[nn.Module]:
    """A copy cut by Torch-Pruning."""
    copy = deepcopy(model)
    tool = peer.network_pruner(copy, example, ratio, align, output_layers(copy, example))
    return peer.PeerResult(copy, peer.cut(copy, tool))


METHODS: Mapping[str, Cut] = {"slim": by_slim, "Torch-Pruning": by_peer}


def compare_networks(args: argparse.Namespace, rows: Rows) -> None:
    """Each network, pruned, against itself with the removed channels at 0."""
    for name in args.only:
        model, example = built(name)
        case = f"{name}, {args.ratio:g}"
        if not rows.has("networks", case, "unpruned"):
            rows.add(Row("networks", case, "unpruned", count_parameters(model), 0.0))
        for method, cut in METHODS.items():
            if rows.has("networks", case, method):
                continue
            try:
                with at_most(args.seconds):
                    found = cut(model, example, args.ratio)
                difference = difference_of(found, model, example)
            except Exception as error:  # noqa: BLE001 - whatever it is, is the finding
                rows.add(Row("networks", case, method, 0, math.nan, note=_told(error)))
                continue
            size = count_parameters(found.model)
            rows.add(Row("networks", case, method, size, difference, note="relative difference"))


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network with statistics and gammas of all sizes, and an image."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # by default, deep maps hardly depend on the image
    return model, torch.rand(shape)


def difference_of(found: peer.PeerResult[nn.Module], model: nn.Module, example: Tensor) -> float:
    """From the full network whose layers read 0 for what is gone, over the largest output."""
    actual = outputs_in_float64(found.model, example)
    with peer.zeroed(model, found.inputs):
        return relative_difference(actual, outputs_in_float64(model, example))


def measure_digits(args: argparse.Namespace, rows: Rows) -> None:
    """Right answers before fine-tuning; not in multiples of 8, which the two round to other sizes."""
    package("digits", "sklearn")
    torch.set_num_threads(1)
    train, test = load_digits()
    ways: Mapping[str, Callable[[nn.Module, float], nn.Module]] = {
        **{f"slim, {score}": _slim_by(score) for score in ("l1", "group", "gamma")},
        "slim, group, nothing folded": _slim_by("group", "off"),
        "Torch-Pruning": lambda model, ratio: by_peer(model, EXAMPLE, ratio, align=1).model,
    }
    for name in DIGITS:
        for seed in range(args.seeds):
            cases = {ratio: f"{name} seed {seed}, {ratio:g}" for ratio in args.ratios}
            if all(rows.has("digits", case, *ways) for case in cases.values()):
                continue
            model = fresh(name, seed)
            fit(model, train, EPOCHS, DIGITS[name].rate, seed=seed)
            right = accuracies(model, test)[0]
            rows.add(Row("digits", f"{name} seed {seed}", "unpruned", count_parameters(model), right))
            for ratio, case in cases.items():
                for way, cut in ways.items():
                    pruned = cut(model, ratio)
                    right = accuracies(pruned, test)[0]
                    rows.add(Row("digits", case, way, count_parameters(pruned), right, note="digit head"))


def _slim_by(score: str, folding: Folding = "interior") -> Callable[[nn.Module, float], nn.Module]:
    return lambda model, ratio: slim(model, EXAMPLE, ratio, score, align=1, folding=folding).model


def measure_time(args: argparse.Namespace, rows: Rows) -> None:
    """Both programs interleaved, each from a module to a pruned one."""
    torch.set_num_threads(args.threads)
    for name in args.only:
        case = f"{name}, {args.ratio:g}, threads {args.threads}"
        if rows.has("time", case, "ratio"):
            continue
        model, example = built(name)
        try:
            _lap(model, example, args.ratio)  # warms up
            laps = [_lap(model, example, args.ratio) for _ in range(args.rounds)]
        except Exception as error:  # noqa: BLE001 - see compare_networks
            rows.add(Row("time", case, "ratio", 0, math.nan, note=_told(error)))
            continue
        for way in METHODS:
            seconds = median_interval([lap[way] for lap in laps])
            rows.add(Row("time", case, way, 0, *seconds, "seconds"))
        figures = median_interval([lap["Torch-Pruning"] / lap["slim"] for lap in laps])
        rows.add(Row("time", case, "ratio", 0, *figures, "Torch-Pruning / slim"))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _lap(model: nn.Module, example: Tensor, ratio: float) -> dict[str, float]:
    """Seconds of each program for a copy of its own."""
    start = time.perf_counter()
    slim(model, example, ratio, align=ALIGN)
    ours = time.perf_counter() - start
    copy = deepcopy(model)
    ignored = output_layers(copy, example)
    start = time.perf_counter()
    peer.network_pruner(copy, example, ratio, ALIGN, ignored).step()
    return {"slim": ours, "Torch-Pruning": time.perf_counter() - start}


def output_layers(model: nn.Module, example: Tensor) -> list[nn.Module]:
    """The layers that write the outputs, which keep their widths."""
    graph = ModuleSubject.of(model, example).graph
    found = []
    for name, layer in graph.layers.items():
        if {graph.pin_reasons.get(unit) for unit in layer.outputs} == {"an output of the network"}:
            found.append(model.get_submodule(name))
    return found
