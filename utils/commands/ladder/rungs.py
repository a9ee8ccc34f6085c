"""The rungs of a ladder: each computed once, with more around the knee and the steepest drop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...frontends.darknet.subject import DarknetSubject
from ...profiling import fastest
from ...pruning.knee import next_share
from ...pruning.subject import Policy
from ...runtimes.runtime import Runtime
from ..csv_results import read_rows, write_rows
from ..latency.measure import fingerprint, table_path
from ..latency.network import network_runs
from ..prune.sweep import Sweep

# Networks measured interleaved with the unpruned one: a round of more of them would take longer than a
# disturbance of the machine lasts, and all of them have to fit into memory.
_AT_ONCE, _TURNS, SECONDS = 2, 20, 1.5


@dataclass(frozen=True)
class Rung:
    """A line of the CSV file.

    Attributes:
        network: digest of the files that it was computed from.
        settings: the options that it was computed with.
        score: name; empty for the unpruned network.
        share: of the candidates that the strategy was asked to remove; 0 for the unpruned network.
        images: number of validation images.
        as_cut: mAP@0.5, a fraction.
        recalibrated: the same with re-estimated batch-norm statistics; None where it was not measured.
        filters: of all convolutions.
        parameters: learnable values.
        macs: multiply-adds of one image.
        runtime: and machine, as latency tables are named; empty where latency was not measured.
        ms: of one image, the fastest of several rounds: rungs are compared, and a disturbance only adds.
        unpruned_ms: the same of the unpruned network, measured interleaved with this one.
    """

    network: str
    settings: str
    score: str
    share: float
    images: int
    as_cut: float
    recalibrated: float | None
    filters: int
    parameters: int
    macs: int
    runtime: str = ""
    ms: float | None = None
    unpruned_ms: float | None = None

    @property
    def best(self) -> float:
        """The better mAP, with or without --recalibrate."""
        return self.as_cut if self.recalibrated is None else max(self.as_cut, self.recalibrated)

    @property
    def slowness(self) -> float | None:
        """Latency over that of the unpruned network."""
        return None if self.ms is None or self.unpruned_ms is None else self.ms / self.unpruned_ms


class Ladder:
    """The rungs of a network under one setting.

    Args:
        sweep: the network.
        path: of the CSV file; rows of other networks and settings in it are kept.
        policy: share -> the strategy.
        mark: `network` and `settings` of its rungs, see `Rung`.
    """

    def __init__(
        self, sweep: Sweep, path: Path, policy: Callable[[float], Policy], mark: tuple[str, str]
    ) -> None:
        self._sweep, self._path, self._policy, self._mark = sweep, path, policy, mark
        self._rows = read_rows(path, Rung)

    @property
    def unpruned(self) -> Rung:
        """The network as given: computed by the first `climb`."""
        return next(row for row in self._own() if not row.share)

    def rungs(self, score: str) -> list[Rung]:
        """The rungs of a score so far, by share."""
        return sorted((row for row in self._own() if row.score == score), key=lambda row: row.share)

    def curve(self, score: str) -> dict[float, float]:
        """Share -> mAP, with the unpruned network at share 0."""
        return {0.0: self.unpruned.as_cut} | {row.share: row.best for row in self.rungs(score)}

    def milliseconds(self, row: Rung) -> float | None:
        """Latency of a rung relative to one median of the unpruned network for all rungs.

        Milliseconds measured minutes apart cannot be compared, since the load of the machine changes; their
        ratio to the unpruned network, measured interleaved, can.
        """
        whole = self.unpruned
        if row.slowness is None or whole.ms is None or row.runtime != whole.runtime:
            return None
        return row.slowness * whole.ms

    def climb(self, scores: Sequence[str], shares: Sequence[float], tolerance: float, step: float) -> None:
        """Measure missing rungs at these shares, then at those that `next_share` proposes (none with step 0).

        Raises:
            ToolkitError: a score or a share cannot be used.
        """
        for score in scores:
            self._sweep.require_score(score)
        with tqdm(desc="rungs", unit="rung", total=1 + len(scores) * len(shares), disable=None) as bar:
            self._measure("", 0.0)
            bar.update()
            for score in scores:
                for share in shares:
                    bar.set_description(f"{score} {share:g}")
                    self._measure(score, share)
                    bar.update()
                while step and (closer := next_share(self.curve(score), tolerance, step)) is not None:
                    bar.total += 1
                    bar.set_description(f"{score} {closer:g}")
                    self._measure(score, closer)
                    bar.update()

    def time(self, scores: Sequence[str], runtime: Runtime, image_size: tuple[int, int]) -> None:
        """Measure missing latencies on `runtime`, interleaved with the unpruned network."""
        place = table_path(fingerprint(runtime)).stem
        missing = [row for score in scores for row in self.rungs(score) if row.runtime != place]
        with tqdm(desc=runtime.name, unit="rung", total=len(missing), disable=not missing) as bar:
            for rows in _taken(missing, _AT_ONCE):
                models = {"": self._sweep.job.model}
                models |= {f"{row.score} {row.share}": self._compact(row).model for row in rows}
                whole, *found = fastest(network_runs(models, runtime, image_size), _TURNS, SECONDS).values()
                for row, ms in zip(rows, found, strict=True):
                    self._put(replace(row, runtime=place, ms=ms, unpruned_ms=whole))
                bar.update(len(rows))
        if missing:
            times = [
                row.unpruned_ms
                for row in self._own()
                if row.share and row.unpruned_ms and row.runtime == place
            ]
            median = float(np.median(times))
            self._put(replace(self.unpruned, runtime=place, ms=median, unpruned_ms=median))

    def _compact(self, row: Rung) -> DarknetSubject:
        return self._sweep.pruned(self._policy(row.share), row.score).compact

    def _measure(self, score: str, share: float) -> None:
        if any((row.score, row.share) == (score, share) for row in self._own()):
            return
        sweep = self._sweep
        subject = sweep.pruned(self._policy(share), score).compact if score else sweep.job.subject
        found = sweep.measured(subject)
        filters = sum(len(layer.outputs) for layer in subject.graph.layers.values())
        sizes = (filters, found.figures.parameters, found.figures.macs)
        self._put(Rung(*self._mark, score, share, sweep.images, found.as_cut, found.recalibrated, *sizes))

    def _own(self) -> Iterator[Rung]:
        return (row for row in self._rows if (row.network, row.settings) == self._mark)

    def _put(self, rung: Rung) -> None:
        """Add a row, or replace the one of the same rung, in the file too."""
        key = (rung.network, rung.settings, rung.score, rung.share)
        others = [row for row in self._rows if (row.network, row.settings, row.score, row.share) != key]
        self._rows = sorted(
            [*others, rung], key=lambda row: (row.network, row.settings, row.score, row.share)
        )
        write_rows(self._path, self._rows)


def _taken(rows: Sequence[Rung], count: int) -> Iterable[Sequence[Rung]]:
    return (rows[start : start + count] for start in range(0, len(rows), count))
