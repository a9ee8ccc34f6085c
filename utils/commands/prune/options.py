"""The options that all pruning scripts share, and the scorer that they ask for."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ...darknet.model import Darknet
from ...data.loader import Batch, Loader
from ...errors import ToolkitError
from ...frontends.darknet.subject import classic_scores
from ...options import FRACTION, FRACTION_BELOW_ONE, NON_NEGATIVE_INT, POSITIVE_FLOAT, POSITIVE_INT
from ...pruning.scores import Scorer, named_scorer, random_scores, taylor_scores
from ...pruning.subject import LayerScores, Subject
from ...runtimes.choice import NAMES
from ...training.losses import LossWeights, yolo_loss
from ..arguments import Options, Parser, add_common, add_data, add_image_size, add_network

SCORES = "gamma, l1, l2, fpgm, group, taylor, random, or several joined by _x_ such as gamma_x_l1"
MERGES = ("union", "leader", "mean", "max", "norm")
# images that a Taylor score takes its gradients on
TAYLOR_IMAGES = 64
# and how many at a time: the absolute value is taken of each batch's, so small batches tell more
TAYLOR_BATCH = 2
COSTS = ("max_ms", "max_macs", "max_params", "max_mb")
LIMITS = (*COSTS, "min_map")
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Amount:
    """A limit as typed: so many, or a share of what the network has."""

    value: float
    is_share: bool

    def of(self, whole: float) -> float:
        """In the unit of `whole`."""
        return self.value * whole if self.is_share else self.value


def amount(text: str) -> Amount:
    """A limit: a number, with K, M or G behind it, or a percentage.

    >>> amount("50%"), amount("1.5G").value
    (Amount(value=0.5, is_share=True), 1500000000.0)
    """
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in {*_UNITS, "%"} else (text, "")
    value = POSITIVE_FLOAT(number) * _UNITS.get(unit, 0.01 if unit == "%" else 1)
    return Amount(value, unit == "%")


def prune_parser(manual: str | None, command: str) -> Parser:
    """The options that all pruning scripts share."""
    parser = Parser(manual, command)
    add_network(parser)
    add_data(parser)
    add_image_size(parser)
    _add_choice(parser.add_argument_group("what is kept"))
    _add_afterwards(parser.add_argument_group("after the cut"))
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=8, help="images at a time when evaluating")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="put all files there (default: beside inputs)"
    )
    add_common(parser)
    return parser


def _add_choice(group: Options) -> None:
    text = f"importance of a channel: {SCORES} (default: gamma; for a budget taylor, with --data)"
    group.add_argument("--score", help=text)
    add_align(group, note=" (default: 1, for --max-ms auto)")
    add_floors(group)
    group.add_argument("--classic", action="store_true", help="exactly the published rules of 2019-20")
    question = group.add_mutually_exclusive_group()
    text = "print why the channels of a section go or stay, and write nothing"
    question.add_argument("--explain", type=NON_NEGATIVE_INT, metavar="SECTION", help=text)
    text = "print what is left if this share of every layer goes, from the cfg alone, and write nothing"
    question.add_argument("--what-if", type=FRACTION_BELOW_ONE, metavar="SHARE", help=text)


def add_align(group: Options, default: int | None = None, note: str = "") -> None:
    """Add --align; `note` tells the default where it is None."""
    text = f"multiples of so many channels; auto: as a latency table says{note}"
    group.add_argument("--align", type=_align, default=default, metavar="N", help=text)


def add_floors(group: Options) -> None:
    """Add --min-channels and --keep-sections."""
    text = "every layer keeps at least so many"
    group.add_argument("--min-channels", type=POSITIVE_INT, default=1, metavar="N", help=text)
    text = "left whole, such as 0,12-15"
    group.add_argument("--keep-sections", type=sections, default=(), metavar="LIST", help=text)


def _add_afterwards(group: Options) -> None:
    text = "constants of removed channels: moved into the layers behind (interior), exactly at image borders "
    text += "too, which keeps a channel more here and there (borders), or dropped (off)"
    group.add_argument("--fold", choices=["interior", "borders", "off"], default="interior", help=text)
    text = "estimate the batch-norm statistics anew on N training images (0: leave them)"
    group.add_argument("--recalibrate", type=NON_NEGATIVE_INT, default=0, metavar="N", help=text)
    text = "compare the files with OpenCV and onnxruntime too (full), or only with themselves (quick)"
    group.add_argument("--verify", choices=["full", "quick"], default="full", help=text)
    group.add_argument(
        "--report", action=argparse.BooleanOptionalAction, default=True, help="write an HTML page of the run"
    )
    group.add_argument(
        "--no-eval", action="store_true", help="measure neither mAP nor latency, even with --data"
    )


def add_merge(parser: Parser) -> None:
    """Add --merge."""
    text = "what decides over channels that a shortcut adds: any of their writers (union), the first one "
    text += "(leader), or the mean, max or norm of their scores; in a budget union means max"
    parser.add_argument("--merge", choices=MERGES, default="union", help=text)


def add_budget(parser: Parser) -> None:
    """Add the limits, which take the place of a share of channels."""
    group = parser.add_argument_group("budgets, in place of a share; they may be combined")
    kinds = {
        "--max-ms": "milliseconds for one image on --runtime, measured",
        "--max-macs": "multiply-adds of one image",
        "--max-params": "learnable values",
        "--max-mb": "MiB of the .weights file",
    }
    for name, text in kinds.items():
        group.add_argument(name, type=amount, metavar="X", help=f"{text}; 50%% for half of what it is now")
    text = "mAP@0.5 on the valid list, 0..1: alone, the smallest network with it; beside a limit, required"
    group.add_argument("--min-map", type=FRACTION, metavar="X", help=text)
    text = "prune, recalibrate and fine-tune in so many rounds, each a part of the way to the limits"
    group.add_argument("--iterative", type=POSITIVE_INT, default=1, metavar="K", help=text)
    text = "epochs of fine-tuning in each round, taught by the unpruned network"
    group.add_argument("--tune-epochs", type=POSITIVE_INT, default=2, metavar="N", help=text)
    group.add_argument("--runtime", choices=NAMES, default="onnxruntime", help="what --max-ms is measured on")
    text = "that latency.py wrote with --output (default: this machine's in runs/latency)"
    group.add_argument("--latency-table", type=Path, metavar="FILE", help=text)


def budget_tag(args: argparse.Namespace) -> str:
    """What the names of the results begin with."""
    given = [(name[4:], getattr(args, name)) for name in COSTS if getattr(args, name) is not None]
    parts = [
        f"{100 * found.value:g}pct_{name}" if found.is_share else f"{_short(found.value)}{name}"
        for name, found in given
    ]
    return "_".join(["prune", *parts, *([f"map{args.min_map:g}"] if args.min_map is not None else [])])


def _short(value: float) -> str:
    """A number as one would type it.

    >>> _short(2e6), _short(1234567), _short(12.5)
    ('2M', '1234567', '12.5')
    """
    for unit, size in reversed(_UNITS.items()):
        if value >= size and value % (size / 10) == 0:
            return f"{value / size:g}{unit}"
    return f"{value:.0f}" if value >= 1000 else f"{value:g}"


def _align(text: str) -> int | str:
    return "auto" if text == "auto" else POSITIVE_INT(text)


def sections(text: str) -> tuple[int, ...]:
    """Numbers of sections, with ranges.

    >>> sections("0,12-14")
    (0, 12, 13, 14)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is not a section's number or a range such as 12-15")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise argparse.ArgumentTypeError(f"{part!r} is empty; write the smaller number first")
        found += numbers
    return tuple(found)


def has_budget(args: argparse.Namespace) -> bool:
    """Whether a limit was given in place of a share."""
    return any(getattr(args, name, None) is not None for name in LIMITS)


def scorer_of(args: argparse.Namespace, name: str, calibration: Callable[[], Loader] | None) -> Scorer:
    """The scorer of a name, or the published one for --classic.

    Args:
        args: the parsed options.
        name: of the score.
        calibration: opens training images, TAYLOR_IMAGES of them; None where there is no data set.

    Raises:
        PruningError: an unknown name.
        ToolkitError: a score that needs images, without a data set.
    """
    if args.classic:
        return classic_scores  # type: ignore[return-value]  # of Darknet's subjects only
    return named_score(name, args.seed, calibration)


def named_score(name: str, seed: int, calibration: Callable[[], Loader] | None) -> Scorer:
    """The scorer of a name; arguments and errors as for `scorer_of`, `seed` of random scores."""

    def taylor(subject: Subject) -> LayerScores:
        if calibration is None:
            raise ToolkitError("--score taylor", "takes gradients on training images", "add --data")
        return taylor_scores(calibration(), detection_loss)(subject)

    return named_scorer(name, {"taylor": taylor, "random": random_scores(seed)})


def detection_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The modern loss of a Darknet for a batch."""
    assert isinstance(model, Darknet)
    device = next(model.parameters()).device
    heads = model(batch.images.to(device))
    return yolo_loss(heads, batch.targets.to(device), model.head_specs, LossWeights()).total
