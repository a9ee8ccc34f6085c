"""Iterative pruning (--iterative K): K rounds of pruning, recalibration and fine-tuning, down to the limits.

Each round starts from the network of the round before; the limits of the rounds form a geometric sequence
from what the unpruned network costs to what was asked for. A finished round is not repeated, and an
interrupted one is resumed; rounds of other files or options have folders of their own.
"""

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ToolkitError
from ...frontends.darknet.subject import DarknetSubject
from ...pruning.budget_search import WithinBudgetError
from ...pruning.channels import decode_mask
from ...pruning.layers import torch_threads
from ...pruning.report import Check, SectionChange
from ...training.loop import BEST, LAST
from ...training.processes import InterruptedTrainingError
from ..inputs import open_files
from ..latency.measure import fingerprint
from ..output import percent, read_report, write_json
from ..train.options import TrainOptions
from ..train.run import RunObserver, train
from .budget import Budget, requested_shares, within_budget
from .budget_latency import LONG
from .job import Job, LatencyPair, OutputFiles, open_job
from .ledger import Ledger
from .options import COSTS, Amount, PruningOptions, spelled
from .run import PrunedNetwork, proven, prune_network, write
from .sweep import identity, settings

logger = logging.getLogger(__name__)

DONE = "round.json"
# training images for batch-norm statistics, where --recalibrate does not say how many
RECALIBRATED = 64
# options that change the result of a round, beside the limits; --min-map is required of the last round only
_KEYS = (
    "iterative", "tune_epochs", "score", "merge", "layer_keep", "align", "min_channels", "keep_sections",
    "fold", "img_size", "seed", "no_eval",
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """A round of pruning and fine-tuning, by its folder.

    Attributes:
        number: from 1 on.
        folder: of its files.
        tuned: mAP@0.5 after fine-tuning; None where it was not measured.
    """

    number: int
    folder: Path
    tuned: float | None = None

    @property
    def files(self) -> OutputFiles:
        """Of its pruning."""
        paths = (self.folder / f"pruned{suffix}" for suffix in (".cfg", ".weights", ".json", ".html"))
        return OutputFiles(*paths)

    @property
    def training(self) -> Path:
        """Folder of its fine-tuning."""
        return self.folder / "tuned"

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
        """Whether the short fine-tuning lowered mAP, so that the network as pruned is used."""
        return None not in (self.tuned, self.pruned) and self.tuned < self.pruned  # type: ignore[operator]

    @property
    def weights(self) -> Path:
        """Of the better network: fine-tuned or as pruned."""
        return self.files.weights if self.is_worse_tuned else self.training / BEST


def run_rounds(job: Job, observer: RunObserver | None = None) -> PrunedNetwork:
    """Run all rounds.

    Args:
        job: of slim_prune.py, with limits.
        observer: progress callbacks of the fine-tuning.

    Raises:
        ToolkitError: a limit is missing, there is no data set to fine-tune on, or mAP is below --min-map.
    """
    options = job.options
    if job.data is None:
        raise ToolkitError("--iterative", "fine-tunes between the rounds", "add --data")
    if not _given_limits(options):
        limits = ", ".join(map(spelled, COSTS))
        raise ToolkitError("--iterative", "needs a limit to prune to", f"add one of {limits}")
    weights = job.project.needed("weights")
    folder = job.outputs.weights.parent / f"{weights.stem}_rounds" / _mark(job)
    rounds: list[Round] = []
    for number in range(1, options.iterative + 1):
        rounds.append(_round(job, Round(number, folder / str(number)), rounds, observer))
    last = rounds[-1]
    reached = last.pruned if last.is_worse_tuned else last.tuned
    if options.min_map is not None and (reached is None or reached < options.min_map):
        found = "was not measured" if reached is None else f"is {reached:.4f}"
        remedy = f"add --tune-epochs, raise the limits or lower --min-map; the rounds are in {folder}"
        raise ToolkitError(f"--min-map {options.min_map}", f"mAP@0.5 after the last round {found}", remedy)
    return _result(job, rounds)


def _given_limits(options: PruningOptions) -> dict[str, Amount]:
    limits = (options.max_ms, options.max_macs, options.max_params, options.max_mb)
    return {name: limit for name, limit in zip(COSTS, limits, strict=True) if limit is not None}


def _mark(job: Job) -> str:
    """A few digits of a digest of everything that changes the result of a round."""
    limits = {name: _given_limits(job.options).get(name) for name in COSTS}
    facts = [identity(job), settings(job.options, _KEYS), limits, _images_to_recalibrate(job.options)]
    if job.options.max_ms is not None or job.aligns_itself:
        facts += [fingerprint(job.runtime), job.options.latency_table]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def _images_to_recalibrate(options: PruningOptions) -> int:
    """Training images for the batch-norm statistics of each round."""
    return RECALIBRATED if options.recalibrate is None else options.recalibrate


def _round(job: Job, this: Round, before: list[Round], observer: RunObserver | None) -> Round:
    if (this.folder / DONE).exists():
        return replace(this, tuned=_read(this.folder / DONE)["tuned"])
    place = f"round {this.number} of {job.options.iterative}"
    if not this.files.report.exists():
        logger.info("%s: pruning", place)
        _prune(job, this, before)
    logger.info("%s: fine-tuning", place)
    try:
        with torch_threads(torch.get_num_threads()):  # which training chooses for itself
            train(_training(job, this), observer)
    except InterruptedTrainingError as error:
        remedy = "saved; the same command resumes it"
        raise InterruptedTrainingError(f"in {place}", remedy, error.exit_code - 128) from error
    model = open_files(this.files.cfg, this.training / BEST).to(job.device)
    found = job.evaluated({place: model})[place]
    done = replace(this, tuned=None if found is None else found.map50)
    write_json(this.folder / DONE, {"tuned": done.tuned})
    return done


def _prune(job: Job, this: Round, before: list[Round]) -> None:
    """One pruning with a ledger and a JSON of its own; the HTML page is of the whole run."""
    own = open_job(_options(job, this, before), job.device, track=job.track)
    own = replace(own, outputs=this.files)
    try:
        budget = within_budget(own)
    except WithinBudgetError:  # the round before went further than it had to
        whole = np.ones(own.subject.graph.unit_count, dtype=np.bool_)
        budget = Budget(whole, ("already within the limits of this round: nothing was removed",))
    write(own, proven(own, prune_network(own, (), budget), budget))


def _options(job: Job, this: Round, before: list[Round]) -> PruningOptions:
    """Of the pruning of a round."""
    project = job.project
    cfg, weights = (before[-1].files.cfg, before[-1].weights) if before else (project.cfg, project.weights)
    own = replace(
        job.options,
        cfg=cfg,
        weights=weights,
        data=project.data,
        iterative=1,
        tune_epochs=PruningOptions.tune_epochs,
        min_map=None,  # required of the final, fine-tuned network
        recalibrate=_images_to_recalibrate(job.options),
        report=False,
        verify="quick",
    )
    limits: dict[str, Any] = {**limits_of_round(job, this.number / job.options.iterative, before)}
    return replace(own, **limits)


def limits_of_round(job: Job, progress: float, before: list[Round]) -> dict[str, Amount]:
    """The limits after a share `progress` of the way.

    A share of the milliseconds remains a share, of the network that the round starts from.
    """
    asked = job.options.max_ms
    limits = {
        name: Amount(whole * share**progress, False) for name, (whole, share) in requested_shares(job).items()
    }
    if asked is not None and asked.is_share:
        limits["max_ms"] = Amount(asked.value**progress / _left(before), True)
    return limits


def _left(rounds: list[Round]) -> float:
    """Share of the milliseconds that is left, each round measured interleaved with the one before."""
    reports = [each.report for each in rounds]
    return math.prod(r["after"]["latency_ms"]["p50"] / r["before"]["latency_ms"]["p50"] for r in reports)


def _training(job: Job, this: Round) -> TrainOptions:
    """Options of the fine-tuning: to resume an interrupted one, else to start it."""
    options, project = job.options, job.project
    machine = {"workers": options.workers, "device": options.device, "threads": options.threads}
    if (this.training / LAST).exists():
        return TrainOptions(resume=this.training / LAST, **machine)  # type: ignore[arg-type]
    return TrainOptions(
        cfg=this.files.cfg,
        weights=this.files.weights,
        data=project.needed("data"),
        img_size=options.img_size,
        epochs=options.tune_epochs,
        multi_scale=False,
        t_cfg=project.cfg,
        t_weights=project.needed("weights"),
        output=this.training,
        seed=options.seed,
        **machine,  # type: ignore[arg-type]
    )


def _result(job: Job, rounds: list[Round]) -> PrunedNetwork:
    """The network of the last round, compared with the unpruned one."""
    last = rounds[-1]
    tuned = DarknetSubject.of(open_files(last.files.cfg, last.weights).to(job.device).eval())
    pruned_last = open_files(last.files.cfg, last.files.weights).to(job.device).eval()
    checks = [
        replace(_check(line), name=f"round {each.number}, {line['name']}")
        for each in rounds
        for line in each.report["ledger"]
    ]
    timed = job.options.max_ms is not None
    latencies = job.latencies(job.model, tuned.model, LONG) if timed else None
    return PrunedNetwork(
        saved=tuned,
        ledger=Ledger.of(tuned.model, checks),
        networks={"before": job.model, "last_pruned": pruned_last},
        stage="fine_tuned",
        sections=total_sections([each.report["sections"] for each in rounds]),
        scores=job.scorer(job.subject),
        latencies=latencies,
        notes=tuple(_notes(job, rounds, latencies)),
    )


def _notes(job: Job, rounds: list[Round], latencies: LatencyPair | None) -> Iterator[str]:
    for each in rounds:
        size = f"round {each.number}: {each.report['after']['parameters']:,} parameters"
        worse = "; fine-tuning lowered it, so the network as pruned was used" if each.is_worse_tuned else ""
        yield f"{size}, mAP@0.5 pruned {percent(each.pruned)}, fine-tuned {percent(each.tuned)}{worse}"
    limit = job.options.max_ms
    if limit is not None and latencies is not None and latencies.before and latencies.after:
        taken, most = latencies.after.p50, limit.of(latencies.before.p50)
        slower = "; above the limit, perhaps because of other load on the machine" if taken > most else ""
        yield f"{taken:.2f} ms of at most {most:.2f}, measured on {latencies.runtime}{slower}"
    yield f"all rounds are in {rounds[-1].folder.parent}"
    yield from job.recalibration_notes()


def _read(path: Path) -> dict[str, Any]:
    """The JSON of a round."""
    return read_report(path, f"remove the folder {path.parent}")


def _check(line: dict[str, Any]) -> Check:
    return Check(**{name: value for name, value in line.items() if name != "passed"})


def total_sections(rounds: list[list[dict[str, Any]]]) -> tuple[SectionChange, ...]:
    """Which filters of the unpruned network are left: masks of a round refer to the round before."""
    changes = []
    for found in zip(*rounds, strict=True):
        left = np.arange(found[0]["filters_before"])
        for each in found:
            left = left[decode_mask(each["kept"])]
        mask = np.isin(np.arange(found[0]["filters_before"]), left)
        changes.append(SectionChange(found[0]["index"], mask))
    return tuple(changes)
