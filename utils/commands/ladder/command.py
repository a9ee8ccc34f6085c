"""Find how much to prune: shares from 0.1 to 0.95 are pruned and measured, and the knee is marked.

    python ladder.py --cfg cfg/my.cfg --weights weights/last.pt --data data/my.data
    python ladder.py ... --score gamma l1 taylor random     # compare scores

At each share (rung) the pruned network is evaluated on a sample of the validation images, as cut and with
re-estimated batch-norm statistics (--recalibrate). More rungs are measured between the last good and the
first bad one, and where mAP falls most steeply, until they are --refine apart. The knee is the largest share
that keeps mAP within --tolerance of the unpruned network's, by the better of the two figures. Finally the
latency of all rungs is measured, interleaved with the unpruned network.

Files: <weights>_ladder.csv, .png and .json. An interrupted run, or one with more rungs or scores, computes
only what is missing from the CSV file; with a changed option everything is recomputed.

    --strategy  slim, normal (as prune.py) or shortcut (as shortcut_prune.py)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.table import Table

from ...errors import ToolkitError
from ...options import FRACTION, FRACTION_BELOW_ONE, check_ranges, from_arguments, given, option
from ...pruning.knee import has_knee, knee, steepest
from ...pruning.policies import normal_threshold, shortcut_threshold, slim_threshold
from ...pruning.subject import Merge, Policy
from ...pruning.surgery import Folding
from ...reporting.curves import Point, plot_ladders
from ...runtimes.runtime import NAMES, Runtime, find_runtime
from ..arguments import arguments, next_command, provenance, write_json
from ..output import bar, decimals, multiply_adds, percent, show
from ..prune.options import MERGES, SCORES, ChannelOptions, align, spelled
from ..prune.sweep import (
    SHARE,
    Sweep,
    SweepOptions,
    as_typed_options,
    identity,
    output_files,
    pruning_options,
    settings,
    sweep_arguments,
    sweep_parser,
)
from .rungs import Ladder, Rung

# strategy -> its script and the option there for the share
_SCRIPTS = {
    "slim": ("slim_prune.py", "global_percent"),
    "normal": ("prune.py", "percent"),
    "shortcut": ("shortcut_prune.py", "percent"),
}
# options that change which network a rung is
_CUT = ("layer_keep", "merge", "fold", "align", "min_channels", "keep_sections")
_SLIM = ("layer_keep", "merge")  # options of this strategy only
_KEYS = ("strategy", *_CUT, "recalibrate", "eval_images", "img_size", "batch_size", "seed")

_TITLES = ("share", "as cut", "recali-\nbrated", "parameters,\nleft", "MACs,\nleft", "ms,\nleft", "")


@dataclass(frozen=True)
class LadderOptions(SweepOptions, ChannelOptions):
    """All options of a ladder."""

    strategy: Literal["slim", "normal", "shortcut"] = option(
        "slim", "how channels are chosen", choices=tuple(_SCRIPTS)
    )
    score: Sequence[str] = option(
        ("gamma",),
        f"importance of a channel: {SCORES}; several are compared (default: gamma)",
        nargs="+",
        metavar="SCORE",
    )
    rungs: Sequence[float] = option(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        "shares of the channels to remove (default: 0.1 0.2 ... 0.9 0.95)",
        SHARE,
        nargs="+",
        metavar="SHARE",
    )
    refine: float = option(
        0.01,
        "distance of the rungs around the knee and the steepest drop (0: no extra rungs)",
        FRACTION_BELOW_ONE,
        metavar="SHARE",
    )
    layer_keep: float = option(
        0.01, "slim: least share of its channels that every layer keeps", FRACTION, flags=("--layer_keep",)
    )
    merge: Merge = option(
        "union",
        "slim: which layers decide on channels that a shortcut adds, see slim_prune.py",
        choices=MERGES,
    )
    fold: Folding = option(
        "interior",
        "constants of removed channels, see slim_prune.py",
        choices=("interior", "borders", "off"),
    )
    align: int | str = option(
        1, "round widths up to multiples of N; auto: as the latency table says", align, metavar="N"
    )
    runtime: str = option("onnxruntime", "where latency is measured", choices=(*NAMES, "none"))

    def __post_init__(self) -> None:
        check_ranges(self)
        idle = [spelled(name) for name in _SLIM if name in given(self)]
        if self.strategy != "slim" and idle:
            fact = f"no effect with --strategy {self.strategy}"
            raise ToolkitError(", ".join(idle), fact, "leave it out, or use slim")
        if self.align == "auto" and self.runtime == "none":
            raise ToolkitError("--align auto", "needs a latency table", "name a --runtime, or give a number")

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of scores, each once."""
        return tuple(dict.fromkeys(self.score))

    def policy(self, share: float) -> Policy:
        """The strategy at a share."""
        if self.strategy == "slim":
            return slim_threshold(share, self.layer_keep, self.merge)
        return normal_threshold(share) if self.strategy == "normal" else shortcut_threshold(share)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_ladder(ladder_options(argv))


def ladder_options(argv: Sequence[str] | None = None) -> LadderOptions:
    """The options of a command line."""
    parser = sweep_parser(__doc__, "ladder", LadderOptions, "the ladder")
    return from_arguments(LadderOptions, parser.parse_args(argv))


def run_ladder(options: LadderOptions) -> Ladder:
    """Measure the ladder; print the table, write CSV, plot and JSON.

    Raises:
        ToolkitError: something given cannot be used.
    """
    runtime = None if options.runtime == "none" else _runtime(options.runtime)
    sweep = _opened(options)
    options = replace(options, score=list(options.scores), align=sweep.job.align)
    table, picture, data = output_files(sweep.job, "ladder")
    mark = (identity(sweep.job), settings(options, _KEYS))
    ladder = Ladder(sweep, table, options.policy, mark)
    ladder.climb(options.scores, options.rungs, options.tolerance, options.refine)
    size = sweep.job.image_size
    if runtime is not None:
        ladder.time(options.scores, runtime, size)
    title = f"{sweep.job.project.needed('weights').name} at {size[1]}x{size[0]}"
    show_ladder(ladder, options.scores, options.tolerance, title)
    _plot(ladder, options, picture, title)
    results = {"arguments": sweep_arguments(options, sweep.job), **_results(ladder, options)}
    write_json(data, provenance(options) | results)
    print(f"written: {table}, {picture}, {data}")
    next_command(*_next(sweep, ladder, options))
    return ladder


def _opened(options: LadderOptions) -> Sweep:
    auto = {"runtime": options.runtime} if options.align == "auto" else {}
    pruning = pruning_options(
        options,
        align=options.align,
        min_channels=options.min_channels,
        keep_sections=options.keep_sections,
        fold=options.fold,
        **auto,
    )
    return Sweep.opened(options, pruning, bar)


def _runtime(name: str) -> Runtime:
    """The runtime; a missing package is reported before any work is done."""
    runtime = find_runtime(name)
    _ = runtime.version
    return runtime


def _results(ladder: Ladder, options: LadderOptions) -> dict[str, object]:
    """The figures of the JSON file."""
    found = {}
    for score in options.scores:
        curve = ladder.curve(score)
        found[score] = {
            "knee": knee(curve, options.tolerance),
            "steepest": steepest(curve),
            "rungs": ladder.rungs(score),
        }
    return {"unpruned": ladder.unpruned, "scores": found}


def _plot(ladder: Ladder, options: LadderOptions, path: Path, title: str) -> None:
    curves = {score: ladder.rungs(score) for score in options.scores}
    plot_ladders(
        _point(ladder.unpruned, ladder),
        {score: [_point(row, ladder) for row in rungs] for score, rungs in curves.items()},
        {score: knee(ladder.curve(score), options.tolerance) for score in options.scores},
        options.tolerance,
        path,
        title=f"{title}, {ladder.unpruned.images} images",
        runtime=options.runtime,
    )


def _point(row: Rung, ladder: Ladder) -> Point:
    sizes = (row.parameters, row.macs, ladder.milliseconds(row))
    return Point(row.share, row.as_cut, row.recalibrated, *sizes)


def _next(sweep: Sweep, ladder: Ladder, options: LadderOptions) -> tuple[str, ...]:
    """Pruning at the knee; without a knee, the sparse training that makes one.

    A network without any mAP has to be trained first.
    """
    project = sweep.job.project
    best = cheapest(ladder, options.scores, options.tolerance)
    if not has_knee({0.0: ladder.unpruned.as_cut}):
        return "python train.py", project.options()
    if best is None:
        candidates = f"--prune {int(options.strategy != 'normal')}"
        return "python train.py", project.options(), "-sr --s 0.001", candidates
    script, share = _SCRIPTS[options.strategy]
    names = [name for name in _CUT if options.strategy == "slim" or name not in _SLIM]
    shown = (given(options).keys() | {"layer_keep"}) & {*names} | {"img_size"}
    words = {name: value for name, value in arguments(options).items() if name in shown}
    words |= {"score": best.score} if best.score != "gamma" else {}
    words |= {"recalibrate": options.recalibrate} if best.best > best.as_cut else {}
    return f"python {script}", project.options(), f"--{share} {best.share:g}", as_typed_options(words)


def cheapest(ladder: Ladder, scores: Sequence[str], tolerance: float) -> Rung | None:
    """Of the scores' knees the one with the fewest multiply-adds; None where no score has a knee."""
    knees = [
        row
        for score in scores
        for row in ladder.rungs(score)
        if row.share == knee(ladder.curve(score), tolerance)
    ]
    return min(knees, key=lambda row: row.macs, default=None)


def show_ladder(ladder: Ladder, scores: Sequence[str], tolerance: float, title: str) -> None:
    """Print the rungs of one score, or several scores side by side; then the knees."""
    title = f"{title}, mAP@0.5 in % on {ladder.unpruned.images} validation images"
    if len(scores) == 1:
        show(title, _rungs(ladder, scores[0], tolerance))
    else:
        show(title, _scores(ladder, scores, tolerance))
        show(f"Knees: at most {100 * tolerance:g} points of mAP lost", _knees(ladder, scores, tolerance))
    for score in scores:
        for line in _findings(ladder, score, tolerance):
            print(line if len(scores) == 1 else f"{score}: {line}")


def _rungs(ladder: Ladder, score: str, tolerance: float) -> Table:
    table = _table(*_TITLES)
    curve = ladder.curve(score)
    for row in (ladder.unpruned, *ladder.rungs(score)):
        figures = [_points(row.as_cut), _points(row.recalibrated)]
        mark = _mark(row.share, curve, tolerance)
        table.add_row(f"{row.share:g}", *figures, *_costs(row, ladder), mark)
    return table


def _scores(ladder: Ladder, scores: Sequence[str], tolerance: float) -> Table:
    """The better mAP of each rung in per cent, one column per score; * marks the knee."""
    table = _table("share", *scores)
    curves = {score: ladder.curve(score) for score in scores}
    for share in sorted({share for curve in curves.values() for share in curve}):
        cells = []
        for curve in curves.values():
            star = "* " if share and share == knee(curve, tolerance) else ""
            cells.append(star + _points(curve[share]) if share in curve else "")
        table.add_row(f"{share:g}", *cells)
    return table


def _knees(ladder: Ladder, scores: Sequence[str], tolerance: float) -> Table:
    table = _table("score", *_TITLES[:-1])
    for score in scores:
        share = knee(ladder.curve(score), tolerance)
        row = next((row for row in ladder.rungs(score) if row.share == share), ladder.unpruned)
        figures = [_points(row.as_cut), _points(row.recalibrated)]
        table.add_row(score, f"{share:g}" if share else "none", *figures, *_costs(row, ladder))
    return table


def _table(*names: str) -> Table:
    table = Table()
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _points(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _costs(row: Rung, ladder: Ladder) -> list[str]:
    unpruned, ms = ladder.unpruned, ladder.milliseconds(row)
    places = 0 if unpruned.ms is None else min(3, decimals(unpruned.ms, 3))  # for 80 columns
    return [
        f"{multiply_adds(row.parameters, unpruned.parameters)} {_part(row.parameters / unpruned.parameters)}",
        f"{multiply_adds(row.macs, unpruned.macs)} {_part(row.macs / unpruned.macs)}",
        "" if ms is None or row.slowness is None else f"{ms:.{places}f} {_part(row.slowness)}",
    ]


def _part(ratio: float) -> str:
    return f"{ratio:4.0%}"


def _mark(share: float, curve: dict[float, float], tolerance: float) -> str:
    drop = steepest(curve)
    if not share and not has_knee(curve):
        return "no mAP"
    if share and share == knee(curve, tolerance):
        return "knee"
    return "cliff" if drop is not None and share == drop.after else ""


def _findings(ladder: Ladder, score: str, tolerance: float) -> Iterable[str]:
    curve = ladder.curve(score)
    share, last = knee(curve, tolerance), max(curve)
    if not has_knee(curve):
        yield f"no knee: the unpruned network has mAP {percent(curve[0.0])}; train it first"
        return
    if not share:
        yield f"no rung keeps mAP within {100 * tolerance:g} points: train with -sr first"
    elif share == last:
        yield f"all rungs lose at most {100 * tolerance:g} points: add --rungs above {last:g}"
    else:
        yield f"knee: {share:g}, mAP {percent(curve[share])} of {percent(curve[0.0])}"
    if drop := steepest(curve):
        yield (
            f"steepest drop: {percent(curve[drop.before])} at {drop.before:g}, "
            f"{percent(curve[drop.after])} at {drop.after:g}"
        )
