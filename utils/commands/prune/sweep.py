"""Sweeps, as of ladder.py and sensitivity.py: prune a network in many ways, evaluate each on a few images.

Networks are evaluated on a sample of the validation images, evenly spread over their list. A result is
identified by the files that it comes from and by every option that changes its figures, so that it is
computed once.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from ...data.listing import SPLITS, DataFile
from ...frontends.darknet.subject import DarknetSubject
from ...options import FRACTION, NON_NEGATIVE_INT, POSITIVE_INT, Range, add_options, option
from ...pruning import surgery
from ...pruning.report import Figures
from ...pruning.scores import Scorer
from ...pruning.subject import LayerScores, Policy
from ...pruning.surgery import PruningResult
from ..arguments import (
    ImageSizeOptions,
    InputOptions,
    MachineOptions,
    Parser,
    add_machine,
    arguments,
    prepare,
    resolve,
)
from ..output import Track, untracked
from .job import Job, open_job
from .options import PruningOptions, spelled

# shares to remove; the unpruned network is measured in any case
SHARE = Range(float, "a number above 0, below 1", lambda value: 0 < value < 1)
# options of a pruning that a sweep does not have, but that its JSON file names
_FIXED = ("classic", "no_eval", "fold", "min_channels", "keep_sections")
_DIGITS = 12  # of a digest, enough to tell files apart


@dataclass(frozen=True)
class SweepOptions(ImageSizeOptions, InputOptions, MachineOptions):
    """Options of both commands."""

    recalibrate: int = option(
        64,
        "re-estimate the batch-norm statistics of each network on N training images (0: keep them)",
        NON_NEGATIVE_INT,
        metavar="N",
    )
    eval_images: int = option(
        200,
        "evaluate on at most N validation images, evenly spread over the list",
        POSITIVE_INT,
        metavar="N",
        flags=("--eval-images",),
    )
    tolerance: float = option(
        0.01, "mAP that may be lost, a fraction: 0.01 is one percentage point", FRACTION, metavar="LOSS"
    )
    batch_size: int = option(8, "images per batch when evaluating", POSITIVE_INT, flags=("--batch-size",))
    output: Path | None = option(
        None, "folder of all output files (default: beside the weights)", Path, metavar="DIR"
    )


def sweep_parser(manual: str | None, command: str, kind: type[SweepOptions], group: str) -> Parser:
    """The command line: common options, then those of the command under the heading `group`."""
    parser = Parser(manual, command)
    common = _names(SweepOptions)
    add_options(parser, kind, common - _names(MachineOptions))
    add_options(parser.add_argument_group(group), kind, _names(kind) - common)
    add_machine(parser)
    return parser


@dataclass(frozen=True)
class Measured:
    """A network on the sample of validation images.

    Attributes:
        as_cut: mAP@0.5, a fraction, with the batch-norm statistics of the network that it was cut from.
        recalibrated: with re-estimated statistics; None where that was not asked for.
        figures: what the network costs.
    """

    as_cut: float
    recalibrated: float | None
    figures: Figures


class Sweep:
    """A network to prune in many ways."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._scores = cache(self._computed_scores)

    @classmethod
    def opened(cls, options: SweepOptions, pruning: PruningOptions, track: Track = untracked) -> "Sweep":
        """Open and check everything before any work is done.

        Args:
            options: of the command.
            pruning: what all its prunings have in common, see `pruning_options`.
            track: shows progress.

        Raises:
            ToolkitError: a file or an option cannot be used; there is no data set.
        """
        device = prepare(options)
        resolve(options)  # the data set is required here
        job = open_job(pruning, device, eval_images=options.eval_images, track=track)
        if options.recalibrate:
            job.images("train", options.recalibrate)
        return cls(job)

    @property
    def images(self) -> int:
        """Number of validation images."""
        assert self.job.validation is not None
        return len(self.job.validation.dataset)

    def require_score(self, name: str) -> Scorer:
        """The scorer of a name, so that a misspelled one is reported before hours of work.

        Raises:
            ToolkitError: there is no such score.
        """
        return self.job.named_scorer(name)

    def scores(self, name: str) -> LayerScores:
        """Of the unpruned network, computed once.

        Raises:
            ToolkitError: there is no such score.
        """
        return self._scores(name)

    def _computed_scores(self, name: str) -> LayerScores:
        return self.require_score(name)(self.job.subject)

    def pruned(self, policy: Policy, score: str) -> PruningResult[DarknetSubject]:
        """Prune by a policy; the network itself is left unchanged."""
        options, scores = self.job.options, self.scores(score)
        return surgery.prune(
            self.job.subject,
            [policy],
            lambda _: scores,
            folding=options.fold,
            align=self.job.align,
            min_channels=options.min_channels,
            may_keep_all=True,  # another one of the sweep removes more
        )

    def measured(self, subject: DarknetSubject, *, as_cut: bool = True) -> Measured:
        """Evaluate a network; without `as_cut` only once, recalibrated where that was asked for."""
        count = self.job.options.images_to_recalibrate
        first = self._map50(subject) if as_cut or not count else float("nan")
        second = self._map50(self.job.recalibrated(subject, count)) if count else None
        return Measured(first, second, self.job.figures(subject.model, None, None))

    def _map50(self, subject: DarknetSubject) -> float:
        return self.job.map50(subject.model, "evaluating")


def pruning_options(options: SweepOptions, **others: Any) -> PruningOptions:
    """Options of the prunings of a sweep: those in common with it, and `others`."""
    names = _names(PruningOptions) & _names(SweepOptions)
    return PruningOptions(**{name: getattr(options, name) for name in names}, **others)


def sweep_arguments(options: SweepOptions, job: Job) -> dict[str, Any]:
    """The options for the JSON file."""
    fixed = {name: value for name, value in job.options.to_json().items() if name in _FIXED}
    return fixed | arguments(options)


def _names(kind: type) -> set[str]:
    return {each.name for each in fields(kind)}


def output_files(job: Job, name: str) -> tuple[Path, Path, Path]:
    """CSV, PNG and JSON file of a command, beside the weights or in --output."""
    weights = job.project.needed("weights")
    folder = job.options.output or weights.parent
    csv, png, json = (folder / f"{weights.stem}_{name}{suffix}" for suffix in (".csv", ".png", ".json"))
    return csv, png, json


def identity(job: Job) -> str:
    """Digest of the network, its weights and the lists of the data set."""
    digest = hashlib.sha256(job.model.network.to_cfg().encode())
    for path in (job.project.needed("weights"), *_lists(job.data)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:_DIGITS]


def _lists(data: DataFile | None) -> Iterable[Path]:
    found = [getattr(data, split) for split in SPLITS] if data else []
    return (path for path in found if path is not None and path.is_file())


def settings(options: MachineOptions, names: Sequence[str]) -> str:
    """Options by name as they are typed, those without a value left out.

    >>> options = PruningOptions(fold="off", img_size=(96, 64), keep_sections=(1, 2))
    >>> settings(options, ["fold", "img_size", "align", "keep_sections"])
    '--fold off --img_size 96 64 --keep-sections 1,2'
    """
    values = arguments(options)
    return as_typed_options({name: values[name] for name in names})


def as_typed_options(values: Mapping[str, object]) -> str:
    """Values by option; empty ones and None are left out."""
    parts = []
    for name, value in values.items():
        if value is None or value == []:
            continue
        joint = "," if name == "keep_sections" else " "
        text = joint.join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"{spelled(name)} {text}")
    return " ".join(parts)
