"""Find the share of channels to prune: rungs from 0.1 to 0.95, each measured, with the knee marked.

    python ladder.py --cfg cfg/my.cfg --weights weights/last.pt --data data/my.data
    python ladder.py ... --score gamma l1 taylor random     # which score climbs highest?

The network is pruned at every rung, evaluated on a sample of the validation images as it was cut, and again
with batch-norm statistics of its own (--recalibrate). Between the last good rung and the first bad one, and
where mAP falls most steeply, more rungs are measured until they are --refine apart. The knee is the largest
share that keeps mAP within --tolerance of the unpruned network's, by the better of the two figures. At the
end the rungs' latencies are measured, in turns with the unpruned network.

Files: <weights>_ladder.csv, .png and .json. A run that is broken off, or one with more rungs or scores,
computes only what the CSV file lacks; a changed option computes anew.

    --strategy  slim, normal (as prune.py) or shortcut (as shortcut_prune.py)
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...errors import ToolkitError
from ...options import FRACTION, FRACTION_BELOW_ONE
from ...pruning.knee import has_knee, knee, steepest
from ...pruning.policies import normal_threshold, shortcut_threshold, slim_threshold
from ...pruning.subject import Policy
from ...reporting.curves import Point, plot_ladders
from ...runtimes.choice import NAMES, find_runtime
from ...runtimes.runtime import Runtime
from ..arguments import Parser, arguments, next_command, prepare, provenance, write_json
from ..prune.experiment import (
    Trials,
    add_scores,
    add_widths,
    identity,
    options,
    outputs,
    settings,
    trial_parser,
)
from ..prune.options import add_merge
from ..prune.refusals import given
from . import tables
from .rungs import Ladder, Rung

_RUNGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# strategy -> its script and what that calls the share
_SCRIPTS = {
    "slim": ("slim_prune.py", "global_percent"),
    "normal": ("prune.py", "percent"),
    "shortcut": ("shortcut_prune.py", "percent"),
}
# options that change the figures of a rung
_CUT = ("layer_keep", "merge", "fold", "align", "min_channels", "keep_sections")
_SLIM = ("layer_keep", "merge")  # options of this strategy alone
_KEYS = ("strategy", *_CUT, "recalibrate", "eval_images", "img_size", "batch_size", "seed")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_ladder(ladder_parser().parse_args(argv))


def ladder_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = trial_parser(__doc__, "ladder")
    group = parser.add_argument_group("the ladder")
    group.add_argument("--strategy", choices=_SCRIPTS, default="slim", help="what is pruned at each rung")
    add_scores(group, several=True)
    group.add_argument(
        "--rungs", nargs="+", type=_share, default=_RUNGS, metavar="SHARE", help="shares to remove"
    )
    text = "measure more rungs around the knee and the steepest drop, so far apart (0: none)"
    group.add_argument("--refine", type=FRACTION_BELOW_ONE, default=0.01, metavar="SHARE", help=text)
    text = "slim: least share that a layer keeps"
    group.add_argument("--layer_keep", type=FRACTION, default=0.01, help=text)
    add_merge(parser)
    text = "constants of removed channels: moved on (interior), exactly (borders), or dropped (off)"
    group.add_argument("--fold", choices=["interior", "borders", "off"], default="interior", help=text)
    add_widths(group)
    text = "where latency is measured"
    group.add_argument("--runtime", choices=(*NAMES, "none"), default="onnxruntime", help=text)
    return parser


def _share(text: str) -> float:
    share = FRACTION_BELOW_ONE(text)
    if not share:
        raise argparse.ArgumentTypeError(f"{text!r} is the unpruned network, which is measured anyway")
    return share


def run_ladder(args: argparse.Namespace) -> Ladder:
    """Climb as the command line says; print the table, write CSV, plot and JSON.

    Raises:
        ToolkitError: something given cannot be used.
    """
    _refuse_idle(args)
    device = prepare(args)
    args.score = list(dict.fromkeys(args.score))
    runtime = None if args.runtime == "none" else _runtime(args.runtime)
    trials = Trials.opened(args, device)
    table, picture, data = outputs(trials.job, "ladder")
    mark = (identity(trials.job), settings(args, _KEYS))
    ladder = Ladder(trials, table, lambda share: _policy(args, share), mark)
    ladder.climb(args.score, args.rungs, args.tolerance, args.refine)
    if runtime is not None:
        ladder.time(args.score, runtime, trials.job.image_size)
    size = trials.job.image_size
    title = f"{trials.job.project.needed('weights').name} at {size[1]}x{size[0]}"
    tables.show_ladder(ladder, args.score, args.tolerance, title)
    _plot(ladder, args, picture, title)
    write_json(data, provenance(args) | {"arguments": arguments(args)} | _results(ladder, args))
    print(f"written: {table}, {picture}, {data}")
    next_command(*_next(trials, ladder))
    return ladder


def _refuse_idle(args: argparse.Namespace) -> None:
    if args.strategy != "slim" and (idle := [name for name in _SLIM if given(args, name)]):
        options = ", ".join(f"--{name}" for name in idle)
        raise ToolkitError(
            options, f"does nothing beside --strategy {args.strategy}", "leave it out, or take slim"
        )
    if args.align == "auto" and args.runtime == "none":
        raise ToolkitError(
            "--align auto", "asks a runtime's latency table", "name a --runtime, or give a number"
        )


def _runtime(name: str) -> Runtime:
    """The runtime; what is missing for it is told before any work is done."""
    runtime = find_runtime(name)
    _ = runtime.version
    return runtime


def _policy(args: argparse.Namespace, share: float) -> Policy:
    if args.strategy == "slim":
        return slim_threshold(share, args.layer_keep, args.merge)
    return normal_threshold(share) if args.strategy == "normal" else shortcut_threshold(share)


def _results(ladder: Ladder, args: argparse.Namespace) -> dict[str, object]:
    """What the JSON file tells beside its origin."""
    found = {}
    for score in args.score:
        curve = ladder.curve(score)
        found[score] = {
            "knee": knee(curve, args.tolerance),
            "steepest": steepest(curve),
            "rungs": ladder.rungs(score),
        }
    return {"unpruned": ladder.unpruned, "scores": found}


def _plot(ladder: Ladder, args: argparse.Namespace, path: Path, title: str) -> None:
    curves = {score: ladder.rungs(score) for score in args.score}
    plot_ladders(
        _point(ladder.unpruned, ladder),
        {score: [_point(row, ladder) for row in rungs] for score, rungs in curves.items()},
        {score: knee(ladder.curve(score), args.tolerance) for score in args.score},
        args.tolerance,
        path,
        title=f"{title}, {ladder.unpruned.images} images",
        runtime=args.runtime,
    )


def _point(row: Rung, ladder: Ladder) -> Point:
    sizes = (row.parameters, row.macs, ladder.milliseconds(row))
    return Point(row.share, row.as_cut, row.recalibrated, *sizes)


def _next(trials: Trials, ladder: Ladder) -> tuple[str, ...]:
    """The pruning at the knee; where there is none, the sparse training that makes one.

    A network that finds nothing has to learn something first.
    """
    args, project = trials.job.args, trials.job.project
    best = cheapest(ladder, args.score, args.tolerance)
    if not has_knee({0.0: ladder.unpruned.as_cut}):
        return "python train.py", project.options()
    if best is None:
        return (
            "python train.py",
            project.options(),
            "-sr --s 0.001",
            f"--prune {int(args.strategy != 'normal')}",
        )
    script, share = _SCRIPTS[args.strategy]
    words = {name: value for name, value in arguments(args).items() if name in (*_CUT, "img_size")}
    plain = {"merge": "union", "fold": "interior", "align": 1, "min_channels": 1}
    words = {name: value for name, value in words.items() if plain.get(name) != value}
    if args.strategy != "slim":
        words = {name: value for name, value in words.items() if name not in _SLIM}
    words |= {"score": best.score} if best.score != "gamma" else {}
    words |= {"recalibrate": args.recalibrate} if best.best > best.as_cut else {}
    return f"python {script}", project.options(), f"--{share} {best.share:g}", options(words)


def cheapest(ladder: Ladder, scores: Sequence[str], tolerance: float) -> Rung | None:
    """Of the scores' knees the one with the fewest multiply-adds; None where none has a knee."""
    knees = [
        row
        for score in scores
        for row in ladder.rungs(score)
        if row.share == knee(ladder.curve(score), tolerance)
    ]
    return min(knees, key=lambda row: row.macs, default=None)
