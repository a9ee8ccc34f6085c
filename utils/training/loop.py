"""The training loop: epochs, validation, checkpoints.

`last.pt` holds all that a resumed run needs, `previous.pt` is the checkpoint before it, `best.pt` the network
of the best epoch; all hold the averaged weights that were validated beside the raw ones. Invariant: a run
that is killed at any moment and resumed ends bitwise as an uninterrupted one: the random numbers of an epoch
depend on the seed and the epoch alone, and a checkpoint within an epoch holds what the rest of it depends on.
"""

import ctypes
import logging
import math
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..darknet.checkpoint import Checkpoint, save_checkpoint
from ..darknet.model import Darknet
from ..data.loader import Loader
from ..detection.decode import HeadSpec, decode_heads
from ..detection.evaluator import Evaluation, Scoring, evaluate
from ..errors import ToolkitError
from ..pruning.sparsity import GammaPenalty
from .history import FILES as HISTORY_FILES
from .history import EpochRecord, History, gamma_statistics
from .optimizer import Freezing
from .options import TrainingOptions
from .processes import InterruptedTrainingError, Interruption, Processes, listening
from .trainer import NotFiniteError, Objective, Trainer

logger = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
OUTPUTS = (LAST, PREVIOUS, BEST, *HISTORY_FILES)
_DRAWING_SECONDS = 30.0  # between two drawings of the history in a run
# keys of mallopt(3), and their values
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST, _PAD = 2**31 - 1, 64 << 20
# how often a run returns to its last good state, and the factor on the learning rate then
MOST_RETURNS, SLOWER = 5, 0.5


class Loaders(NamedTuple):
    """Training batches, validation batches (None: every epoch counts as the best), class names."""

    train: Loader
    valid: Loader | None
    names: tuple[str, ...]


class Observer(Protocol):
    """Progress callbacks; the commands draw bars and lines with them."""

    def epoch_started(self, epoch: int, done: int) -> None:
        """Epoch `epoch` (from 1) begins, or is resumed after its first `done` batches."""

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
    """Optional parts of a run.

    Attributes:
        penalty: sparsity penalty, added once per step; its candidates' gammas are recorded in the history.
        objective: the loss; None for the modern loss of the options.
        free_share: from the evaluated network to the share of its channels that can be removed without
            changing the outputs; for the history.
        processes: that train together.
        context: plain values to keep in last.pt for resuming.
        save_seconds: a checkpoint is also written within an epoch when the last one is older.
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
    """Train `model` and write OUTPUTS to `output`.

    Args:
        model: the network, on its device; ends with the raw weights of the last step.
        loaders: training and validation data.
        options: hyper-parameters.
        output: folder of the results.
        observers: called for every batch and epoch.
        extras: penalty, loss and the like.
        resume: checkpoint of the run to continue.

    Raises:
        InterruptedTrainingError: SIGINT or SIGTERM came; the state is saved.
        ToolkitError: the loss is repeatedly not finite, or the checkpoint cannot be resumed.
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
        try:
            while len(run.history.records) < options.epochs:
                run.epoch(interruption)
        except InterruptedTrainingError:
            run.draw()
            raise
        run.draw()
    return run.history


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed every generator for one epoch, so that a resumed run draws the same numbers."""
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
        self._saved_at = self._drawn_at = time.monotonic()
        self._is_drawn = True
        # whether the file that the next checkpoint replaces is an earlier state of this run
        self._rotates = True

    def epoch(self, interruption: Interruption) -> None:
        """Train, validate and save one epoch, or the rest of one."""
        trainer, number = self.trainer, len(self.history.records)
        started, done = time.perf_counter(), trainer.done
        if not done:
            seed_epoch(trainer.options.seed, number)
            self._good = trainer.snapshot()  # before s is chosen, since a return chooses it again
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
                "name the last.pt of a run, or start a new run with --weights",
            )
        self.trainer.load_state_dict(checkpoint.training["trainer"], checkpoint.state)
        self.history = History.from_list(checkpoint.training["history"])
        self._returns, self._position = checkpoint.training["returns"], checkpoint.training["position"]
        good = checkpoint.training["good"]
        self._good = (good[0], good[1]) if good else None
        self._rotates = False  # it may be damaged, or the state that is continued here
        if self.processes.is_first and self.history.records and not self.trainer.done:
            # the run may have been killed, or copied elsewhere, before all files were written
            self._save(is_best=self.history.best is self.history.records[-1])
            self._write()

    def draw(self) -> None:
        """Draw the history, if the pictures are older than the table."""
        if not self._is_drawn:
            self.history.draw(self.output)
            self._is_drawn, self._drawn_at = True, time.monotonic()

    def _write(self) -> None:
        """Write the table, and the pictures from time to time: they take a second, as a short epoch does."""
        self.history.write(self.output)
        self._is_drawn = False
        if time.monotonic() - self._drawn_at > _DRAWING_SECONDS:
            self.draw()

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
            f"a checkpoint is saved; continue with --resume {self.output / LAST}",
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
        """Validate, record and save an epoch whose batches are all done."""
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
        if self.processes.is_first:  # the others only keep the record
            self._save(is_best)
            self._write()
            for observer in self.observers:
                observer.epoch_done(record, is_best, trainer.evaluated, gammas)
        self.processes.barrier()

    def _accuracy(self, interruption: Interruption) -> float:
        """Validate the evaluated network; a signal interrupts this, after the epoch's steps are saved."""
        trainer, loaders = self.trainer, self.loaders
        if loaders.valid is None:
            return math.nan
        self.processes.align(trainer.evaluated)
        specs, names = trainer.objective.specs, loaders.names

        def listen(_: int) -> None:
            if interruption.signal and self.processes.count == 1:  # several end together, after the epoch
                self._save(is_best=False)
                raise self._interrupted(interruption)

        return validate(trainer.evaluated, loaders.valid, specs, names, self.processes, listen).map50

    def _return_to_good(self, error: NotFiniteError) -> None:
        self._returns += 1
        if self._good is None or self._returns > MOST_RETURNS:
            remedy = "restart with a smaller --learning-rate, or in full precision (--precision fp32)"
            raise ToolkitError(error.place, f"{error.fact} ({self._returns} times)", remedy) from error
        slower = self.trainer.rate * SLOWER
        self.trainer.load_state_dict(*self._good)
        self.trainer.rate = slower
        number = len(self.history.records) + 1
        logger.warning("%s; restarting epoch %d with learning rate %.3g", error, number, slower)

    def _save(self, is_best: bool) -> None:
        """Write the checkpoints; best.pt first, so that a run killed in between repeats the epoch."""
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
            "good": self._good if trainer.done else None,  # state to return to if the loss is not finite
            "context": dict(self.extras.context),
        }
        previous = self.output / PREVIOUS if self._rotates else None
        save_checkpoint(self.output / LAST, trainer.evaluated, state, previous)
        self._rotates = True
        self._saved_at = time.monotonic()


def validate(
    model: nn.Module,
    loader: Loader,
    specs: tuple[HeadSpec, ...],
    names: tuple[str, ...],
    processes: Processes | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a network in Darknet style and full precision, as evaluate.py does.

    Where several processes train, each evaluates its share of the images, and all get the whole result.
    `progress` is called after each batch with its number of images.
    """
    device = next(model.parameters()).device

    def predict(images: Tensor) -> Tensor:
        return decode_heads(model(images.to(device, memory_format=torch.channels_last)), specs)

    model.eval()
    merge = (processes or Processes()).merged
    return evaluate(predict, loader, names, Scoring(specs=specs), progress=progress, merge=merge)


def keep_freed_memory() -> bool:
    """Tell the C library's allocator to keep freed memory; returns whether it supports that, as glibc does.

    A step allocates and frees maps of tens of megabytes. The C library returns such blocks to the system each
    time and gets them back page by page: a third of the time of a step of a small network on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, _PAD))
    answers = [mallopt(key, value) for key, value in settings]
    return all(answer == 1 for answer in answers)
