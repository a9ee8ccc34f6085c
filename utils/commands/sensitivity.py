"""Find what must not be cut: each group of layers pruned alone, at several ratios, and evaluated.

    python sensitivity.py --cfg cfg/my.cfg --weights weights/last.pt --data data/my.data
    python sensitivity.py ... --ratios .3 .6 .9 --score l1

A group is the layers that have to have the same width: one, or all that a shortcut ties. The worst channels
of one group at a time are removed, batch-norm statistics are estimated anew (--recalibrate), and mAP is
measured on a sample of the validation images. What is lost is counted from the unpruned network with
statistics estimated in the same way. The groups that lose most are named for --keep-sections.

Files: <weights>_sensitivity.csv, .png (a heat map) and .json. A run that is broken off, or one with more
ratios, computes only what the CSV file lacks; a changed option computes anew.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from tqdm import tqdm

from ..errors import PruningError
from ..frontends.darknet.subject import section_index
from ..options import FRACTION_BELOW_ONE, POSITIVE_INT
from ..pruning.channels import ChannelGraph
from ..pruning.policies import Group, groups, keep_best
from ..pruning.scores import unit_scores
from ..pruning.subject import ChannelPlan, LayerScores, Policy, Subject
from ..reporting.curves import plot_sensitivity
from .arguments import Parser, arguments, next_command, prepare, provenance, write_json
from .csv_results import read_rows, write_rows
from .prune.experiment import Trials, add_scores, identity, options, outputs, settings, trial_parser
from .prune.options import add_align
from .tables import percent, show

_RATIOS = (0.2, 0.4, 0.6, 0.8)
_KEYS = ("score", "align", "recalibrate", "eval_images", "img_size", "batch_size", "seed")
_AT_ONCE = 7  # columns of figures that fit into 80 characters beside the sections
_NAMED = 4  # one group in so many is named for --keep-sections, unless --most says how many


@dataclass(frozen=True)
class Cut:
    """A line of the CSV file.

    Attributes:
        network: digits of the files that it was computed from.
        settings: the options that it was computed with.
        sections: of the group, separated by commas; empty for the unpruned network.
        ratio: of the group's channels that were to go; 0 for the unpruned network.
        images: of the mini-val.
        channels: of the group.
        removed: how many of them are gone.
        map50: mAP@0.5, a fraction, recalibrated where that was asked for.
        parameters: learnable values of the whole network.
        macs: multiply-adds of one image.
    """

    network: str
    settings: str
    sections: str
    ratio: float
    images: int
    channels: int
    removed: int
    map50: float
    parameters: int
    macs: int


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_sensitivity(sensitivity_parser().parse_args(argv))


def sensitivity_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = trial_parser(__doc__, "sensitivity")
    group = parser.add_argument_group("the cuts")
    text = "of each group, to remove"
    group.add_argument(
        "--ratios", nargs="+", type=_ratio, default=_RATIOS, metavar="SHARE", help=f"shares {text}"
    )
    add_scores(group, several=False)
    add_align(group, default=1)
    text = "name at most N groups for --keep-sections (default: a quarter of them)"
    group.add_argument("--most", type=POSITIVE_INT, metavar="N", help=text)
    return parser


def _ratio(text: str) -> float:
    ratio = FRACTION_BELOW_ONE(text)
    if not ratio:
        raise argparse.ArgumentTypeError(f"{text!r} removes nothing; that is measured anyway")
    return ratio


def run_sensitivity(args: argparse.Namespace) -> "Sensitivity":
    """Cut as the command line says; print the table, write CSV, heat map and JSON.

    Raises:
        ToolkitError: something given cannot be used.
    """
    trials = Trials.opened(args, prepare(args))
    table, picture, data = outputs(trials.job, "sensitivity")
    ratios = sorted(set(args.ratios))
    found = Sensitivity(trials, table, (identity(trials.job), settings(args, _KEYS)))
    found.measure(ratios)
    drops = found.drops(ratios)
    size = trials.job.image_size
    title = f"{trials.job.project.needed('weights').name} at {size[1]}x{size[0]}, {trials.images} images"
    heading = f"mAP@0.5 lost, points, most robust group first: {title}"
    for number, part in enumerate(_tables(found, drops, ratios)):
        show("the same groups, continued:" if number else heading, part)
    print(f"unpruned{', recalibrated' * bool(args.recalibrate)}: mAP@0.5 {percent(found.unpruned.map50)}")
    labels = [f"{_short(name)} ({row.channels})" for name, row in found.widest(ratios)]
    plot_sensitivity(drops, labels, ratios, picture, title=f"{title}, score {args.score}")
    kept = _sensitive(found, drops, args)
    results = {"unpruned": found.unpruned, "cuts": found.cuts(ratios), "keep_sections": kept}
    write_json(data, provenance(args) | {"arguments": arguments(args)} | results)
    print(f"written: {table}, {picture}, {data}")
    given = {"score": None if args.score == "gamma" else args.score, "keep_sections": kept}
    given["align"] = None if args.align == 1 else args.align
    next_command("python ladder.py", trials.job.project.options(), options(given))
    return found


class Sensitivity:
    """The cuts of a network under one setting.

    Args:
        trials: the network.
        path: of the CSV file; rows of other networks and settings in it are kept.
        mark: digits of the files and the options, see `Cut`.

    Raises:
        PruningError: no group can be cut by this score.
    """

    def __init__(self, trials: Trials, path: Path, mark: tuple[str, str]) -> None:
        self._trials, self._path, self._mark = trials, path, mark
        self._rows = read_rows(path, Cut)
        score = trials.job.args.score
        found = judged_groups(trials.job.subject.graph, trials.scores(score))
        self.groups = {",".join(str(section_index(name)) for name in group.layers): group for group in found}
        if not self.groups:
            raise PruningError(f"--score {score}", "judges no channel of this network", "use another one")

    @property
    def unpruned(self) -> Cut:
        """The network as given, recalibrated where that was asked for; computed by `measure`."""
        return self._found("", 0.0)

    def cuts(self, ratios: Sequence[float]) -> list[Cut]:
        """All that was measured, group by group in the order of the network."""
        return [self._found(name, ratio) for name in self.groups for ratio in ratios]

    def widest(self, ratios: Sequence[float]) -> list[tuple[str, Cut]]:
        """Each group with its cut at the largest ratio."""
        return [(name, self._found(name, ratios[-1])) for name in self.groups]

    def drops(self, ratios: Sequence[float]) -> NDArray[np.float64]:
        """(groups, ratios) mAP lost, fractions."""
        values = np.array([cut.map50 for cut in self.cuts(ratios)])
        return self.unpruned.map50 - values.reshape(len(self.groups), len(ratios))

    def measure(self, ratios: Sequence[float]) -> None:
        """Compute what is missing."""
        wanted = [("", 0.0), *((name, ratio) for name in self.groups for ratio in ratios)]
        there = {(row.sections, row.ratio) for row in self._own()}
        with tqdm(desc="cuts", unit="cut", total=len(wanted), disable=None) as bar:
            for name, ratio in wanted:
                if (name, ratio) not in there:
                    bar.set_description(f"section {_short(name)}, {ratio:g}" if name else "unpruned")
                    self._put(self._measured(name, ratio))
                bar.update()

    def _measured(self, name: str, ratio: float) -> Cut:
        trials, keep, channels = self._trials, np.ones(0, dtype=np.bool_), 0
        subject = trials.job.subject
        if name:
            group = self.groups[name]
            result = trials.cut(alone(group, ratio), trials.job.args.score)
            subject, keep, channels = result.compact, result.keep, len(group.units)
        found = trials.measured(subject, as_cut=False)
        map50 = found.as_cut if found.recalibrated is None else found.recalibrated
        removed = int((~keep).sum())
        sizes = (found.figures.parameters, found.figures.macs)
        return Cut(*self._mark, name, ratio, trials.images, channels, removed, map50, *sizes)

    def _own(self) -> Iterator[Cut]:
        return (row for row in self._rows if (row.network, row.settings) == self._mark)

    def _found(self, name: str, ratio: float) -> Cut:
        return next(row for row in self._own() if (row.sections, row.ratio) == (name, ratio))

    def _put(self, cut: Cut) -> None:
        self._rows.append(cut)
        write_rows(self._path, self._rows)


def judged_groups(graph: ChannelGraph, scores: LayerScores) -> list[Group]:
    """The groups with the units that may go and have a score; those without any are left out."""
    free = ~graph.pinned & np.isfinite(unit_scores(graph, scores))
    found = (Group(group.layers, group.units[free[group.units]]) for group in groups(graph))
    return [group for group in found if len(group.units) > 1]


def alone(group: Group, ratio: float) -> Policy:
    """Remove the worst units of one group."""

    def policy(subject: Subject, scores: LayerScores) -> ChannelPlan:
        graph = subject.graph
        return ChannelPlan(keep_best(graph, [group], ratio, unit_scores(graph, scores)))

    return policy


def _tables(found: Sensitivity, drops: NDArray[np.float64], ratios: Sequence[float]) -> list[Table]:
    """A line for each group; the MACs are those that the largest ratio saves. Many ratios take several."""
    heads = (*(f"{ratio:g}" for ratio in ratios), "mean", "MACs\nsaved")
    rows, order = found.widest(ratios), np.argsort(drops.mean(axis=1), kind="stable")
    tables = []
    for columns in np.array_split(np.arange(len(heads)), -(-len(heads) // _AT_ONCE)):
        table = Table()
        table.add_column("sections", overflow="fold")
        for head in ("channels", *(heads[column] for column in columns)):
            table.add_column(head, justify="right", no_wrap=True)
        for index in order:
            name, cut = rows[index]
            cells = [f"{value:z.1f}" for value in (*100 * drops[index], 100 * drops[index].mean())]
            cells.append(percent(1 - cut.macs / found.unpruned.macs))
            table.add_row(name, str(cut.channels), *(cells[column] for column in columns))
        tables.append(table)
    return tables


def _sensitive(found: Sensitivity, drops: NDArray[np.float64], args: argparse.Namespace) -> list[int]:
    """Sections of the groups that lose most on average, more than the tolerance, in ascending order."""
    means = drops.mean(axis=1)
    worst = np.argsort(-means, kind="stable")[: args.most or max(1, len(means) // _NAMED)]
    names = list(found.groups)
    chosen = [names[index] for index in worst if means[index] > args.tolerance]
    return sorted(int(section) for name in chosen for section in name.split(","))


def _short(sections: str) -> str:
    """A long list by its ends.

    >>> _short("1,4,8,11"), _short("1,4")
    ('1 .. 11, 4 layers', '1, 4')
    """
    parts = sections.split(",")
    return ", ".join(parts) if len(parts) <= 3 else f"{parts[0]} .. {parts[-1]}, {len(parts)} layers"
