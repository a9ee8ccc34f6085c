"""What ladder.py prints: a table of the rungs of one score, or of several side by side; the knees."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from ...pruning.knee import has_knee, knee, steepest
from ..tables import decimals, multiply_adds, percent, show
from .rungs import Ladder, Rung

_HEAD = ("share", "as cut", "recali-\nbrated", "parameters", "MACs", "ms", "")


def show_ladder(ladder: Ladder, scores: Sequence[str], tolerance: float, title: str) -> None:
    """Print all of it."""
    title = f"{title}, mAP@0.5 on {ladder.unpruned.images} validation images"
    if len(scores) == 1:
        show(title, _rungs(ladder, scores[0], tolerance))
    else:
        show(title, _scores(ladder, scores, tolerance))
        show(f"The knees: at most {100 * tolerance:g} points lost", _knees(ladder, scores, tolerance))
    for score in scores:
        for line in _findings(ladder, score, tolerance):
            print(line if len(scores) == 1 else f"{score}: {line}")


def _rungs(ladder: Ladder, score: str, tolerance: float) -> Table:
    table = _table(*_HEAD)
    curve = ladder.curve(score)
    for row in (ladder.unpruned, *ladder.rungs(score)):
        figures = [_points(row.as_cut), _points(row.recalibrated)]
        mark = _mark(row.share, curve, tolerance)
        table.add_row(f"{row.share:g}", *figures, *_costs(row, ladder), mark)
    return table


def _scores(ladder: Ladder, scores: Sequence[str], tolerance: float) -> Table:
    """The better mAP of each rung, a column a score; * marks the knee."""
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
    table = _table("score", *_HEAD[:-1])
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
        fact = f"no knee: the unpruned network has mAP {percent(curve[0.0])}"
        yield f"{fact}, so no share can be told good; train it first"
        return
    if not share:
        yield f"no rung keeps mAP within {100 * tolerance:g} points: train with -sr first"
    elif share == last:
        yield f"no rung loses more than {100 * tolerance:g} points: add --rungs above {last:g}"
    else:
        yield f"knee: {share:g}, mAP {percent(curve[share])} of {percent(curve[0.0])}"
    if drop := steepest(curve):
        yield (
            f"steepest drop: {percent(curve[drop.before])} at {drop.before:g}, "
            f"{percent(curve[drop.after])} at {drop.after:g}"
        )
