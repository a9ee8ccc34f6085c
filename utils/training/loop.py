"""The training loop: epochs, validation, checkpoints.

`last.pt` holds all that a resumed run needs, `best.pt` the network of the best epoch; both hold the average
that was validated, not the raw weights. Invariant: a run that is killed and resumed ends as one that was
not, since an epoch's randomness depends on the seed and the epoch's number alone.
"""

import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from utils.darknet.checkpoint import Checkpoint, save_checkpoint
from utils.darknet.model import Darknet
from utils.data.loader import Loader
from utils.detection.decode import HeadSpec, decode_heads
from utils.detection.evaluator import Evaluation, evaluate
from utils.errors import ToolkitError
from utils.pruning.sparsity import GammaPenalty
from utils.training.distillation import Teacher
from utils.training.freezing import Freezing
from utils.training.history import FILES as HISTORY_FILES
from utils.training.history import EpochRecord, History, gamma_statistics
from utils.training.options import TrainingOptions
from utils.training.processes import Processes
from utils.training.trainer import Trainer

LAST, BEST = "last.pt", "best.pt"
OUTPUTS = (LAST, BEST, *HISTORY_FILES)


class Loaders(NamedTuple):
    """Training batches, validation batches (None: every epoch counts as the best), class names."""

    train: Loader
    valid: Loader | None
    names: tuple[str, ...]


class Observer(Protocol):
    """Who wants to know how it goes; the commands draw bars and lines with it."""

    def epoch_started(self, epoch: int) -> None:
        """Epoch `epoch` (from 1) begins."""

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Batch `number` (from 1) is done; the parts of the loss, averaged over the epoch so far."""

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """The epoch is validated and its checkpoints are written."""


def train(
    model: Darknet,
    loaders: Loaders,
    options: TrainingOptions,
    output: Path,
    *,
    observer: Observer,
    penalty: GammaPenalty | None = None,
    teacher: Teacher | None = None,
    resume: Checkpoint | None = None,
    processes: Processes | None = None,
    context: Mapping[str, Any] | None = None,
) -> History:
    """Train `model` and leave last.pt, best.pt, history.csv and history.png in `output`.

    Args:
        model: the network, on its device; ends with the raw weights of the last step.
        loaders: what to train and validate on.
        options: the run's choices.
        output: folder of the results.
        observer: told of every batch and epoch.
        penalty: added to the gradients once a step; its candidates' gammas go into the history.
        teacher: a network to distil from.
        resume: the checkpoint of this run to continue.
        processes: where several train together.
        context: plain values to keep in last.pt for whoever resumes.

    Raises:
        ToolkitError: a loss is not finite, or the checkpoint is none of such a run.
    """
    processes = processes or Processes()
    rest = (penalty, teacher, processes, Freezing(model))
    trainer = Trainer(model, model.head_specs, options, len(loaders.train), *rest)
    history = _restored(trainer, resume) if resume else History()
    if resume and processes.is_first:  # it may have been killed, or copied elsewhere, before all was written
        _save(trainer, history, output, dict(context or {}))
    for epoch in range(len(history.records), options.epochs):
        started = time.perf_counter()
        seed_epoch(options.seed, epoch)
        loaders.train.set_epoch(epoch)
        observer.epoch_started(epoch + 1)
        means = trainer.train_epoch(loaders.train, observer.batch_done)
        accuracy = _accuracy(trainer, loaders) if processes.is_first else math.nan
        record = _record(epoch + 1, means, accuracy, trainer, time.perf_counter() - started)
        history = history.extended(record)
        if processes.is_first:  # the others only count
            _save(trainer, history, output, dict(context or {}))
            observer.epoch_done(record, history.best is record)
        processes.barrier()
    return history


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed every generator for one epoch: a resumed run draws what an unbroken one would have drawn."""
    mixed = (seed * 1_000_003 + epoch) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def validate(
    model: nn.Module, loader: Loader, specs: tuple[HeadSpec, ...], names: tuple[str, ...]
) -> Evaluation:
    """Evaluate a network in Darknet style and full precision, as evaluate.py will find it again."""
    device = next(model.parameters()).device

    def predict(images: Tensor) -> Tensor:
        return decode_heads(model(images.to(device, memory_format=torch.channels_last)), specs)

    model.eval()
    return evaluate(predict, loader, names, style="darknet", specs=specs)


def _accuracy(trainer: Trainer[Darknet], loaders: Loaders) -> float:
    if loaders.valid is None:
        return math.nan
    return validate(trainer.evaluated, loaders.valid, trainer.specs, loaders.names).map50


def _record(
    epoch: int, means: Mapping[str, float], accuracy: float, trainer: Trainer[Darknet], seconds: float
) -> EpochRecord:
    rate = trainer.optimizer.param_groups[0]["lr"]
    columns = {**means, **gamma_statistics(trainer.gammas())}
    return EpochRecord(epoch=epoch, map50=accuracy, learning_rate=rate, seconds=seconds, **columns)


def _save(trainer: Trainer[Darknet], history: History, output: Path, context: dict[str, Any]) -> None:
    """best.pt first: if the run is killed in between, the resumed run repeats the epoch and writes both."""
    summary = {"epoch": history.records[-1].epoch, "map50": history.records[-1].map50}
    if history.best is history.records[-1]:
        save_checkpoint(output / BEST, trainer.evaluated, summary)
    state = {
        **summary,
        "options": trainer.options.to_mapping(),
        "history": history.to_list(),
        "trainer": trainer.state_dict(),
        "context": context,
    }
    save_checkpoint(output / LAST, trainer.evaluated, state)
    history.write(output)


def _restored(trainer: Trainer[Darknet], checkpoint: Checkpoint) -> History:
    if "trainer" not in checkpoint.training:
        raise ToolkitError(
            "--resume: this checkpoint holds no training state; name the last.pt of a run, or start anew "
            "with --weights"
        )
    trainer.load_state_dict(checkpoint.training["trainer"], checkpoint.state)
    return History.from_list(checkpoint.training["history"])
