"""--iterative K: prune a part of the way, recalibrate, fine-tune for a while, K times down to the budget.

Each round starts from the one before; its limits lie on a geometric way from what the network costs to what
it may. A round that is done is not done again, and one that is broken off goes on where it was; rounds of
other files or options lie in another folder.
"""

import argparse
import hashlib
import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ToolkitError
from ...frontends.darknet.subject import DarknetSubject
from ...profiling import torch_threads
from ...pruning.budget_search import WithinBudgetError
from ...pruning.channels import decode_mask
from ...pruning.report import Check, SectionChange
from ...training.interruption import InterruptedTrainingError
from ...training.loop import BEST, LAST
from ..inputs import open_files
from ..latency.measure import fingerprint
from ..results import read_report, write_json
from ..tables import percent
from ..train.command import run_training, train_parser
from .budget import Budget, shares_asked, within_budget
from .budget_latency import LONG
from .experiment import identity, settings
from .files import write_outcome
from .job import Job, Outputs, open_job
from .ledger import Ledger
from .options import COSTS, Amount
from .outcome import Outcome, outcome_of, pruned
from .refusals import given
from .stages import Timing, evaluations, recalibration_notes, timing

DONE = "round.json"
# training images for batch-norm statistics, where --recalibrate does not say how many
RECALIBRATED = 64
# options that change what a round leaves, beside the limits; --min-map is asked of the end alone
_KEYS = (
    "iterative", "tune_epochs", "score", "merge", "layer_keep", "align", "min_channels", "keep_sections",
    "fold", "img_size", "seed", "no_eval",
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """What a round leaves in its folder.

    Attributes:
        number: from 1 on.
        folder: of its files.
        tuned: mAP@0.5 after fine-tuning; None where it was not measured.
    """

    number: int
    folder: Path
    tuned: float | None = None

    @property
    def files(self) -> Outputs:
        """As pruned."""
        paths = (self.folder / f"pruned{suffix}" for suffix in (".cfg", ".weights", ".json", ".html"))
        return Outputs(*paths)

    @cached_property
    def report(self) -> dict[str, Any]:
        """The JSON of its pruning."""
        return _read(self.files.report)

    @property
    def pruned(self) -> float | None:
        """mAP@0.5 before fine-tuning."""
        found: float | None = self.report["after"]["map50"]
        return found

    @property
    def is_worse_tuned(self) -> bool:
        """Whether so short a fine-tuning did harm, so that the network as pruned is taken."""
        return None not in (self.tuned, self.pruned) and self.tuned < self.pruned  # type: ignore[operator]

    @property
    def weights(self) -> Path:
        """Of the better network: fine-tuned or as pruned."""
        return self.files.weights if self.is_worse_tuned else self.folder / "tuned" / BEST


def run_rounds(job: Job) -> Outcome:
    """All rounds, and what became of the network in them.

    Args:
        job: of slim_prune.py, with limits.

    Raises:
        ToolkitError: a limit is missing, there is no data set to tune on, or mAP is below --min-map.
    """
    args = job.args
    if job.data is None:
        raise ToolkitError("--iterative", "fine-tunes between the rounds", "add --data")
    if not any(getattr(args, name) is not None for name in COSTS):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in COSTS)
        raise ToolkitError("--iterative", "goes down to a limit", f"add one of {options}")
    weights = job.project.needed("weights")
    folder = job.outputs.weights.parent / f"{weights.stem}_rounds" / _mark(job)
    rounds: list[Round] = []
    for number in range(1, args.iterative + 1):
        rounds.append(_round(job, Round(number, folder / str(number)), rounds))
    last = rounds[-1]
    reached = last.pruned if last.is_worse_tuned else last.tuned
    if args.min_map is not None and (reached is None or reached < args.min_map):
        found = "was not measured" if reached is None else f"is {reached:.4f}"
        remedy = (
            f"tune longer (--tune-epochs), allow it to cost more, or accept less; the rounds lie in {folder}"
        )
        raise ToolkitError(f"--min-map {args.min_map}", f"mAP@0.5 after the last round {found}", remedy)
    return _outcome(job, rounds)


def _mark(job: Job) -> str:
    """A few digits for all that decides what the rounds leave."""
    limits = {name: getattr(job.args, name) for name in COSTS}
    facts = [identity(job), settings(job.args, _KEYS), limits, _recalibrated(job.args)]
    if job.args.max_ms is not None or job.aligns_itself:
        facts += [fingerprint(job.runtime), job.args.latency_table]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def _recalibrated(args: argparse.Namespace) -> int:
    """Training images for the batch-norm statistics of each round."""
    return int(args.recalibrate) if given(args, "recalibrate") else RECALIBRATED


def _round(job: Job, this: Round, before: list[Round]) -> Round:
    if (this.folder / DONE).exists():
        return replace(this, tuned=_read(this.folder / DONE)["tuned"])
    place = f"round {this.number} of {job.args.iterative}"
    if not this.files.report.exists():
        print(f"{place}: pruning")
        _prune(job, this, before)
    print(f"{place}: fine-tuning")
    try:
        with torch_threads(torch.get_num_threads()):  # which training chooses for itself
            run_training(train_parser().parse_args(_training(job, this)), is_last=False)
    except InterruptedTrainingError as error:
        remedy = "saved, so the same command goes on from there"
        raise InterruptedTrainingError(f"in {place}", remedy, error.exit_code - 128) from error
    model = open_files(this.files.cfg, this.folder / "tuned" / BEST).to(job.device)
    found = evaluations(job, {place: model})[place]
    done = replace(this, tuned=None if found is None else found.map50)
    write_json(this.folder / DONE, {"tuned": done.tuned})
    return done


def _prune(job: Job, this: Round, before: list[Round]) -> None:
    """One pruning with a ledger and a JSON of its own; the page is of the whole run."""
    args = copy(job.args)
    args.iterative, args.report, args.verify = 1, False, "quick"
    args.min_map = None  # asked of what comes out in the end, fine-tuned
    del args.tune_epochs  # nothing is fine-tuned in it
    args.recalibrate = _recalibrated(args)
    args.cfg, args.weights = job.project.cfg, job.project.weights
    if before:
        args.cfg, args.weights = before[-1].files.cfg, before[-1].weights
    args.data = job.project.data
    vars(args).update(_limits(job, this.number / job.args.iterative, before))
    own = replace(open_job(args, job.device, ""), outputs=this.files)
    try:
        budget = within_budget(own)
    except WithinBudgetError:  # the round before came further than it had to
        whole = np.ones(own.subject.graph.unit_count, dtype=np.bool_)
        budget = Budget(whole, ("within the limits of the round as it is",))
    write_outcome(own, outcome_of(own, pruned(own, (), budget), budget))


def _limits(job: Job, progress: float, before: list[Round]) -> dict[str, Amount]:
    """The limits at a share of the way.

    A share of the milliseconds stays one, of what the round sets out from: measured in turns with it.
    """
    shares, asked = shares_asked(job).items(), job.args.max_ms
    limits = {name: Amount(whole * share**progress, False) for name, (whole, share) in shares}
    if asked is not None and asked.is_share:
        limits["max_ms"] = Amount(asked.value**progress / _left(before), True)
    return limits


def _left(rounds: list[Round]) -> float:
    """Share of the milliseconds that rounds have left, each measured in turns with what it set out from."""
    reports = [each.report for each in rounds]
    return math.prod(r["after"]["latency_ms"]["p50"] / r["before"]["latency_ms"]["p50"] for r in reports)


def _training(job: Job, this: Round) -> list[str]:
    """What train.py would be told: to go on where it was broken off, else to start."""
    args, folder = job.args, this.folder / "tuned"
    words: list[object] = ["--workers", args.workers, "--device", args.device]
    words += ["--threads", args.threads] if args.threads else []
    if (folder / LAST).exists():
        return [str(word) for word in (*words, "--resume", folder / LAST)]
    words += ["--cfg", this.files.cfg, "--weights", this.files.weights, "--data", job.project.needed("data")]
    words += ["--epochs", args.tune_epochs, "--output", folder, "--seed", args.seed, "--no-multi-scale"]
    words += ["--t_weights", job.project.needed("weights")]
    words += ["--t_cfg", job.project.cfg] if job.project.cfg else []
    words += ["--img_size", *args.img_size] if args.img_size else []
    return [str(word) for word in words]


def _outcome(job: Job, rounds: list[Round]) -> Outcome:
    """The last round's network beside the one that all set out from."""
    last = rounds[-1]
    tuned = DarknetSubject.of(open_files(last.files.cfg, last.weights).to(job.device).eval())
    pruned_last = open_files(last.files.cfg, last.files.weights).to(job.device).eval()
    checks = [
        replace(_check(line), name=f"round {each.number}, {line['name']}")
        for each in rounds
        for line in each.report["ledger"]
    ]
    measured = timing(job, job.model, tuned.model, LONG) if job.args.max_ms is not None else None
    return Outcome(
        saved=tuned,
        ledger=Ledger.of(tuned.model, checks),
        networks={"before": job.model, "last_pruned": pruned_last},
        written="fine_tuned",
        sections=_sections([each.report["sections"] for each in rounds]),
        scores=job.scorer(job.subject),
        timing=measured,
        notes=tuple(_notes(job, rounds, measured)),
    )


def _notes(job: Job, rounds: list[Round], measured: Timing | None) -> Iterator[str]:
    for each in rounds:
        size = f"round {each.number}: {each.report['after']['parameters']:,} parameters"
        worse = ", which did harm, so it goes on as pruned" if each.is_worse_tuned else ""
        yield f"{size}, mAP@0.5 pruned {percent(each.pruned)}, fine-tuned {percent(each.tuned)}{worse}"
    if measured is not None and measured.before is not None and measured.after is not None:
        asked = job.args.max_ms.of(measured.before.p50)
        slower = ", more than asked for: other work on the machine?" if measured.after.p50 > asked else ""
        yield f"{measured.after.p50:.2f} ms of {asked:.2f} asked for, measured on {measured.runtime}{slower}"
    yield f"every round lies in {rounds[-1].folder.parent}"
    yield from recalibration_notes(job)


def _read(path: Path) -> dict[str, Any]:
    """A round's JSON."""
    return read_report(path, f"remove the folder {path.parent}")


def _check(line: dict[str, Any]) -> Check:
    return Check(**{name: value for name, value in line.items() if name != "passed"})


def _sections(rounds: list[list[dict[str, Any]]]) -> tuple[SectionChange, ...]:
    """Which filters of the network as given are left: a round's masks are of those that the last one left."""
    changes = []
    for found in zip(*rounds, strict=True):
        left = np.arange(found[0]["filters_before"])
        for each in found:
            left = left[decode_mask(each["kept"])]
        mask = np.isin(np.arange(found[0]["filters_before"]), left)
        changes.append(SectionChange(found[0]["index"], mask))
    return tuple(changes)
