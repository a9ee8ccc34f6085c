"""Train a network: from scratch, from given weights, sparsely before pruning, or fine-tune it afterwards.

    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/yolov3.weights
    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/best.pt -sr --s 0.001 --prune 1
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights \\
        --t_cfg cfg/yolov3.cfg --t_weights weights/best.pt
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights --scratch b
    python train.py --resume

Sparse training (-sr) pushes exactly the batch-norm gammas to zero that pruning will judge: --prune 0 for
prune.py, which leaves shortcuts alone, --prune 1 for the other strategies; --classic for the narrower sets of
the published programs. After each epoch it reports the share of the channels that can be removed without
changing the outputs ("free"). With a teacher (--t_cfg, --t_weights) a pruned network learns from the network
that it was pruned from. Weights for another number of classes are loaded except for the heads, which are
re-initialized. --scratch trains the pruned network from random weights, for the same epochs (e) or the same
multiply-adds (b): the control experiment that shows the gain from inherited weights.

The folder --output receives last.pt (to resume, and what pruning reads), previous.pt (the checkpoint before
it), best.pt (highest validation mAP@0.5), history.csv, history.png and gammas.png. An input file of the same
name is renamed first. Options that are not given come from the cfg ([net], and jitter and random of the last
head) or have a measured default; the table at the start shows the source of each. --resume without a file
continues the newest run; Ctrl-C and SIGTERM save a checkpoint first.
With none of --cfg, --data, --weights the small demo network is trained on a generated data set.
Several processes: torchrun --nproc-per-node 2 -- train.py ... (the -- keeps torchrun from reading --s itself)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tqdm import tqdm

from ...darknet.model import Darknet
from ...data.listing import read_data_file
from ...errors import ToolkitError
from ...options import add_options, from_arguments
from ...pruning.costs import count_parameters
from ...training.darknet_loss import head_rules
from ...training.history import EpochRecord
from ...training.loop import OUTPUTS, Loaders
from ...training.optimizer import scaled_rate
from ...training.processes import Processes
from ...training.trainer import channels_last, half_type
from ..arguments import InputOptions, MachineOptions, Parser, next_command
from ..evaluate.run import Fit, data_problems, evaluate_network, open_split
from ..inputs import DemoFiles, InputFiles, open_files
from ..output import percent, print_evaluation, read_report, show
from .options import (
    DistillationOptions,
    ImageOptions,
    RecipeOptions,
    ResultOptions,
    SparsityOptions,
    TrainOptions,
)
from .run import PreparedRun, TrainingResult, train
from .settings import MODERN, RunSettings, other_schedules

# losses of an epoch's line
_LOSSES = {"loss": "loss", "box": "box", "objectness": "obj", "classes": "cls"}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, train, and print the results."""
    options = from_arguments(TrainOptions, train_parser().parse_args(argv))
    result = train(options, Display())
    if result.is_first:
        _report(result, options.workers)
        next_command(*_next(result))


def train_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "train")
    add_options(parser, InputOptions)
    from_cfg = "after each default its source; values in [net] and [yolo] of the cfg win over defaults"
    add_options(parser.add_argument_group("training", from_cfg), RecipeOptions)
    add_options(parser.add_argument_group("training images"), ImageOptions)
    add_options(parser.add_argument_group("sparse training"), SparsityOptions)
    add_options(parser.add_argument_group("distillation"), DistillationOptions)
    add_options(parser.add_argument_group("files"), ResultOptions)
    add_options(parser.add_argument_group("machine"), MachineOptions)
    return parser


def _report(result: TrainingResult, workers: int) -> None:
    """Evaluate the best network in full precision on the splits that exist; print what was written."""
    settings = result.settings
    data, size = read_data_file(settings.data), settings.options.image_size
    model = channels_last(open_files(None, result.best).to(result.device))
    reached: dict[str, float] = {}
    for split in ("valid", "test"):
        if getattr(data, split) is None:
            continue
        fit: Fit = "rect" if settings.options.rectangular else "cfg"
        loader = open_split(data, split, model, size, fit=fit, workers=workers)
        evaluation = evaluate_network(model, loader, data.names, label=split)
        print_evaluation(evaluation, data_problems(loader), f"{result.best} on {split} of {settings.data}")
        reached[split] = evaluation.map50
    for line in result.problems:
        print(f"train of {settings.data}: {line}")
    print_comparison(settings, count_parameters(model), reached)
    files = [settings.output / name for name in OUTPUTS]
    print("written: " + ", ".join(str(path) for path in files if path.exists()))


def print_comparison(settings: RunSettings, parameters: int, reached: Mapping[str, float]) -> None:
    """Print mAP before and after pruning beside what the training reached, if it continues a pruning run.

    Args:
        settings: of a run that has ended.
        parameters: of its network.
        reached: mAP@0.5 as a fraction of its best network, by split.
    """
    lines = _before(settings, parameters)
    if not lines or "valid" not in reached:
        return
    began = "trained sparsely" if settings.options.s else "fine-tuned"
    began = f"from random weights (--scratch {settings.scratch})" if settings.scratch else began
    taught = ", with a teacher" if settings.t_weights else ""
    lines.append((f"{began}{taught}, best of {settings.options.epochs} epochs", reached["valid"]))
    table = Table("network")
    table.add_column("mAP@0.5", justify="right")
    for name, value in lines:
        table.add_row(name, percent(value))
    show(f"validation images, compared with the pruning run of {settings.report}", table)


def _before(settings: RunSettings, parameters: int) -> list[tuple[str, float]]:
    """The unpruned and the pruned network and their mAP, if evaluated in the same way; else nothing."""
    try:
        report = read_report(settings.report) if settings.report else {}
        judged = Path(report["arguments"]["data"]).resolve(), tuple(report["image_size"])
        lines = [("unpruned", report["before"]["map50"]), ("pruned", report["compact"]["map50"])]
        is_this = report["after"]["parameters"] == parameters
    except (ToolkitError, KeyError, TypeError):
        return []
    same = is_this and judged == (settings.data.resolve(), tuple(settings.options.image_size))
    return lines if same and all(isinstance(value, float) for _, value in lines) else []


def _next(result: TrainingResult) -> tuple[str, ...]:
    settings = result.settings
    if not settings.options.s:
        files = InputFiles(settings.cfg, None, result.best, is_demo=False)
        return "python export.py", files.options()
    is_demo = settings.is_demo and settings.output == DemoFiles.here().weights.parent
    files = InputFiles(settings.cfg, settings.data, result.last, is_demo)
    return "python slim_prune.py", files.options(), "--global_percent 0.8 --layer_keep 0.01"


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
