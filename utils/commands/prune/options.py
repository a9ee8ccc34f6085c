"""Options of a pruning run: the strategy, its limits, and which of them exclude each other."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ...errors import ToolkitError
from ...options import (
    FRACTION,
    FRACTION_BELOW_ONE,
    NON_NEGATIVE_INT,
    POSITIVE_INT,
    Amount,
    amount,
    check_ranges,
    given,
    option,
)
from ...pruning.policies import Policy, WeakestBlocks, normal_threshold, shortcut_threshold, slim_threshold
from ...pruning.subject import Merge
from ...pruning.surgery import Folding
from ...runtimes.runtime import NAMES
from ..arguments import ImageSizeOptions, InputOptions, MachineOptions, arguments

Strategy = Literal["slim_prune", "prune", "shortcut_prune", "layer_prune", "layer_channel_prune"]

SCORES = "gamma, l1, l2, fpgm, group, taylor, random, or several joined by _x_ such as gamma_x_l1"
MERGES = ("union", "leader", "mean", "max", "norm")
COSTS = ("max_ms", "max_macs", "max_params", "max_mb")
LIMITS = (*COSTS, "min_map")
BUDGET = (*LIMITS, "iterative", "tune_epochs", "runtime", "latency_table")
_GLOBAL = ("global_percent", "layer_keep", "merge")
# strategy -> the options that it has beside the common ones
STRATEGY_OPTIONS: Mapping[Strategy, tuple[str, ...]] = MappingProxyType(
    {
        "slim_prune": (*_GLOBAL, *BUDGET),
        "prune": ("percent",),
        "shortcut_prune": ("percent",),
        "layer_prune": ("shortcuts",),
        "layer_channel_prune": ("shortcuts", *_GLOBAL),
    }
)
_STRATEGY_NAMES = {name for names in STRATEGY_OPTIONS.values() for name in names}
_UNDERSCORED = {"img_size", "layer_keep", "global_percent"}
# what --what-if uses, and what only says where and on what a command runs
_WHAT_IF = {
    "what_if", "img_size", "align", "min_channels", "keep_sections",
    "cfg", "weights", "data", "seed", "device", "workers", "threads", "command", "strategy",
}  # fmt: skip


def align(text: str) -> int | str:
    """Read a multiple of channels, or "auto"."""
    return "auto" if text == "auto" else POSITIVE_INT(text)


def sections(text: str) -> tuple[int, ...]:
    """Read numbers of sections, with ranges.

    >>> sections("0,12-14")
    (0, 12, 13, 14)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is not a section number or a range such as 12-15")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise argparse.ArgumentTypeError(f"{part!r} is an empty range; write the smaller number first")
        found += numbers
    return tuple(found)


def spelled(name: str) -> str:
    """An option as it is typed.

    >>> spelled("keep_sections"), spelled("layer_keep")
    ('--keep-sections', '--layer_keep')
    """
    return "--" + (name if name in _UNDERSCORED else name.replace("_", "-"))


@dataclass(frozen=True)
class BudgetOptions:
    """Limits, in place of a share of channels; they can be combined."""

    max_ms: Amount | None = option(
        None,
        "milliseconds per image on --runtime, measured; 50%% is half of the unpruned network's",
        amount,
        metavar="X",
        flags=("--max-ms",),
    )
    max_macs: Amount | None = option(
        None, "multiply-adds per image; 50%% as above", amount, metavar="X", flags=("--max-macs",)
    )
    max_params: Amount | None = option(
        None, "parameters; 50%% as above", amount, metavar="X", flags=("--max-params",)
    )
    max_mb: Amount | None = option(
        None, "MiB of the .weights file; 50%% as above", amount, metavar="X", flags=("--max-mb",)
    )
    min_map: float | None = option(
        None,
        "mAP@0.5 on the validation images, 0..1: alone, find the smallest network that reaches it; beside "
        "another limit, require it",
        FRACTION,
        metavar="X",
        flags=("--min-map",),
    )
    iterative: int = option(
        1,
        "number of rounds of pruning, recalibration and fine-tuning, each a part of the way to the limits",
        POSITIVE_INT,
        metavar="K",
    )
    tune_epochs: int = option(
        2,
        "epochs of fine-tuning in each round, with the unpruned network as teacher",
        POSITIVE_INT,
        metavar="N",
        flags=("--tune-epochs",),
    )
    runtime: str = option("onnxruntime", "runtime of --max-ms", choices=NAMES)
    latency_table: Path | None = option(
        None,
        "file written by latency.py --output (default: this machine's in runs/latency)",
        Path,
        metavar="FILE",
        flags=("--latency-table",),
    )

    @property
    def has_budget(self) -> bool:
        """Whether a limit takes the place of a share of channels."""
        return bool(given(self).keys() & set(LIMITS))


@dataclass(frozen=True)
class ChannelOptions:
    """Which channels a pruning may remove, whatever the strategy; align: None stands for the default."""

    align: int | str | None = option(
        None,
        "round widths up to multiples of N; auto: as the latency table says (default: 1, with --max-ms auto)",
        align,
        metavar="N",
    )
    min_channels: int = option(
        1,
        "least number of channels of every layer",
        POSITIVE_INT,
        metavar="N",
        flags=("--min-channels",),
    )
    keep_sections: tuple[int, ...] = option(
        (),
        "sections not to prune, such as 0,12-15 (default: none)",
        sections,
        metavar="LIST",
        flags=("--keep-sections",),
    )


@dataclass(frozen=True)
class StrategyOptions:
    """What the strategies are set by; `STRATEGY_OPTIONS` says which has which."""

    strategy: Strategy = "slim_prune"
    global_percent: float = option(
        0.8, "share of all channels to remove", FRACTION, flags=("--global_percent",)
    )
    layer_keep: float = option(0.01, "least share of its channels that every layer keeps", FRACTION)
    merge: Merge = option(
        "union",
        "which of several layers decide on a channel that a shortcut adds: any of them (union), the first "
        "(leader), or the mean, max or norm of their scores; with a budget, union means max",
        choices=MERGES,
    )
    percent: float = option(0.7, "share of the candidate channels to remove", FRACTION)
    shortcuts: int = option(8, "number of residual blocks to remove", POSITIVE_INT)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The strategy for the engine."""
        channels = slim_threshold(self.global_percent, self.layer_keep, self.merge)
        blocks = WeakestBlocks(self.shortcuts)
        found: Mapping[Strategy, tuple[Policy, ...]] = {
            "slim_prune": (channels,),
            "prune": (normal_threshold(self.percent),),
            "shortcut_prune": (shortcut_threshold(self.percent),),
            "layer_prune": (blocks,),
            "layer_channel_prune": (channels, blocks),
        }
        return found[self.strategy]


@dataclass(frozen=True)
class PruningOptions(
    StrategyOptions, BudgetOptions, ChannelOptions, ImageSizeOptions, InputOptions, MachineOptions
):
    """All options of a pruning run.

    `explain` and `what_if` are questions of the command line, which `prune` passes over.

    >>> PruningOptions(global_percent=0.5, max_macs=amount("50%"))
    Traceback (most recent call last):
        ...
    utils.errors.ToolkitError: --global_percent: a budget decides how much is removed; leave one of them out

    Raises:
        ToolkitError: a value is out of range, or an option has no effect beside the others.
    """

    score: str | None = option(
        None,
        f"importance of a channel: {SCORES} (default: gamma; for a budget taylor, with --data)",
    )
    classic: bool = option(False, "follow the rules published in 2019-20 exactly")
    explain: int | None = option(
        None,
        "print why channels of a section are removed or kept, and write nothing",
        NON_NEGATIVE_INT,
        metavar="SECTION",
    )
    what_if: float | None = option(
        None,
        "print what is left if this share of every layer is removed, from the cfg alone, and write nothing",
        FRACTION_BELOW_ONE,
        metavar="SHARE",
        flags=("--what-if",),
    )
    fold: Folding = option(
        "interior",
        "constants of removed channels: folded into the next layers, exact away from image borders "
        "(interior), exact at borders too, which keeps a few more channels (borders), or dropped (off)",
        choices=("interior", "borders", "off"),
    )
    recalibrate: int | None = option(
        None,
        "re-estimate the batch-norm statistics on N training images (default: 0, none; with --iterative 64)",
        NON_NEGATIVE_INT,
        metavar="N",
    )
    verify: Literal["full", "quick"] = option(
        "full",
        "check the written files with OpenCV and onnxruntime too (full), or only by reading them (quick)",
        choices=("full", "quick"),
    )
    report: bool = option(True, "write an HTML report", action=argparse.BooleanOptionalAction)
    no_eval: bool = option(False, "measure neither mAP nor latency, even with --data", flags=("--no-eval",))
    batch_size: int = option(8, "images per batch when evaluating", POSITIVE_INT, flags=("--batch-size",))
    output: Path | None = option(
        None, "folder of all output files (default: beside the inputs)", Path, metavar="DIR"
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.what_if is not None:
            _check_what_if(self)
            return
        _check_strategy(self)
        if self.classic:
            _check_classic(self)
        _check_budget(self)

    @property
    def images_to_recalibrate(self) -> int:
        """Training images for batch-norm statistics; 0 for none."""
        return self.recalibrate or 0

    def to_json(self) -> dict[str, Any]:
        """The options that the strategy has, by name."""
        own = STRATEGY_OPTIONS[self.strategy]
        other = {"strategy"} | (_STRATEGY_NAMES - set(own))
        values = {name: value for name, value in arguments(self).items() if name not in other}
        return values | {"recalibrate": self.images_to_recalibrate}


def _check_strategy(options: PruningOptions) -> None:
    """Refuse options of other strategies."""
    other = given(options).keys() & (_STRATEGY_NAMES - set(STRATEGY_OPTIONS[options.strategy]))
    if other:
        fact = f"no effect with strategy {options.strategy}"
        raise ToolkitError(_list(other), fact, "leave it out, or choose another strategy")


def _check_classic(options: PruningOptions) -> None:
    """Refuse what the published rules do not have."""
    values = given(options)
    other = [name for name in ("merge", "min_channels", "keep_sections", *LIMITS) if name in values]
    other += ["score"] if options.score not in (None, "gamma") else []
    other += ["align"] if options.align not in (None, 1) else []
    other += ["fold"] if options.fold == "borders" else []  # it keeps channels that are not in their masks
    if other:
        raise ToolkitError("--classic", f"cannot be combined with {_list(other)}", "leave one of them out")


def _check_budget(options: PruningOptions) -> None:
    """Refuse options that contradict a budget, and those that need one and have none."""
    values = given(options)
    if options.iterative > 1:
        _check_rounds(options)
    elif "tune_epochs" in values:
        raise ToolkitError("--tune-epochs", "without --iterative nothing is fine-tuned", "add --iterative K")
    if options.has_budget and options.merge == "leader":
        fact = "a budget weighs the score of a channel against its cost, so no single layer decides"
        raise ToolkitError("--merge leader", fact, "use union, mean, max or norm")
    if options.has_budget and "global_percent" in values:
        fact = "a budget decides how much is removed"
        raise ToolkitError("--global_percent", fact, "leave one of them out")
    is_timed = options.align == "auto" or options.max_ms is not None
    idle = [name for name in ("runtime", "latency_table") if name in values]
    if idle and not is_timed:
        fact = "only used by --max-ms and --align auto"
        raise ToolkitError(spelled(idle[0]), fact, "add one of them, or leave it out")


def _check_rounds(options: PruningOptions) -> None:
    if options.no_eval and options.min_map is not None:
        raise ToolkitError("--min-map", "mAP has to be measured", "leave --no-eval out")
    if options.classic:
        fact = "removes a given share of channels, --iterative prunes to a limit"
        raise ToolkitError("--classic", fact, "leave one of them out")
    if options.explain is not None:
        fact = "explains a single pruning, --iterative does several"
        raise ToolkitError("--explain", fact, "leave one of them out")


def _check_what_if(options: PruningOptions) -> None:
    """Refuse what --what-if does not use: it removes the same share of every layer, whatever the strategy."""
    if "shortcuts" in STRATEGY_OPTIONS[options.strategy]:
        fact = "is about channels, and this strategy removes whole blocks"
        raise ToolkitError("--what-if", fact, f"use slim_prune.py --what-if {options.what_if:g}")
    other = ["no_report" if name == "report" else name for name in given(options) if name not in _WHAT_IF]
    if other:
        fact = f"removes the same share of every layer, from the cfg alone; no effect: {_list(other)}"
        raise ToolkitError("--what-if", fact, "leave one of them out")
    if options.align == "auto":
        fact = "needs a latency table, and --what-if reads only the cfg"
        raise ToolkitError("--align auto", fact, "give a number")


def _list(names: Any) -> str:
    return ", ".join(spelled(name) for name in sorted(names))
