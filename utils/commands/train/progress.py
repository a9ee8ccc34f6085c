"""Display of a training: a table of its options, a progress bar per epoch, a line after each."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tqdm import tqdm

from ...darknet.model import Darknet
from ...training.darknet_loss import head_rules
from ...training.history import EpochRecord
from ...training.loop import Loaders
from ...training.optimizer import scaled_rate
from ...training.processes import Processes
from ...training.trainer import half_type
from ..output import show
from .run import PreparedRun
from .settings import MODERN, other_schedules

# losses of an epoch's line
_LOSSES = {"loss": "loss", "box": "box", "objectness": "obj", "classes": "cls"}


class Display:
    """An observer that prints on the first process's console."""

    def __init__(self) -> None:
        self._visible, self._count = True, 1
        self._epochs = self._batches = self._batch_size = 0
        self._bar: tqdm | None = None
        self._free = ""

    def run_started(self, run: PreparedRun, device: torch.device, processes: Processes) -> None:
        """Print the table of options."""
        self._visible, self._count = processes.is_first, processes.count
        self._epochs = run.settings.options.epochs
        if self._visible:
            _print_options(run, device, processes.count)

    def loaders_opened(self, loaders: Loaders) -> None:
        """Note the length of an epoch."""
        self._batches, self._batch_size = len(loaders.train), loaders.train.batch_size * self._count

    def epoch_started(self, epoch: int, done: int) -> None:
        """Open the epoch's bar."""
        if self._visible:
            self._bar = tqdm(
                total=self._batches * self._batch_size,
                initial=done * self._batch_size,
                desc=f"epoch {epoch}/{self._epochs}",
                unit="img",
                leave=False,
                disable=None,
            )

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Advance the bar and show the loss so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(_losses(means) + self._free, refresh=False)
            self._bar.update(number * self._batch_size - self._bar.n)

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """Replace the bar by a line."""
        del model, gammas  # the record has all that is shown
        if self._bar is not None:
            self._bar.close()
        if record.free_share == record.free_share:
            self._free = f"  free {record.free_share:.0%}"
        if self._visible:
            print(_line(record, self._epochs, is_best), flush=True)


def _print_options(run: PreparedRun, device: torch.device, count: int) -> None:
    """Print all that decides a run, and where it comes from; options without effect are left out."""
    settings, chosen = run.settings, run.settings.options
    rows: dict[str, object] = {"cfg": run.model.network.source}
    if run.checkpoint is None:
        rows |= {"weights": _described(run)}
    else:
        done = run.epochs_done
        shown = f"all {done}, only the report is left" if done >= chosen.epochs else done
        rows |= {"resumed": run.resumed, "epochs done": shown}
    rows |= _head_rules(run)
    rows |= {"data": settings.data, "teacher": settings.t_weights or "none", "output": settings.output}
    candidates = f"on the candidates of --prune {settings.prune}{' --classic' * settings.classic}"
    rows |= {"sparsity": candidates if chosen.s else "none"}
    images = chosen.batch_size * chosen.accumulate * count
    rate = scaled_rate(chosen.learning_rate, chosen.optimizer, images)
    half = half_type(device, chosen.precision) or torch.float32
    rows |= {"step": f"{images} images, learning rate {rate:.3g}", "device": f"{device} x {count}"}
    rows |= {"computes in": str(half).removeprefix("torch.")}
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(_short(value)), "")
    hidden = _without_effect(run)
    for name, value in chosen.to_mapping().items():
        if name not in hidden:
            table.add_row(name, Text(_short(value)), Text(run.origins[name], style="dim"))
    show("training", table)


def _described(run: PreparedRun) -> str:
    """The weights that a run starts from."""
    kind = run.settings.scratch
    if not kind:
        return str(run.weights or "none, from scratch")
    return f"none, from scratch (--scratch {kind})" + (
        f"; {run.weights} is not loaded" if run.weights else ""
    )


def _head_rules(run: PreparedRun) -> dict[str, object]:
    """What Darknet's loss reads in each head's section."""
    if run.settings.options.loss != "darknet":
        return {}
    network = run.model.network
    rows: dict[str, object] = {}
    for head, rules in zip(network.heads, head_rules(network), strict=True):
        values = {name: value for name, value in asdict(rules).items() if name not in ("anchors", "mask")}
        rows[f"yolo #{head}"] = ", ".join(f"{name} {value}" for name, value in values.items())
    return rows


def _without_effect(run: PreparedRun) -> set[str]:
    """Hyper-parameters that play no part in a run."""
    chosen = run.settings.options
    hidden = other_schedules(chosen.schedule)
    if not chosen.s:
        hidden |= {name for name in chosen.to_mapping() if name.startswith("s_")}
        hidden |= {"s", "sparsifier", "gamma_reach", "target_sparsity"}
    if not run.settings.t_weights:
        hidden |= {"distill"}
    return hidden | (MODERN if chosen.loss == "darknet" else set())


def _short(value: object) -> str:
    """A value as a word of the table; a mapping is written out."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(item)}" for name, item in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(_short(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _losses(means: Mapping[str, float]) -> str:
    parts = [f"{short} {means[name]:.3f}" for name, short in _LOSSES.items()]
    if means["distillation"]:
        parts.append(f"distil {means['distillation']:.3f} ({means['farther']:.0%} worse than the teacher)")
    return "  ".join(parts)


def _line(record: EpochRecord, epochs: int, is_best: bool) -> str:
    parts = [f"epoch {record.epoch:{len(str(epochs))}}/{epochs}", _losses(vars(record))]
    if record.map50 == record.map50:
        parts.append(f"mAP@0.5 {record.map50:.4f}{'*' if is_best else ' '}")
    if record.s:
        parts.append(f"s {record.s:.2g}  gammas < 0.01: {record.gamma_small:.1%}")
        parts.append(f"free {record.free_share:.1%}")
    return "  ".join((*parts, f"{record.images_per_second:.1f} img/s  {record.seconds:.1f} s"))
