"""The training loop: epochs, validation, checkpoints.

`last.pt` holds all that a resumed run needs, `previous.pt` the one before it, `best.pt` the network of the
best epoch; all hold the average that was validated beside the raw weights. Invariant: a run that is killed
at any moment and resumed ends bitwise as one that was not: an epoch's randomness depends on the seed and the
epoch alone, and a checkpoint inside an epoch holds what the rest of the epoch depends on.
"""

import logging
import math
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..darknet.checkpoint import Checkpoint, save_checkpoint
from ..darknet.model import Darknet
from ..data.loader import Loader
from ..errors import ToolkitError
from ..pruning.sparsity import GammaPenalty
from .freezing import Freezing
from .history import FILES as HISTORY_FILES
from .history import EpochRecord, History, gamma_statistics
from .interruption import InterruptedTrainingError, Interruption, listening
from .memory import keep_freed_memory
from .objective import Objective
from .options import TrainingOptions
from .processes import Processes
from .trainer import NotFiniteError, Trainer
from .validation import validate

logger = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
OUTPUTS = (LAST, PREVIOUS, BEST, *HISTORY_FILES)
# how often a run returns to its last good state, and what becomes of the learning rate then
MOST_RETURNS, SLOWER = 5, 0.5


class Loaders(NamedTuple):
    """Training batches, validation batches (None: every epoch counts as the best), class names."""

    train: Loader
    valid: Loader | None
    names: tuple[str, ...]


class Observer(Protocol):
    """Progress callbacks; the commands draw bars and lines with them."""

    def epoch_started(self, epoch: int, done: int) -> None:
        """Epoch `epoch` (from 1) begins, or goes on behind its first `done` batches."""

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Batch `number` (from 1) is done; the parts of the loss, averaged over the epoch so far."""

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """The epoch is validated and its checkpoints are written.

        Args:
            record: its figures.
            is_best: whether it has the highest mAP so far.
            model: the network that was validated.
            gammas: (n,) |gamma| of the candidates.
        """


@dataclass(frozen=True)
class Extras:
    """What a run may have besides a network and images.

    Attributes:
        penalty: added once a step; its candidates' gammas go into the history.
        objective: what is minimised; the modern loss of the options if None.
        free_share: from the evaluated network to the share of channels that could go; for the history.
        processes: where several train together.
        context: plain values to keep in last.pt for whoever resumes.
        save_seconds: a checkpoint is also written inside an epoch when the last one is older.
    """

    penalty: GammaPenalty | None = None
    objective: Objective | None = None
    free_share: Callable[[Darknet], float] | None = None
    processes: Processes = field(default_factory=Processes)
    context: Mapping[str, Any] = field(default_factory=dict)
    save_seconds: float = 600.0


def train(
    model: Darknet,
    loaders: Loaders,
    options: TrainingOptions,
    output: Path,
    *,
    observers: Sequence[Observer] = (),
    extras: Extras | None = None,
    resume: Checkpoint | None = None,
) -> History:
    """Train `model` and leave OUTPUTS in `output`.

    Args:
        model: the network, on its device; ends with the raw weights of the last step.
        loaders: what to train and validate on.
        options: the run's choices.
        output: folder of the results.
        observers: called for every batch and epoch.
        extras: penalty, teacher and the like.
        resume: the checkpoint of this run to continue.

    Raises:
        InterruptedTrainingError: SIGINT or SIGTERM came; the state is saved.
        ToolkitError: a loss is not finite again and again, or the checkpoint is none of such a run.
    """
    extras = extras or Extras()
    if next(model.parameters()).device.type == "cpu":
        keep_freed_memory()
    rest = (extras.penalty, extras.objective, extras.processes, Freezing(model, options.freeze))
    trainer = Trainer(model, model.head_specs, options, len(loaders.train), *rest)
    run = _EpochLoop(trainer, loaders, output, observers, extras)
    if resume:
        run.restore(resume)
    with listening() as interruption:
        while len(run.history.records) < options.epochs:
            run.epoch(interruption)
    return run.history


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed every generator for one epoch: a resumed run draws what an unbroken one would have drawn."""
    mixed = (seed * 1_000_003 + epoch) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


class _EpochLoop:
    """The state of a training between two steps, and how it is saved."""

    def __init__(
        self,
        trainer: Trainer[Darknet],
        loaders: Loaders,
        output: Path,
        observers: Sequence[Observer],
        extras: Extras,
    ) -> None:
        self.trainer, self.loaders, self.output = trainer, loaders, output
        self.observers, self.extras, self.processes = observers, extras, extras.processes
        self.history = History()
        self._returns = self._position = 0
        self._good: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        self._saved_at = time.monotonic()
        # whether the file that the next checkpoint replaces is of an earlier state of this run
        self._rotates = True

    def epoch(self, interruption: Interruption) -> None:
        """Train, validate and save one epoch, or what is left of it."""
        trainer, number = self.trainer, len(self.history.records)
        started, done = time.perf_counter(), trainer.done
        if not done:
            seed_epoch(trainer.options.seed, number)
            self._good = trainer.snapshot()  # before s is chosen, which a return does again
            if trainer.penalty:
                trainer.penalty.start_epoch(number / trainer.options.epochs)
        self.loaders.train.set_epoch(number, skip=self._position if done else 0)
        for observer in self.observers:
            observer.epoch_started(number + 1, done)
        try:
            means = trainer.train_epoch(
                self.loaders.train, self._after_batch, lambda: self._after_step(interruption)
            )
        except NotFiniteError as error:
            self._return_to_good(error)
            return
        seconds = time.perf_counter() - started
        images = (len(self.loaders.train) - done) * self.loaders.train.batch_size * self.processes.count
        self._finish(number, means, started, images / seconds, interruption)
        if self.processes.any(bool(interruption.signal), trainer.device):
            raise self._interrupted(interruption)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue where a checkpoint was written."""
        if "trainer" not in checkpoint.training:
            raise ToolkitError(
                "--resume",
                "this checkpoint holds no training state",
                "name the last.pt of a run, or start anew with --weights",
            )
        self.trainer.load_state_dict(checkpoint.training["trainer"], checkpoint.state)
        self.history = History.from_list(checkpoint.training["history"])
        self._returns, self._position = checkpoint.training["returns"], checkpoint.training["position"]
        good = checkpoint.training["good"]
        self._good = (good[0], good[1]) if good else None
        self._rotates = False  # it may be damaged, or the state that is continued here
        if self.processes.is_first and self.history.records and not self.trainer.done:
            # the run may have been killed, or copied elsewhere, before all was written
            self._save(is_best=self.history.best is self.history.records[-1])
            self.history.write(self.output)

    def _after_batch(self, number: int, means: Mapping[str, float]) -> None:
        for observer in self.observers:
            observer.batch_done(number, means)

    def _after_step(self, interruption: Interruption) -> None:
        trainer = self.trainer
        asked = self.processes.any(bool(interruption.signal), trainer.device)
        old = time.monotonic() - self._saved_at > self.extras.save_seconds
        if self.processes.is_first and (asked or old):
            self._save(is_best=False)
        if asked:
            raise self._interrupted(interruption)

    def _interrupted(self, interruption: Interruption) -> InterruptedTrainingError:
        epoch = min(len(self.history.records) + 1, self.trainer.options.epochs)
        place = f"after step {self.trainer.step}, in epoch {epoch}"
        return InterruptedTrainingError(
            place,
            f"saved, so go on with: --resume {self.output / LAST}",
            interruption.signal or signal.SIGTERM,
        )

    def _finish(
        self,
        number: int,
        means: Mapping[str, float],
        started: float,
        speed: float,
        interruption: Interruption,
    ) -> None:
        """Validate, note and save an epoch whose batches are all done."""
        trainer, extras = self.trainer, self.extras
        accuracy = self._accuracy(interruption)
        trainer.end_epoch()
        asked = extras.free_share is not None and self.processes.is_first
        free = extras.free_share(trainer.evaluated) if asked and extras.free_share else math.nan
        gammas = trainer.gammas()
        columns: dict[str, Any] = {**means, **gamma_statistics(gammas)}
        record = EpochRecord(
            epoch=number + 1,
            map50=accuracy,
            learning_rate=trainer.rate * trainer.schedule.factor(max(trainer.step - 1, 0)),
            seconds=time.perf_counter() - started,
            s=trainer.penalty.s if trainer.penalty else 0.0,
            free_share=free,
            images_per_second=speed,
            **columns,
        )
        self.history = self.history.extended(record)
        is_best = self.history.best is record
        if self.processes.is_first:  # the others only count
            self._save(is_best)
            self.history.write(self.output)
            for observer in self.observers:
                observer.epoch_done(record, is_best, trainer.evaluated, gammas)
        self.processes.barrier()

    def _accuracy(self, interruption: Interruption) -> float:
        """Of the evaluated network; a request to end does not wait for it, the epoch's steps are saved."""
        trainer, loaders = self.trainer, self.loaders
        if loaders.valid is None:
            return math.nan
        self.processes.align(trainer.evaluated)
        specs, names = trainer.objective.specs, loaders.names

        def listen(_: int) -> None:
            if interruption.signal and self.processes.count == 1:  # several end together, behind the epoch
                self._save(is_best=False)
                raise self._interrupted(interruption)

        return validate(trainer.evaluated, loaders.valid, specs, names, self.processes, listen).map50

    def _return_to_good(self, error: NotFiniteError) -> None:
        self._returns += 1
        if self._good is None or self._returns > MOST_RETURNS:
            remedy = "start again with a smaller --learning-rate, or in full precision (--precision fp32)"
            raise ToolkitError(error.place, f"{error.fact}, {self._returns} times now", remedy) from error
        slower = self.trainer.rate * SLOWER
        self.trainer.load_state_dict(*self._good)
        self.trainer.rate = slower
        number = len(self.history.records) + 1
        logger.warning("%s; epoch %d starts again with the learning rate %.3g", error, number, slower)

    def _save(self, is_best: bool) -> None:
        """best.pt first: a run that is killed in between repeats the epoch and writes both."""
        trainer, records = self.trainer, self.history.records
        summary = {"epoch": len(records), "map50": records[-1].map50 if records else math.nan}
        if is_best:
            save_checkpoint(self.output / BEST, trainer.evaluated, summary)
        state = {
            **summary,
            "options": trainer.options.to_mapping(),
            "history": self.history.to_list(),
            "returns": self._returns,
            "position": self.loaders.train.position,
            "trainer": trainer.state_dict(),
            "good": self._good if trainer.done else None,  # what a loss that is not finite returns to
            "context": dict(self.extras.context),
        }
        previous = self.output / PREVIOUS if self._rotates else None
        save_checkpoint(self.output / LAST, trainer.evaluated, state, previous)
        self._rotates = True
        self._saved_at = time.monotonic()
