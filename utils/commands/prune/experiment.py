"""What ladder.py and sensitivity.py share: prune a network in many ways, and measure each on a mini-val.

A mini-val is a sample of the validation images, evenly spread over their list. A trial is known by the files
that it works on and by every option that changes its figures, so that it is computed once.
"""

import argparse
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ...data.listing import SPLITS, DataFile
from ...frontends.darknet.subject import DarknetSubject
from ...options import FRACTION, NON_NEGATIVE_INT, POSITIVE_INT
from ...pruning.report import Figures
from ...pruning.scores import Scorer
from ...pruning.subject import LayerScores, Policy
from ...pruning.surgery import prune
from ..arguments import Options, Parser, add_common, add_data, add_image_size, add_network, arguments, resolve
from . import stages
from .job import Job, open_job
from .options import SCORES, add_align, add_floors, named_score
from .stages import Result

_EVALUATED, _CALIBRATED = 200, 64  # images
_DIGITS = 12  # of a digest that only has to tell files apart


def trial_parser(manual: str | None, command: str) -> Parser:
    """The options that both commands have."""
    parser = Parser(manual, command)
    add_network(parser)
    add_data(parser)
    add_image_size(parser)
    group = parser.add_argument_group("measuring")
    text = "estimate the batch-norm statistics of each network anew on N training images (0: leave them)"
    group.add_argument("--recalibrate", type=NON_NEGATIVE_INT, default=_CALIBRATED, metavar="N", help=text)
    text = "evaluate on at most N validation images, evenly spread over the list"
    group.add_argument("--eval-images", type=POSITIVE_INT, default=_EVALUATED, metavar="N", help=text)
    text = "mAP that may be lost, a fraction: .01 is a point"
    group.add_argument("--tolerance", type=FRACTION, default=0.01, metavar="LOSS", help=text)
    group.add_argument("--batch-size", type=POSITIVE_INT, default=8, help="images at a time when evaluating")
    group.add_argument(
        "--output", type=Path, metavar="DIR", help="put all files there (default: beside the weights)"
    )
    add_common(parser)
    # what a pruning run can be asked for, and these commands cannot
    parser.set_defaults(classic=False, no_eval=False, fold="interior", min_channels=1, keep_sections=())
    return parser


def add_scores(group: Options, several: bool) -> None:
    """Add --score, one or several."""
    text = f"importance of a channel: {SCORES}"
    if several:
        group.add_argument("--score", nargs="+", default=["gamma"], metavar="SCORE", help=text)
    else:
        group.add_argument("--score", default="gamma", help=text)


def add_widths(group: Options) -> None:
    """Add --align, --min-channels and --keep-sections as the pruning scripts have them."""
    add_align(group, default=1)
    add_floors(group)


@dataclass(frozen=True)
class Measured:
    """A network on the mini-val.

    Attributes:
        as_cut: mAP@0.5, a fraction, with the statistics of the network that it was cut from.
        recalibrated: with its own; None where that was not asked for.
        figures: what the network costs.
    """

    as_cut: float
    recalibrated: float | None
    figures: Figures


class Trials:
    """A network to prune in many ways."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._scores = cache(self._computed_scores)

    @classmethod
    def opened(cls, args: argparse.Namespace, device: torch.device) -> "Trials":
        """Open everything that can be wrong before any work is done.

        Raises:
            ToolkitError: a file or an option cannot be used; there is no data set.
        """
        resolve(args)  # the data set is needed here
        job = open_job(args, device, "")
        args.align = job.align  # of `auto` the number: it is what a trial is known by
        if args.recalibrate:
            job.images("train", args.recalibrate)
        return cls(job)

    @property
    def images(self) -> int:
        """Of the mini-val."""
        assert self.job.validation is not None
        return len(self.job.validation.dataset)

    def require_score(self, name: str) -> Scorer:
        """The scorer of a name, so that a misspelled one is told before hours of work.

        Raises:
            ToolkitError: there is no such score.
        """
        return named_score(name, self.job.args.seed, self.job.calibration)

    def scores(self, name: str) -> LayerScores:
        """Of the whole network, computed once: a Taylor score takes gradients.

        Raises:
            ToolkitError: there is no such score.
        """
        return self._scores(name)

    def _computed_scores(self, name: str) -> LayerScores:
        return self.require_score(name)(self.job.subject)

    def cut(self, policy: Policy, score: str) -> Result:
        """Prune, not changing the network."""
        args, scores = self.job.args, self.scores(score)
        return prune(
            self.job.subject,
            [policy],
            lambda _: scores,
            folding=args.fold,
            align=args.align,
            min_channels=args.min_channels,
            may_keep_all=True,  # another rung removes more
        )

    def measured(self, subject: DarknetSubject, *, as_cut: bool = True) -> Measured:
        """Evaluate a network; without `as_cut` only once, recalibrated where that was asked for."""
        recalibrate = self.job.args.recalibrate
        first = self._map50(subject) if as_cut or not recalibrate else float("nan")
        second = self._map50(stages.recalibrated(self.job, subject, recalibrate)) if recalibrate else None
        return Measured(first, second, stages.figures(self.job, subject.model, None, None))

    def _map50(self, subject: DarknetSubject) -> float:
        found = stages.evaluations(self.job, {"evaluating": subject.model})["evaluating"]
        assert found is not None
        return found.map50


def outputs(job: Job, name: str) -> tuple[Path, Path, Path]:
    """CSV, PNG and JSON file of a command, beside the weights or in --output."""
    weights = job.project.needed("weights")
    folder = job.args.output or weights.parent
    csv, png, json = (folder / f"{weights.stem}_{name}{suffix}" for suffix in (".csv", ".png", ".json"))
    return csv, png, json


def identity(job: Job) -> str:
    """What the network, its weights and the lists of the data set contain, as a few digits."""
    digest = hashlib.sha256(job.model.network.to_cfg().encode())
    for path in (job.project.needed("weights"), *_lists(job.data)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:_DIGITS]


def _lists(data: DataFile | None) -> Iterable[Path]:
    found = [getattr(data, split) for split in SPLITS] if data else []
    return (path for path in found if path is not None and path.is_file())


def settings(args: argparse.Namespace, names: Sequence[str]) -> str:
    """Options by name as one would type them, those without a value left out.

    >>> args = argparse.Namespace(fold="off", img_size=(96, 64), align=None, keep_sections=(1, 2))
    >>> settings(args, ["fold", "img_size", "align", "keep_sections"])
    '--fold off --img_size 96 64 --keep-sections 1,2'
    """
    given = {name: value for name, value in arguments(args).items() if name in names}
    return options({name: given[name] for name in names})


def options(values: Mapping[str, object]) -> str:
    """Values by option; empty ones and None are left out."""
    parts = []
    for name, value in values.items():
        if value is None or value == []:
            continue
        joint = "," if name == "keep_sections" else " "
        text = joint.join(map(str, value)) if isinstance(value, list) else str(value)
        spelled = name if name in _UNDERSCORED else name.replace("_", "-")
        parts.append(f"--{spelled} {text}")
    return " ".join(parts)


_UNDERSCORED = {"img_size", "layer_keep", "global_percent"}
