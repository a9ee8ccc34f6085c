"""Find the layers that must not be pruned: each group of layers is pruned alone and evaluated.

    python sensitivity.py --cfg cfg/my.cfg --weights weights/last.pt --data data/my.data
    python sensitivity.py ... --ratios .3 .6 .9 --score l1

A group is a set of layers that must have the same width: a single layer, or all that a shortcut adds. The
channels of one group with the lowest scores are removed, batch-norm statistics are re-estimated
(--recalibrate), and mAP is measured on a sample of the validation images. The loss is relative to the
unpruned network, its statistics re-estimated in the same way. The most sensitive groups are listed for
--keep-sections.

Files: <weights>_sensitivity.csv, .png (a heat map) and .json. An interrupted run, or one with more ratios,
computes only what is missing from the CSV file; with a changed option everything is recomputed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from tqdm import tqdm

from ..errors import PruningError
from ..frontends.darknet.subject import section_index
from ..options import POSITIVE_INT, check_ranges, from_arguments, option
from ..pruning.channels import ChannelGraph
from ..pruning.policies import Group, groups, keep_best
from ..pruning.scores import unit_scores
from ..pruning.subject import ChannelPlan, LayerScores, Policy, Subject
from ..reporting.curves import plot_sensitivity
from .arguments import next_command, provenance, write_json
from .csv_results import read_rows, write_rows
from .output import bar, percent, show
from .prune.options import SCORES, align
from .prune.sweep import (
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

_KEYS = ("score", "align", "recalibrate", "eval_images", "img_size", "batch_size", "seed")
_AT_ONCE = 7  # columns of figures that fit into 80 characters beside the sections
_NAMED = 4  # one of this many groups is listed for --keep-sections, unless --most says how many


@dataclass(frozen=True)
class SensitivityOptions(SweepOptions):
    """All options of a sensitivity analysis."""

    ratios: Sequence[float] = option(
        (0.2, 0.4, 0.6, 0.8),
        "shares of the channels of each group to remove (default: 0.2 0.4 0.6 0.8)",
        SHARE,
        nargs="+",
        metavar="SHARE",
    )
    score: str = option("gamma", f"importance of a channel: {SCORES}")
    align: int | str = option(
        1, "round widths up to multiples of N; auto: as the latency table says", align, metavar="N"
    )
    most: int | None = option(
        None,
        "list at most N groups for --keep-sections (default: a quarter of them)",
        POSITIVE_INT,
        metavar="N",
    )

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Cut:
    """A line of the CSV file.

    Attributes:
        network: digest of the files that it was computed from.
        settings: the options that it was computed with.
        sections: of the group, separated by commas; empty for the unpruned network.
        ratio: share of the group's channels to remove; 0 for the unpruned network.
        images: number of validation images.
        channels: of the group.
        removed: how many of them were removed.
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
    run_sensitivity(sensitivity_options(argv))


def sensitivity_options(argv: Sequence[str] | None = None) -> SensitivityOptions:
    """The options of a command line."""
    parser = sweep_parser(__doc__, "sensitivity", SensitivityOptions, "what is pruned")
    return from_arguments(SensitivityOptions, parser.parse_args(argv))


def run_sensitivity(options: SensitivityOptions) -> "Sensitivity":
    """Prune and evaluate every group; print the table, write CSV, heat map and JSON.

    Raises:
        ToolkitError: something given cannot be used.
    """
    sweep = Sweep.opened(options, pruning_options(options, align=options.align), bar)
    options = replace(options, align=sweep.job.align)
    table, picture, data = output_files(sweep.job, "sensitivity")
    ratios = sorted(set(options.ratios))
    found = Sensitivity(sweep, table, options.score, (identity(sweep.job), settings(options, _KEYS)))
    found.measure(ratios)
    drops = found.drops(ratios)
    size = sweep.job.image_size
    title = f"{sweep.job.project.needed('weights').name} at {size[1]}x{size[0]}, {sweep.images} images"
    heading = f"mAP@0.5 lost in points, most robust group first: {title}"
    for number, part in enumerate(_tables(found, drops, ratios)):
        show("the same groups, continued:" if number else heading, part)
    recalibrated = ", recalibrated" * bool(options.recalibrate)
    print(f"unpruned{recalibrated}: mAP@0.5 {percent(found.unpruned.map50)}")
    labels = [f"{_short(name)} ({row.channels})" for name, row in found.widest(ratios)]
    plot_sensitivity(drops, labels, ratios, picture, title=f"{title}, score {options.score}")
    kept = _sensitive(found, drops, options)
    results = {"unpruned": found.unpruned, "cuts": found.cuts(ratios), "keep_sections": kept}
    origin = {**provenance(options), "arguments": sweep_arguments(options, sweep.job)}
    write_json(data, origin | results)
    print(f"written: {table}, {picture}, {data}")
    words: dict[str, object] = {
        "score": None if options.score == "gamma" else options.score,
        "keep_sections": kept,
    }
    words["align"] = None if options.align == 1 else options.align
    next_command("python ladder.py", sweep.job.project.options(), as_typed_options(words))
    return found


class Sensitivity:
    """The cuts of a network under one setting.

    Args:
        sweep: the network.
        path: of the CSV file; rows of other networks and settings in it are kept.
        score: importance of a channel.
        mark: `network` and `settings` of its cuts, see `Cut`.

    Raises:
        PruningError: the score cannot rank the channels of any group.
    """

    def __init__(self, sweep: Sweep, path: Path, score: str, mark: tuple[str, str]) -> None:
        self._sweep, self._path, self._score, self._mark = sweep, path, score, mark
        self._rows = read_rows(path, Cut)
        found = judged_groups(sweep.job.subject.graph, sweep.scores(score))
        self.groups = {",".join(str(section_index(name)) for name in group.layers): group for group in found}
        if not self.groups:
            raise PruningError(f"--score {score}", "ranks no channel of this network", "use another score")

    @property
    def unpruned(self) -> Cut:
        """The unpruned network, recalibrated where that was asked for; computed by `measure`."""
        return self._found("", 0.0)

    def cuts(self, ratios: Sequence[float]) -> list[Cut]:
        """All cuts, group by group in the order of the network."""
        return [self._found(name, ratio) for name in self.groups for ratio in ratios]

    def widest(self, ratios: Sequence[float]) -> list[tuple[str, Cut]]:
        """Each group with its cut at the largest ratio."""
        return [(name, self._found(name, ratios[-1])) for name in self.groups]

    def drops(self, ratios: Sequence[float]) -> NDArray[np.float64]:
        """(groups, ratios) mAP lost, fractions."""
        values = np.array([cut.map50 for cut in self.cuts(ratios)])
        return self.unpruned.map50 - values.reshape(len(self.groups), len(ratios))

    def measure(self, ratios: Sequence[float]) -> None:
        """Compute the missing cuts."""
        wanted = [("", 0.0), *((name, ratio) for name in self.groups for ratio in ratios)]
        there = {(row.sections, row.ratio) for row in self._own()}
        with tqdm(desc="cuts", unit="cut", total=len(wanted), disable=None) as bar:
            for name, ratio in wanted:
                if (name, ratio) not in there:
                    bar.set_description(f"section {_short(name)}, {ratio:g}" if name else "unpruned")
                    self._put(self.measured(name, ratio))
                bar.update()

    def measured(self, name: str, ratio: float) -> Cut:
        """Prune one group by a share of its channels and evaluate the network; "" for none."""
        sweep, keep, channels = self._sweep, np.ones(0, dtype=np.bool_), 0
        subject = sweep.job.subject
        if name:
            group = self.groups[name]
            result = sweep.pruned(alone(group, ratio), self._score)
            subject, keep, channels = result.compact, result.keep, len(group.units)
        found = sweep.measured(subject, as_cut=False)
        map50 = found.as_cut if found.recalibrated is None else found.recalibrated
        removed = int((~keep).sum())
        sizes = (found.figures.parameters, found.figures.macs)
        return Cut(*self._mark, name, ratio, sweep.images, channels, removed, map50, *sizes)

    def _own(self) -> Iterator[Cut]:
        return (row for row in self._rows if (row.network, row.settings) == self._mark)

    def _found(self, name: str, ratio: float) -> Cut:
        return next(row for row in self._own() if (row.sections, row.ratio) == (name, ratio))

    def _put(self, cut: Cut) -> None:
        self._rows.append(cut)
        write_rows(self._path, self._rows)


def judged_groups(graph: ChannelGraph, scores: LayerScores) -> list[Group]:
    """The groups, with their units that can be removed and have a score; those without any are left out."""
    free = ~graph.pinned & np.isfinite(unit_scores(graph, scores))
    found = (Group(group.layers, group.units[free[group.units]]) for group in groups(graph))
    return [group for group in found if len(group.units) > 1]


def alone(group: Group, ratio: float) -> Policy:
    """A policy that removes a share of one group, lowest scores first."""

    def policy(subject: Subject, scores: LayerScores) -> ChannelPlan:
        graph = subject.graph
        return ChannelPlan(keep_best(graph, [group], ratio, unit_scores(graph, scores)))

    return policy


def _tables(found: Sensitivity, drops: NDArray[np.float64], ratios: Sequence[float]) -> list[Table]:
    """A line for each group, with the MACs saved at the largest ratio; many ratios need several tables."""
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


def _sensitive(found: Sensitivity, drops: NDArray[np.float64], options: SensitivityOptions) -> list[int]:
    """Sections of the groups with the largest mean losses above the tolerance, in ascending order."""
    means = drops.mean(axis=1)
    worst = np.argsort(-means, kind="stable")[: options.most or max(1, len(means) // _NAMED)]
    names = list(found.groups)
    chosen = [names[index] for index in worst if means[index] > options.tolerance]
    return sorted(int(section) for name in chosen for section in name.split(","))


def _short(sections: str) -> str:
    """Abbreviate a long list of sections.

    >>> _short("1,4,8,11"), _short("1,4")
    ('1 .. 11, 4 layers', '1, 4')
    """
    parts = sections.split(",")
    return ", ".join(parts) if len(parts) <= 3 else f"{parts[0]} .. {parts[-1]}, {len(parts)} layers"
