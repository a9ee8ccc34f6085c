"""The control of pruning: the pruned network trained from random weights (arXiv 1810.05270).

    e   for the same epochs
    b   for the same multiply-adds: epochs x those before / after pruning

If it gets as far as the fine-tuned one, what pruning found is the architecture, not the weights.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

from ...darknet.model import Darknet
from ...errors import ToolkitError
from ...profiling import count_parameters
from ...training.options import TrainingOptions
from ..arguments import Options
from ..results import read_report
from ..tables import multiply_adds, percent, show
from .options import Run, choose_options

Scratch = Literal["e", "b"]


def add_scratch(group: Options) -> None:
    """Add --scratch."""
    text = (
        "train the pruned network from random weights, as a control: e for the same epochs, b for the same "
        "multiply-adds, with the figures in the .json beside --weights, which are not loaded"
    )
    group.add_argument("--scratch", choices=get_args(Scratch), help=text)


def refuse_idle_scratch(args: argparse.Namespace) -> None:
    """Raise ToolkitError where --scratch means nothing, or another option beside it."""
    if not args.scratch:
        return
    if not (args.weights or args.report):
        fact = "is the control of a pruning run, and none is named"
        remedy = "give the pruned network's --weights, which are not loaded, or leave it out"
        raise ToolkitError("--scratch", fact, remedy)
    typed = [name for name in ("cutoff", "weights_classes") if getattr(args, name) is not None]
    if typed:
        raise ToolkitError(
            f"--{', --'.join(typed)}", "--scratch loads no weights", "leave out one of the two"
        )


def described(scratch: Scratch | None, weights: Path | None) -> str:
    """What the table of a run says of its weights."""
    if not scratch:
        return str(weights or "none, from scratch")
    not_loaded = f"; {weights} is not loaded" if weights else ""
    return f"none, from scratch (--scratch {scratch}){not_loaded}"


def choose_scratch_options(
    args: argparse.Namespace, model: Darknet, report: Path | None
) -> tuple[TrainingOptions, dict[str, tuple[object, str]]]:
    """As `choose_options`, with the epochs of --scratch, and with them what is counted in epochs.

    Args:
        args: the command line.
        model: to train.
        report: of the pruning run.

    Raises:
        ToolkitError: the report is missing, or is not this network's.
    """
    options, table = choose_options(args, model.network)
    if args.scratch != "b":
        return options, table
    if report is None:
        raise ToolkitError(
            "--scratch b", "there is no report of a pruning run", "give --report, the run's .json"
        )
    work = Work.of(read_report(report), report)
    if work.parameters != count_parameters(model):
        fact = f"is of a network of {work.parameters:,} parameters"
        raise ToolkitError(
            report, f"{fact}, the cfg's has {count_parameters(model):,}", "give the report of this one"
        )
    longer = argparse.Namespace(**{**vars(args), "epochs": work.epochs(options.epochs)})
    more, table = choose_options(longer, model.network)
    shares = f"{multiply_adds(work.before)} / {multiply_adds(work.after)}"
    table["epochs"] = (more.epochs, f"scratch b: {options.epochs} x {shares}")
    return more, table


def show_pruned(run: Run, parameters: int, reached: Mapping[str, float]) -> None:
    """Print what pruning left beside what training made of it, if a pruning run is where this one began.

    Args:
        run: that has ended.
        parameters: of its network.
        reached: mAP@0.5 as a fraction of its best network, by split.
    """
    lines = _before(run, parameters)
    if not lines or "valid" not in reached:
        return
    began = "trained sparsely" if run.options.s else "fine-tuned"
    began = f"from random weights (--scratch {run.scratch})" if run.scratch else began
    taught = ", with a teacher" if run.t_weights else ""
    lines.append((f"{began}{taught}, best of {run.options.epochs} epochs", reached["valid"]))
    table = Table("network")
    table.add_column("mAP@0.5", justify="right")
    for name, value in lines:
        table.add_row(name, percent(value))
    show(f"validation images, beside the pruning of {run.report}", table)


def _before(run: Run, parameters: int) -> list[tuple[str, float]]:
    """The unpruned and the pruned network and their mAP, judged as this run's was; else nothing."""
    try:
        report = read_report(run.report) if run.report else {}
        judged = Path(report["arguments"]["data"]).resolve(), tuple(report["image_size"])
        lines = [("unpruned", report["before"]["map50"]), ("pruned", report["compact"]["map50"])]
        is_this = report["after"]["parameters"] == parameters
    except (ToolkitError, KeyError, TypeError):
        return []
    same = is_this and judged == (run.data.resolve(), tuple(run.options.image_size))
    return lines if same and all(isinstance(value, float) for _, value in lines) else []


@dataclass(frozen=True)
class Work:
    """Multiply-adds of an image before and after a pruning run, and the parameters left."""

    before: int
    after: int
    parameters: int

    @classmethod
    def of(cls, report: Mapping[str, Any], source: Path) -> "Work":
        """From the JSON of a pruning run; ToolkitError where it has no such figures."""
        try:
            before, after = report["before"]["macs"], report["after"]["macs"]
            found = cls(int(before), int(after), int(report["after"]["parameters"]))
        except (KeyError, TypeError, ValueError) as error:
            fact = f"has no multiply-adds before and after ({error!r})"
            raise ToolkitError(source, fact, "give the .json that a pruning run wrote") from error
        if not 0 < found.after <= found.before:
            fact = f"{found.before:,} multiply-adds before, {found.after:,} after"
            raise ToolkitError(source, fact, "give the .json that a pruning run wrote")
        return found

    def epochs(self, whole: int) -> int:
        """Epochs that cost what `whole` epochs of the unpruned network do.

        >>> Work(300, 120, 1).epochs(10)
        25
        """
        return round(whole * self.before / self.after)
