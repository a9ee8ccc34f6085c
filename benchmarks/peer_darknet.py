"""Darknet networks pruned by this project and by Torch-Pruning: tasks of benchmarks/torch_pruning.py."""

import argparse
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peer
from benchmarks.rows import Row, Rows
from utils.commands.evaluate.run import evaluate_network, open_split
from utils.commands.inputs import open_files
from utils.darknet.model import Darknet
from utils.data.listing import DataFile, read_data_file
from utils.errors import UnsupportedSectionError
from utils.frontends.darknet.subject import DarknetSubject, usable_size
from utils.profiling import median_interval
from utils.pruning.costs import count_parameters
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.policies import slim_threshold
from utils.pruning.recalibrate import recalibrate
from utils.pruning.surgery import Folding, prune

LAYER_KEEP = 0.01
# pixels at which functions are compared
SIZE = 128


def with_random_gammas(model: Darknet) -> Darknet:
    """`model` in evaluation mode with gammas uniform in 0..1, betas around 0, and heads of weight 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0, 1, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.weight.normal_(0, 1, generator=generator)  # so that heads show a fault before them
    return model.eval()


def measure_speed(args: argparse.Namespace, rows: Rows) -> None:
    """Both programs, interleaved."""
    torch.set_num_threads(args.threads)
    model = with_random_gammas(Darknet.from_cfg(args.cfg))
    case = f"{args.cfg.stem} 416, 50 %, threads {args.threads}"
    image = torch.zeros(1, 3, 416, 416)
    if rows.has("speed", case, "ratio: graph and cut"):
        return
    times: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for number in range(args.rounds + 1):
        laps = {**_time_ours(model, sizes), **_time_theirs(model, image, sizes)}
        for name, lap in laps.items():
            if number:  # the first round warms up
                times.setdefault(name, []).append(lap)
    for name, seconds in times.items():
        rows.add(Row("speed", case, name, sizes.get(name, 0), *median_interval(seconds), "seconds"))
    for part in ("graph", "graph and cut"):
        pairs = zip(times[f"Torch-Pruning: {part}"], times[f"slim: {part}"], strict=True)
        figures = median_interval([theirs / ours for theirs, ours in pairs])
        rows.add(Row("speed", case, f"ratio: {part}", 0, *figures, "Torch-Pruning / slim"))


def _time_ours(model: Darknet, sizes: dict[str, int]) -> dict[str, float]:
    start = time.perf_counter()
    subject = DarknetSubject.of(model)
    traced = time.perf_counter()
    result = prune(subject, [slim_threshold(0.5, LAYER_KEEP)])
    done = time.perf_counter()
    sizes["slim: graph and cut"] = count_parameters(result.compact.model)
    return {"slim: graph": traced - start, "slim: graph and cut": done - start}


def _time_theirs(model: Darknet, image: Tensor, sizes: dict[str, int]) -> dict[str, float]:
    copy = deepcopy(model)
    start = time.perf_counter()
    tool = peer.pruner(copy, image, 0.5)
    traced = time.perf_counter()
    tool.step()
    done = time.perf_counter()
    sizes["Torch-Pruning: graph and cut"] = count_parameters(copy)
    return {"Torch-Pruning: graph": traced - start, "Torch-Pruning: graph and cut": done - start}


def compare_equality(args: argparse.Namespace, rows: Rows) -> None:
    """Each cfg, pruned by half with random gammas, against itself with the removed channels at 0."""
    for path in args.cfgs:
        if rows.has("equality", path.stem, "slim", "Torch-Pruning"):
            continue
        try:
            model = with_random_gammas(Darknet.from_cfg(path))
        except UnsupportedSectionError as error:
            print(error)
            continue
        size = usable_size(model.network, SIZE)
        image = torch.rand(1, model.network.channels(-1), *size, generator=torch.Generator().manual_seed(0))
        for method, cut in (("slim", _cut_by_slim), ("Torch-Pruning", _cut_by_peer)):
            try:
                with at_most(args.seconds):
                    result = cut(model, image)
                actual = outputs_in_float64(result.model, image)
            except Exception as error:  # noqa: BLE001 - whatever it is, is the finding
                note = f"{type(error).__name__}: {error}"[:160]
                rows.add(Row("equality", path.stem, method, 0, math.nan, note=note))
                continue
            with peer.zeroed(model, result.inputs):
                difference = relative_difference(actual, outputs_in_float64(model, image))
            count = count_parameters(result.model)
            rows.add(Row("equality", path.stem, method, count, difference, note="relative difference"))


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError inside if it takes longer."""

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _cut_by_slim(model: Darknet, _image: Tensor) -> peer.PeerResult[Darknet]:
    subject = DarknetSubject.of(model)
    result = prune(subject, [slim_threshold(0.5, LAYER_KEEP)], folding="off")
    layers = subject.graph.layers.items()
    kept = {name: torch.from_numpy(np.flatnonzero(result.keep[layer.inputs])) for name, layer in layers}
    return peer.PeerResult(result.compact.model, kept)


def _cut_by_peer(model: Darknet, image: Tensor) -> peer.PeerResult[Darknet]:
    return peer.pruned(model, image, 0.5)


def measure_map(args: argparse.Namespace, rows: Rows) -> None:
    """Evaluate both programs' networks at the same number of parameters."""
    model = open_files(args.cfg, args.weights).eval()
    data = read_data_file(args.data)
    name = f"{args.cfg.stem} on {args.data.stem}"
    if not rows.has("map", name, "unpruned"):
        rows.add(Row("map", name, "unpruned", count_parameters(model), _map50(model, data), note="mAP@0.5"))
    for percent in args.global_percent:
        case = f"{name}, {percent:g}"
        for method, pruned in _candidates(model, percent):
            again = f"{method}, recalibrated on {args.recalibrate}"
            if rows.has("map", case, method, again):
                continue
            found = pruned()
            size = count_parameters(found)
            rows.add(Row("map", case, method, size, _map50(found, data), note="mAP@0.5"))
            images = open_split(data, "train", found, _size(found), limit=args.recalibrate)
            recalibrate(found, (batch.images for batch in images))
            rows.add(Row("map", case, again, size, _map50(found, data), note="mAP@0.5"))


def _candidates(model: Darknet, percent: float) -> Iterator[tuple[str, Callable[[], Darknet]]]:
    """Ways to prune to the size that slim has at `percent`."""
    image = torch.zeros(1, 3, *_size(model))

    def ours(folding: Folding) -> Darknet:
        subject = DarknetSubject.of(model)
        return prune(subject, [slim_threshold(percent, LAYER_KEEP)], folding=folding).compact.model

    def theirs(normalizer: str | None) -> Darknet:
        return peer.with_parameters(model, image, count_parameters(ours("off")), normalizer).model

    yield "slim", lambda: ours("interior")
    yield "slim, nothing folded", lambda: ours("off")
    for name, normalizer in peer.NORMALIZERS.items():
        yield f"Torch-Pruning, {name}", lambda normalizer=normalizer: theirs(normalizer)  # type: ignore[misc]


def _size(model: Darknet) -> tuple[int, int]:
    return model.network.height, model.network.width


def _map50(model: Darknet, data: DataFile) -> float:
    return evaluate_network(model, open_split(data, "valid", model, _size(model)), data.names).map50
