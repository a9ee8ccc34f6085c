"""From the settings of a run to what the training loop needs: loaders, penalty, loss, free share."""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from ...darknet.model import Darknet
from ...data.dataset import DetectionDataset
from ...data.listing import DataFile
from ...data.loader import collate, make_loader
from ...data.sampling import MultiScale, Sampling
from ...errors import ToolkitError
from ...frontends.darknet.subject import DarknetSubject, classic_scores, gamma_penalty
from ...pruning.policies import normal_threshold, slim_threshold
from ...pruning.scores import gamma_scores
from ...pruning.sparsity import AutoStrength, GammaPenalty, free_share
from ...runtimes.detecting import facts_of
from ...training.darknet_loss import head_rules
from ...training.distillation import Teacher
from ...training.features import FeatureMatch, pairs_from_report
from ...training.loop import Loaders
from ...training.options import TrainingOptions
from ...training.processes import Processes
from ...training.trainer import Objective, schedule_of
from ..evaluate.run import Fit, open_images, require_same_classes
from ..output import read_report
from .settings import RunSettings

# images on which the outputs are compared for the free share
PROBE = 4


def open_loaders(
    data: DataFile,
    model: Darknet,
    settings: RunSettings,
    workers: int,
    cache: str,
    processes: Processes,
    device: torch.device,
) -> Loaders:
    """Training and validation batches.

    Raises:
        ToolkitError: as for `open_split`.
    """
    options = settings.options
    _require_fit(data, model, options)
    step = model.network.size_step
    shared: dict[str, Any] = {"workers": workers, "distributed": processes.count > 1}
    dataset = DetectionDataset.from_split(
        data,
        "train",
        options.image_size,
        letterbox=model.network.letterbox,
        augment=options.augment,
        cache=None if cache == "none" else cache,
    )
    sampling = Sampling(
        shuffle=True,
        drop_last=True,
        multi_scale=MultiScale(step) if options.multi_scale else None,
        aspects=step if options.rectangular else None,
        class_balanced=options.balanced,
    )
    pin = device.type == "cuda"
    batches = make_loader(dataset, options.batch_size, sampling, seed=options.seed, pin=pin, **shared)
    valid = None
    if data.valid is not None:
        fit: Fit = "rect" if options.rectangular else "cfg"
        images = open_images(data, "valid", model, options.image_size, fit)
        valid = make_loader(images, options.batch_size, **shared)
    return Loaders(batches, valid, data.names)


def _require_fit(data: DataFile, model: Darknet, options: TrainingOptions) -> None:
    """Refuse other classes than the data set's, and --multi-scale where cells would change their size."""
    require_same_classes(data, facts_of(model))
    if options.multi_scale and any(spec.cell for spec in model.head_specs):
        fact = f"the input size of {model.network.source} is not a multiple of its stride"
        raise ToolkitError("--multi-scale", fact, "add --no-multi-scale or change [net] width and height")


def penalty_of(model: Darknet, settings: RunSettings) -> GammaPenalty | None:
    """The sparsity penalty; None where there is none."""
    options = settings.options
    if not options.s:
        return None
    penalty = gamma_penalty(model, options.s, settings.prune, settings.classic)
    penalty.sparsifier, penalty.schedule = options.sparsifier, options.sparsity_schedule
    if options.s_auto:
        spent = _spent(options)
        penalty.auto = AutoStrength(options.target_sparsity, options.epochs, options.s_at, spent)
    return penalty


def _spent(options: TrainingOptions) -> Callable[[float], float]:
    """From the fraction of the epochs done to the fraction of the summed learning rate that is spent."""
    steps = 100  # per epoch, fine enough
    schedule = schedule_of(options, steps)
    sums = list(accumulate(map(schedule.factor, range(schedule.steps)), initial=0.0))
    return lambda progress: sums[round(max(progress, 0.0) * schedule.steps)] / sums[-1]


def free_share_of(
    settings: RunSettings, loaders: Loaders, device: torch.device
) -> Callable[[Darknet], float] | None:
    """Function for the share of channels removable without changing the outputs; None if not sparse.

    The strategy is the one that matches the candidates, without a minimum per layer.
    """
    if not settings.options.s:
        return None
    dataset = (loaders.valid or loaders.train).dataset
    plain = DetectionDataset(
        dataset.images[:PROBE], dataset.classes, settings.options.image_size, letterbox=dataset.letterbox
    )
    images = collate([plain[number] for number in range(len(plain))]).images.to(device)

    def share(model: Darknet) -> float:
        subject = DarknetSubject.of(model)
        scores = classic_scores(subject) if settings.classic else gamma_scores(subject)
        policy = (lambda percent: slim_threshold(percent, 0.0)) if settings.prune else normal_threshold
        return free_share(subject, policy, images, scores)

    return share if len(images) > 1 else None


def objective_of(model: Darknet, settings: RunSettings, teacher: Teacher | None) -> Objective:
    """The loss, with distillation where there is a teacher.

    Raises:
        ToolkitError: the loss cannot be computed for this network, or the teacher does not fit.
    """
    options = settings.options
    rules = head_rules(model.network) if options.loss == "darknet" else ()
    features = None
    if teacher is not None and "feature" in options.distill:
        features = _features(model, teacher, settings.report)
    return Objective(
        model.head_specs,
        options.losses,
        rules=rules,
        teacher=teacher,
        kinds=options.distill,
        features=features,
    )


def _features(model: Darknet, teacher: Teacher, report: Path | None) -> FeatureMatch:
    if report is None or not report.exists():
        fact = f"{report} does not exist" if report else "there is no report of a pruning run"
        raise ToolkitError(
            "--distill feature", fact, "it lists the channels that are left: give --report, the run's .json"
        )
    content = read_report(report)
    assert isinstance(teacher.model, Darknet)
    pairs = pairs_from_report(content, model.network, teacher.model.network, str(report))
    return FeatureMatch(model, teacher.model, pairs)
