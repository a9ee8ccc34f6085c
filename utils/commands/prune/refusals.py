"""Options of a pruning that would do nothing beside the others are refused, with what they belong to."""

import argparse
import shlex

from ...errors import ToolkitError
from .options import LIMITS, has_budget

# what --what-if heeds, and what only says where and on what a command runs
_WHAT_IF = {
    "what-if", "cfg", "img-size", "align", "min-channels", "keep-sections",
    "weights", "data", "seed", "device", "workers", "threads",
}  # fmt: skip


def refuse_idle(args: argparse.Namespace) -> None:
    """Refuse options that would do nothing beside the others, and what the published rules do not have.

    Raises:
        ToolkitError: with the option, and what it belongs to.
    """
    if args.classic:
        _refuse_unpublished(args)
    if getattr(args, "iterative", 1) > 1 and args.no_eval and args.min_map is not None:
        raise ToolkitError("--min-map", "mAP has to be measured", "leave --no-eval out")
    if getattr(args, "iterative", 1) > 1 and args.classic:
        raise ToolkitError("--classic", "goes by a share, --iterative to a limit", "leave one of them out")
    if getattr(args, "iterative", 1) > 1 and args.explain is not None:
        raise ToolkitError(
            "--explain", "explains one pruning, --iterative does several", "leave one of them out"
        )
    if has_budget(args) and args.merge == "leader":
        fact = "a budget weighs channels against what they cost, no layer leads"
        raise ToolkitError("--merge leader", fact, "use union, mean, max or norm")
    if has_budget(args) and given(args, "global_percent"):
        raise ToolkitError("--global_percent", "a budget decides how much goes", "leave one of them out")
    if hasattr(args, "tune_epochs") and args.iterative == 1 and given(args, "tune_epochs"):
        raise ToolkitError("--tune-epochs", "nothing is fine-tuned in one go", "add --iterative K")
    timed = args.align == "auto" or getattr(args, "max_ms", None) is not None
    idle = [name for name in ("runtime", "latency_table") if not timed and given(args, name)]
    if hasattr(args, "max_ms") and idle:
        option = idle[0].replace("_", "-")
        raise ToolkitError(f"--{option}", "serves --max-ms and --align auto", "add one of them")


def refuse_beside_what_if(args: argparse.Namespace) -> None:
    """Refuse what --what-if does not heed: it cuts the same share of every layer, whatever the strategy.

    Raises:
        ToolkitError: with the options, or for a strategy that removes blocks.
    """
    if hasattr(args, "shortcuts"):
        fact = "speaks of channels, and this strategy removes whole blocks"
        raise ToolkitError("--what-if", fact, f"use slim_prune.py --what-if {args.what_if:g}")
    idle = [name for name in _typed(args) if name not in _WHAT_IF]
    if idle:
        options = ", ".join(f"--{name}" for name in dict.fromkeys(idle))
        fact = "takes the same share of every layer, from the cfg alone, and has no"
        raise ToolkitError("--what-if", f"{fact} {options}", "leave one of them out")


def given(args: argparse.Namespace, name: str) -> bool:
    """Whether an option was typed."""
    return name.replace("_", "-") in _typed(args)


def _typed(args: argparse.Namespace) -> list[str]:
    """The options that were typed, spelled with - and without what is before their name."""
    words = (word.partition("=")[0] for word in shlex.split(args.command))
    return [word[2:].replace("_", "-") for word in words if word.startswith("--")]


def _refuse_unpublished(args: argparse.Namespace) -> None:
    plain = {"score": "gamma", "merge": "union", "align": 1, "min_channels": 1, "keep_sections": ()}
    plain |= dict.fromkeys(LIMITS)
    other = [name for name, value in plain.items() if getattr(args, name, value) not in (value, None)]
    other += ["fold"] if args.fold == "borders" else []  # it keeps channels that are not in their masks
    if other:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise ToolkitError("--classic", f"has no {options}", "leave one of them out")
