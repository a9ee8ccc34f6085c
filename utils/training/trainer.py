"""The loss of a batch, one optimizer step, in order, and the state that steps change.

    forward under autocast -> loss in float32 -> backward, once per accumulated batch
    -> unscale -> clip -> sparsity penalty -> optimizer -> soft threshold -> weight average

Invariant: one optimizer step sees the mean gradient of its batches and the penalty exactly once, whatever
accumulation, precision or number of processes; clipping never weakens the penalty. `load_state_dict` of a
`state_dict` taken between two steps, also within an epoch, continues bitwise as if uninterrupted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, Generic, Protocol, cast

import torch
from torch import Tensor, nn

from ..detection.decode import HeadSpec
from ..errors import DatasetError, ToolkitError
from ..pruning.sparsity import GammaPenalty
from .darknet_loss import HeadRules, darknet_loss
from .distillation import DistillationKind, Teacher, distillation_loss
from .features import FeatureMatch
from .losses import Losses, LossWeights, yolo_loss
from .optimizer import (
    Freezing,
    Model,
    Schedule,
    WeightAverage,
    make_optimizer,
    scaled_rate,
    set_rate,
    step_size,
)
from .options import Precision, TrainingOptions
from .processes import Processes, gradient_sync

PARTS = ("loss", "box", "objectness", "classes", "distillation", "farther")


class Objective:
    """The loss of a batch: that on the labels and, with a teacher, the distillation loss.

    Invariant: `parts` are of this batch and unweighted, except for "loss", the total, and "distillation".

    Attributes:
        specs: the student's heads.
        weights: of the modern loss; distillation uses its `iou_threshold` for positives too.
        rules: of Darknet's loss, one for each head; empty for the modern loss.
        teacher: a network to learn from, or None.
        kinds: of distillation.
        features: feature maps to compare with the teacher's, or None.
    """

    def __init__(
        self,
        specs: Sequence[HeadSpec],
        weights: LossWeights | None = None,
        *,
        rules: Sequence[HeadRules] = (),
        teacher: Teacher | None = None,
        kinds: Sequence[DistillationKind] = ("classic2",),
        features: FeatureMatch | None = None,
    ) -> None:
        self.specs, self.weights, self.rules = tuple(specs), weights or LossWeights(), tuple(rules)
        self.teacher, self.kinds, self.features = teacher, tuple(kinds), features
        if teacher is not None:
            teacher.check(specs)

    def __call__(
        self,
        heads: Sequence[Tensor],
        taught: Sequence[Tensor] | None,
        targets: Tensor,
        processes: Processes | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The total to minimise, and PARTS (detached, float32, on the heads' device).

        Args:
            heads: raw heads of the student.
            taught: those of the teacher for the same images, or None.
            targets: (M, 6) image index, class, x, y, w, h relative to the input.
            processes: those that train together; gradients are averaged over them.
        """
        processes = processes or Processes()
        losses = self._labels(heads, targets, processes)
        total = losses.total
        extra, farther = torch.zeros_like(total), torch.zeros_like(total)
        if taught is not None:
            threshold = self.weights.iou_threshold
            lesson = distillation_loss(heads, taught, targets, self.specs, threshold, self.kinds, processes)
            extra, farther = lesson.loss, lesson.farther / max(lesson.positives, 1)
            if self.features is not None:
                extra = extra + self.features.loss()
            total = total + extra
        parts = (total, losses.box, losses.objectness, losses.classes, extra, farther)
        return total, torch.stack([part.detach().float() for part in parts])

    def _labels(self, heads: Sequence[Tensor], targets: Tensor, processes: Processes) -> Losses:
        if self.rules:
            return darknet_loss(heads, targets, self.specs, self.rules)
        return yolo_loss(heads, targets, self.specs, self.weights, processes.average)


OnBatch = Callable[[int, Mapping[str, float]], None]
# a loss scale below this means that float16 overflows at any scale
_LEAST_SCALE = 2.0**-10


class NotFiniteError(ToolkitError):
    """The loss or its gradient contains NaN or inf; the weights are still those before the step."""


class Batch(Protocol):
    """The part of a batch that the trainer reads."""

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) in 0..1."""

    @property
    def targets(self) -> Tensor:
        """(M, 6): image, class, xywh as fractions."""


def do_nothing() -> None:
    """Do nothing; the default after a step."""


class Trainer(Generic[Model]):
    """A model in training: its optimizer, its average and the step it is at.

    Attributes:
        step: optimizer steps taken.
        done: batches of the current epoch that are done.
        rate: learning rate before the schedule; lowered after a loss that is not finite.
    """

    def __init__(
        self,
        model: Model,
        specs: tuple[HeadSpec, ...],
        options: TrainingOptions,
        batches: int,
        penalty: GammaPenalty | None = None,
        objective: Objective | None = None,
        processes: Processes | None = None,
        freezing: Freezing | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.freezing, self.penalty = freezing, penalty
        self.device = next(model.parameters()).device
        self.model = channels_last(model)
        self.objective = objective or Objective(specs, options.losses)
        self.options = options
        self.dtype = half_type(self.device, options.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        effective = options.batch_size * options.accumulate * self.processes.count
        self.rate = scaled_rate(options.learning_rate, options.optimizer, effective)
        steps = -(-batches // options.accumulate)
        self.schedule = schedule_of(options, steps)
        kind, momentum, decay = options.optimizer, options.momentum, options.decay
        self.optimizer = make_optimizer(model, kind, self.rate, momentum, decay, self._gamma_shares())
        length = options.ema_epochs * steps
        self.average = WeightAverage(self.model, length) if length else None
        self._evaluated_gammas = self._find_gammas()
        # after the average, which is to keep ordinary batch norms
        self.called = self.processes.wrap(self.model, compiled=options.compiled)
        self.step = self.done = 0
        self._sums = torch.zeros(len(PARTS), dtype=torch.float64)

    @property
    def evaluated(self) -> Model:
        """The network that is validated and saved: the average where there is one."""
        return self.average.model if self.average else self.model

    def gammas(self) -> Tensor:
        """|gamma| of the penalty's candidates in the evaluated network; empty without a penalty."""
        if self.penalty is None:
            return torch.empty(0)
        return self.penalty.gammas(self._evaluated_gammas)

    def _find_gammas(self) -> dict[str, nn.Parameter]:
        """The candidates' gammas in the evaluated network, by the names of the penalty."""
        if self.penalty is None:
            return {}
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {
            name: self.evaluated.get_parameter(names[id(norm.weight)])
            for name, norm in self.penalty.norms.items()
        }

    def _gamma_shares(self) -> list[tuple[nn.Parameter, float]]:
        """Factor on the learning rate for each candidate's gammas.

        AdamW moves a number by at most about the learning rate per step, so in a short training the gammas of
        a pretrained network, 1 to 8, could not reach zero. Here a gamma under constant gradient moves by
        `gamma_reach` times the mean of its layer during the run, or further if the plain rate allows it.
        """
        if self.penalty is None or self.options.optimizer != "adamw":
            return []
        travel = self.rate * sum(map(self.schedule.factor, range(self.schedule.steps)))
        reach = self.options.gamma_reach / travel
        gammas = [norm.weight for norm in self.penalty.norms.values()]
        return [(gamma, max(1.0, reach * gamma.detach().abs().mean().item())) for gamma in gammas]

    def train_epoch(
        self, batches: Iterable[Batch], on_batch: OnBatch, after_step: Callable[[], None] = do_nothing
    ) -> dict[str, float]:
        """Train on `batches`, the rest of an epoch after `done`.

        Args:
            batches: of the epoch, without the first `done`.
            on_batch: called with the number of each batch and the means of the parts so far.
            after_step: called after each optimizer step; may raise to end the epoch there.

        Returns:
            The mean of each of PARTS over the epoch's batches.

        Raises:
            DatasetError: there was no batch.
            NotFiniteError: the loss or its gradient is not finite.
            ToolkitError: a batch is too small for batch norm.
        """
        self.model.train()
        if self.freezing is not None:
            self.freezing.hold()
        for group in _groups(batches, self.options.accumulate):
            for number, batch in enumerate(group, start=1):
                with gradient_sync(self.called, wanted=number == len(group)):
                    self._sums += self._backward(batch, len(group))
                self.done += 1
                on_batch(self.done, _means(self._sums, self.done))
            self._optimizer_step()
            after_step()
        if not self.done:
            fact = "no image of the training list could be read"
            raise DatasetError("training", fact, "correct the list or the files that it names")
        return _means(self.processes.average(self._sums.to(self.device)), self.done)

    def end_epoch(self) -> None:
        """Start a new epoch with the next pass; until then a resumed run skips the steps of this one."""
        self.done, self._sums = 0, torch.zeros_like(self._sums)

    def _backward(self, batch: Batch, size: int) -> Tensor:
        """Add the gradients of one of `size` accumulated batches; returns PARTS as float64 on the CPU."""
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        targets = batch.targets.to(self.device, non_blocking=True)
        features = self.objective.features
        with autocast(self.device, self.dtype), features.capturing() if features else nullcontext():
            heads = self._forward(images)
            taught = self.objective.teacher(images) if self.objective.teacher else None
        total, parts = self.objective(heads, taught, targets, self.processes)
        self.scaler.scale(total / size).backward()
        return parts.double().cpu()

    def _forward(self, images: Tensor) -> list[Tensor]:
        try:
            return cast(list[Tensor], self.called(images))
        except ValueError as error:
            if "value per channel" not in str(error):  # the message of torch's batch norm
                raise
            fact = f"a batch of {len(images)} has one value per channel in some layer, too few for batch norm"
            raise ToolkitError("training", fact, "give a larger --batch-size or --img_size") from error

    def _optimizer_step(self) -> None:
        set_rate(self.optimizer, self.rate * self.schedule.factor(self.step))
        if self.freezing is not None:
            self.freezing.drop_gradients(self.step)
        self.scaler.unscale_(self.optimizer)
        self._clip()
        if self.penalty is not None:
            self.penalty.add_to_gradients()
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        taken = self.scaler.get_scale() >= scale  # a smaller scale: the step was skipped
        if self.penalty is not None and taken:
            self.penalty.shrink(lambda gamma: step_size(self.optimizer, gamma))
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average:
            self.average.update(self.model)
            if self.penalty is not None:
                self.penalty.copy_zeros(self._evaluated_gammas)

    def _clip(self) -> None:
        """Clip the gradient's norm; raise NotFiniteError if it is not finite."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters])
        # the norm is the same in all processes, so all of them stop
        if self.scaler.is_enabled():
            failed = self.scaler.get_scale() < _LEAST_SCALE
        else:
            failed = not bool(norm.isfinite())
        if failed:
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError("training", f"the gradient of step {self.step + 1} is not finite")
        if norm > self.options.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.options.clip_norm, norm)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs besides the evaluated network: tensors and numbers."""
        return {
            "step": self.step,
            "done": self.done,
            "sums": self._sums.clone(),
            "rate": self.rate,
            "rng": torch.get_rng_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "model": self.model.state_dict(),
            "penalty": self.penalty.state_dict() if self.penalty else {},
            "updates": self.average.updates if self.average else 0,
        }

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A copy of the current state, as arguments of `load_state_dict`."""
        return deepcopy(self.state_dict()), deepcopy(self.evaluated.state_dict())

    def load_state_dict(self, state: Mapping[str, Any], evaluated: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken; `evaluated` is the state of `self.evaluated` then."""
        self.step, self.done, self.rate = state["step"], state["done"], state["rate"]
        self._sums = state["sums"].clone()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.penalty:
            self.penalty.load_state_dict(state["penalty"])
        if self.average:
            self.average.model.load_state_dict(evaluated)
            self.average.updates = state["updates"]
        torch.set_rng_state(state["rng"].cpu())


def schedule_of(options: TrainingOptions, steps: int) -> Schedule:
    """Learning-rate schedule for this number of steps per epoch."""
    total = options.epochs * steps
    return Schedule(
        total,
        min(round(options.burn_in * steps), total // 3),
        options.schedule,
        power=options.burn_in_power,
        at=options.steps,
        scales=options.scales,
        cycle=options.cycle,
        growth=options.cycle_growth,
    )


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Groups of `size` batches, the last one smaller: its length is known before its first pass."""
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


def half_type(device: torch.device, precision: Precision = "auto") -> torch.dtype | None:
    """Number type of convolutions, None for float32; "auto" is the half precision that is fast on `device`.

    That is float16 on CUDA, and bfloat16 on CPUs with instructions for it.
    """
    if precision != "auto":
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.float16
    if device.type != "cpu":
        return None
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Run convolutions in `dtype`; None for no change."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def channels_last(model: Model) -> Model:
    """Put the weights of convolutions into the memory layout that is fast in half precision; in place."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
