"""One optimizer step, told in order, and the state that steps change.

    forward under autocast -> loss in float32 -> backward, once per accumulated batch
    -> unscale -> clip -> sparsity penalty -> optimizer -> weight average

Invariant: one optimizer step sees the mean gradient of its batches and the penalty's gradient exactly once,
whatever accumulation, precision or number of processes; clipping never weakens the penalty.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic, Protocol, cast

import torch
from torch import Tensor, nn

from utils.detection.decode import HeadSpec
from utils.errors import DatasetError, ToolkitError
from utils.pruning.sparsity import GammaPenalty
from utils.training.distillation import Teacher, distillation_loss
from utils.training.ema import Model, WeightAverage
from utils.training.freezing import Freezing
from utils.training.losses import yolo_loss
from utils.training.optimizer import make_optimizer, scaled_rate, set_rate
from utils.training.options import TrainingOptions
from utils.training.precision import autocast, channels_last, half_type
from utils.training.processes import Processes, gradient_sync
from utils.training.schedule import Schedule

PARTS = ("loss", "box", "objectness", "classes", "distillation", "farther")
OnBatch = Callable[[int, Mapping[str, float]], None]


class Batch(Protocol):
    """What the trainer reads of a batch."""

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) in 0..1."""

    @property
    def targets(self) -> Tensor:
        """(M, 6): image, class, xywh as fractions."""


class Trainer(Generic[Model]):
    """A model in training: its optimizer, its average and the step it is at."""

    def __init__(
        self,
        model: Model,
        specs: tuple[HeadSpec, ...],
        options: TrainingOptions,
        batches: int,
        penalty: GammaPenalty | None = None,
        teacher: Teacher | None = None,
        processes: Processes | None = None,
        freezing: Freezing | None = None,
    ) -> None:
        processes = processes or Processes()
        self.freezing = freezing
        self.device = next(model.parameters()).device
        self.model = channels_last(model)
        self.called = processes.wrap(self.model)
        self.specs, self.options, self.penalty, self.teacher = specs, options, penalty, teacher
        self.dtype = half_type(self.device) if options.mixed_precision else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        effective = options.batch_size * options.accumulate * processes.count
        self.rate = scaled_rate(options.learning_rate, options.optimizer, effective)
        self.optimizer = make_optimizer(model, options.optimizer, self.rate, options.momentum, options.decay)
        steps = -(-batches // options.accumulate)
        length = options.ema_epochs * steps
        self.average = WeightAverage(self.model, length) if length else None
        warmup = min(round(options.warmup_epochs * steps), options.epochs * steps // 3)
        self.schedule = Schedule(options.epochs * steps, warmup, options.schedule)
        self.step = 0
        if teacher is not None:
            teacher.check(specs)

    @property
    def evaluated(self) -> Model:
        """The network that is validated and saved: the average where there is one."""
        return self.average.model if self.average else self.model

    def gammas(self) -> Tensor:
        """|gamma| of the penalty's candidates in the evaluated network; empty without a penalty."""
        if self.penalty is None:
            return torch.empty(0)
        names = {id(module): name for name, module in self.model.named_modules()}
        norms = {
            name: cast(nn.BatchNorm2d, self.evaluated.get_submodule(names[id(norm)]))
            for name, norm in self.penalty.norms.items()
        }
        return replace(self.penalty, norms=norms).gammas()

    def train_epoch(self, batches: Iterable[Batch], on_batch: OnBatch) -> dict[str, float]:
        """Pass once over `batches`; returns the mean of each of PARTS over its batches.

        Raises:
            DatasetError: there was no batch.
            ToolkitError: a loss is not finite, or a batch is too small for batch norm.
        """
        self.model.train()
        sums = torch.zeros(len(PARTS), dtype=torch.float64)
        done = 0
        for group in _groups(batches, self.options.accumulate):
            for number, batch in enumerate(group, start=1):
                with gradient_sync(self.called, wanted=number == len(group)):
                    sums += self._backward(batch, len(group))
                done += 1
                if not bool(sums.isfinite().all()):
                    raise ToolkitError(
                        f"training: the loss of batch {done} is not finite; start again with a smaller "
                        "--learning-rate, or without half precision (--no-amp)"
                    )
                on_batch(done, _means(sums, done))
            self._optimizer_step()
        if not done:
            fact = "no image of the training list could be read"
            raise DatasetError(f"training: {fact}; correct the list or the files that it names")
        return _means(sums, done)

    def _backward(self, batch: Batch, size: int) -> Tensor:
        """Add the gradients of one of `size` accumulated batches; returns PARTS as float64 on the CPU."""
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        targets = batch.targets.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            heads = self._forward(images)
            taught = self.teacher(images) if self.teacher else None
        losses = yolo_loss(heads, targets, self.specs, self.options.losses)
        total = losses.total
        extra, farther = torch.zeros_like(total), torch.zeros_like(total)
        if taught is not None:
            lesson = distillation_loss(heads, taught, targets, self.specs, self.options.losses.iou_threshold)
            extra, farther = lesson.loss, lesson.farther / max(lesson.positives, 1)
            total = total + extra
        self.scaler.scale(total / size).backward()
        parts = (total, losses.box, losses.objectness, losses.classes, extra, farther)
        return torch.stack([part.detach().float() for part in parts]).double().cpu()

    def _forward(self, images: Tensor) -> list[Tensor]:
        try:
            return cast(list[Tensor], self.called(images))
        except ValueError as error:
            if "value per channel" not in str(error):  # the words of torch's batch norm
                raise
            fact = f"a batch of {len(images)} ends in maps of one cell, which batch norm cannot learn from"
            raise ToolkitError(f"training: {fact}; give a larger --batch-size or --img_size") from error

    def _optimizer_step(self) -> None:
        set_rate(self.optimizer, self.rate * self.schedule.factor(self.step))
        if self.freezing is not None:
            self.freezing.drop_gradients(self.step)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        if self.penalty is not None:
            self.penalty.add_to_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average:
            self.average.update(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs besides the evaluated network: tensors and numbers."""
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "model": self.model.state_dict(),
            "updates": self.average.updates if self.average else 0,
        }

    def load_state_dict(self, state: Mapping[str, Any], evaluated: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken; `evaluated` is the state of `self.evaluated` then."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.model.load_state_dict(evaluated)
            self.average.updates = state["updates"]


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Runs of `size` batches, the last one with what is left: its length is known before its first pass."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _means(sums: Tensor, count: int) -> dict[str, float]:
    return dict(zip(PARTS, (sums / max(count, 1)).tolist(), strict=True))
