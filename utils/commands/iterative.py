"""--iterative K: prune a part of the way, recalibrate, fine-tune for a while, K times down to the budget.

Each round starts from the one before; its limits lie on a geometric way from what the network costs to what
it may. A round that is done is not done again, and one that is broken off goes on where it was; rounds of
other files or options lie in another folder.
"""

import hashlib
import json
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.commands.budgets import shares_asked, within_budget
from utils.commands.ledger import Ledger
from utils.commands.project import open_files
from utils.commands.pruning_files import write_outcome
from utils.commands.pruning_job import Job, Outputs, open_job
from utils.commands.pruning_options import COSTS, Amount, given
from utils.commands.pruning_outcome import Outcome, outcome_of, pruned
from utils.commands.pruning_stages import evaluations, recalibration_notes
from utils.commands.results import write_json
from utils.commands.tables import percent
from utils.commands.train import run_training, train_parser
from utils.commands.trials import identity, settings
from utils.errors import ToolkitError
from utils.frontends.darknet import DarknetSubject
from utils.profiling import torch_threads
from utils.pruning.report import Check, SectionChange, decode_mask
from utils.training.interruption import InterruptedTrainingError
from utils.training.loop import BEST, LAST

DONE = "round.json"
# training images for batch-norm statistics, where --recalibrate does not say how many
RECALIBRATED = 64
# options that change what a round leaves; the limits are hashed with them
_KEYS = (
    "iterative", "tune_epochs", "score", "merge", "layer_keep", "align", "min_channels", "keep_sections",
    "fold", "recalibrate", "runtime", "img_size", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """What a round leaves in its folder.

    Attributes:
        number: from 1 on.
        folder: of its files.
        tuned: mAP@0.5 after fine-tuning.
    """

    number: int
    folder: Path
    tuned: float | None = None

    @property
    def files(self) -> Outputs:
        """As pruned."""
        paths = (self.folder / f"pruned{suffix}" for suffix in (".cfg", ".weights", ".json", ".html"))
        return Outputs(*paths)

    @property
    def best(self) -> Path:
        """The checkpoint, fine-tuned."""
        return self.folder / "tuned" / BEST

    @property
    def report(self) -> dict[str, Any]:
        """The JSON of its pruning."""
        return json.loads(self.files.report.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def run_rounds(job: Job) -> Outcome:
    """All rounds, and what became of the network in them.

    Args:
        job: of slim_prune.py, with limits.

    Raises:
        ToolkitError: a limit is missing, there is no data set to tune on, or mAP is below --min-map.
    """
    args = job.args
    if job.data is None:
        raise ToolkitError("--iterative: fine-tunes between the rounds; add --data")
    shares = shares_asked(job)
    if not shares:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in COSTS)
        raise ToolkitError(f"--iterative: goes down to a limit; add one of {options}")
    mark = hashlib.sha256(f"{identity(job)} {settings(args, _KEYS)}".encode()).hexdigest()[:8]
    folder = job.outputs.weights.parent / f"{job.outputs.weights.stem}_rounds" / mark
    rounds: list[Round] = []
    for number in range(1, args.iterative + 1):
        limits = {
            name: Amount(whole * share ** (number / args.iterative), False)
            for name, (whole, share) in shares.items()
        }
        rounds.append(_round(job, limits, Round(number, folder / str(number)), rounds))
    last = rounds[-1]
    if args.min_map is not None and (last.tuned is None or last.tuned < args.min_map):
        found = "was not measured" if last.tuned is None else f"is {last.tuned:.4f}"
        remedy = "tune longer (--tune-epochs), allow it to cost more, or accept less"
        raise ToolkitError(f"--min-map {args.min_map}: mAP@0.5 after the last round {found}; {remedy}")
    return _outcome(job, rounds)


def _round(job: Job, limits: dict[str, Amount], this: Round, before: list[Round]) -> Round:
    if (this.folder / DONE).exists():
        return replace(this, tuned=json.loads((this.folder / DONE).read_text(encoding="utf-8"))["tuned"])
    place = f"round {this.number} of {job.args.iterative}"
    if not this.files.report.exists():
        print(f"{place}: pruning")
        _prune(job, limits, this, before)
    print(f"{place}: fine-tuning")
    try:
        with torch_threads(torch.get_num_threads()):  # which training chooses for itself
            run_training(train_parser(None).parse_args(_training(job, this)), is_last=False)
    except InterruptedTrainingError as error:
        fact = f"interrupted in {place}; saved, so the same command goes on from there"
        raise InterruptedTrainingError(fact, error.exit_code - 128) from error
    model = open_files(this.files.cfg, this.best).to(job.device)
    found = evaluations(job, {place: model})[place]
    done = replace(this, tuned=None if found is None else found.map50)
    write_json(this.folder / DONE, {"tuned": done.tuned})
    return done


def _prune(job: Job, limits: dict[str, Amount], this: Round, before: list[Round]) -> None:
    """One pruning with a ledger and a JSON of its own; the page is of the whole run."""
    args = copy(job.args)
    args.iterative, args.report, args.verify = 1, False, "quick"
    args.min_map = None  # asked of what comes out in the end, fine-tuned
    del args.tune_epochs  # nothing is fine-tuned in it
    args.recalibrate = args.recalibrate if given(args, "recalibrate") else RECALIBRATED
    args.cfg, args.weights = job.project.cfg, job.project.weights
    if before:
        args.cfg, args.weights = before[-1].files.cfg, before[-1].best
    args.data = job.project.data
    vars(args).update({name: limits.get(name) for name in COSTS})
    own = replace(open_job(args, job.device, ""), outputs=this.files)
    budget = within_budget(own)
    write_outcome(own, outcome_of(own, pruned(own, (), budget), budget))


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
    reports = [each.report for each in rounds]
    last = rounds[-1]
    tuned = DarknetSubject.of(open_files(last.files.cfg, last.best).to(job.device).eval())
    pruned_last = open_files(last.files.cfg, last.files.weights).to(job.device).eval()
    checks = [
        replace(_check(line), name=f"round {each.number}, {line['name']}")
        for each, report in zip(rounds, reports, strict=True)
        for line in report["ledger"]
    ]
    told = [
        f"round {each.number}: {report['after']['parameters']:,} parameters, mAP@0.5 pruned "
        f"{percent(report['after']['map50'])}, fine-tuned {percent(each.tuned)}"
        for each, report in zip(rounds, reports, strict=True)
    ]
    return Outcome(
        saved=tuned,
        ledger=Ledger.of(tuned.model, checks),
        networks={"before": job.model, "last_pruned": pruned_last},
        written="fine_tuned",
        sections=_sections([report["sections"] for report in reports]),
        scores=job.scorer(job.subject),
        notes=(*told, f"every round lies in {last.folder.parent}", *recalibration_notes(job)),
    )


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
