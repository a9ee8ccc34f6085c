"""Train a network: `train(TrainOptions(...))`.

It prints nothing; the command prints by an observer and from the result.
"""

import logging
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...darknet.checkpoint import Checkpoint, load_weights, read_checkpoint
from ...darknet.model import Darknet
from ...darknet.network import Network
from ...darknet.pretrained import load_pretrained
from ...data.listing import read_data_file
from ...errors import ToolkitError, WeightsError
from ...files import protect_inputs, require_writable
from ...pruning.costs import count_macs
from ...training import loop
from ...training.distillation import Teacher
from ...training.history import EpochRecord
from ...training.loop import LAST, OUTPUTS, PREVIOUS, Extras, Loaders, Observer
from ...training.processes import Processes, joined, local_device
from ...training.trainer import channels_last
from ..arguments import prepare, resolve
from ..evaluate.run import data_problems
from ..inputs import DemoFiles, fresh_network, open_files
from .board import Board
from .components import free_share_of, objective_of, open_loaders, penalty_of
from .options import CANDIDATES, NEWEST, OUTPUT, TrainOptions
from .settings import RunSettings, choose_control

logger = logging.getLogger(__name__)
# Up to here a second thread saves a quarter of a step at best, and makes it many times longer wherever
# something else, such as the processes that load images, needs a core: layers end sooner than threads meet.
ONE_THREAD_MACS = 5e9
# folders that contain no runs and may be large; how deep runs are searched for
_PASSED_OVER = frozenset({"data", "tests", "docs", "cfg", "utils", "benchmarks", "node_modules"})
_DEPTH = 4


@dataclass(frozen=True)
class PreparedRun:
    """A run before its first step.

    Attributes:
        model: the network, with the weights that it starts from.
        settings: what decides the result.
        origins: name of a hyper-parameter -> where its value comes from.
        weights: file given for the start; --scratch does not load it.
        resumed: the checkpoint's file; None for a new run.
        checkpoint: the state to continue from; None for a new run.
    """

    model: Darknet
    settings: RunSettings
    origins: Mapping[str, str]
    weights: Path | None = None
    resumed: Path | None = None
    checkpoint: Checkpoint | None = None

    @property
    def epochs_done(self) -> int:
        """Epochs done when the checkpoint was written."""
        return len(self.checkpoint.training["history"]) if self.checkpoint else 0


class RunObserver(Observer, Protocol):
    """Progress callbacks of a run."""

    def run_started(self, run: PreparedRun, device: torch.device, processes: Processes) -> None:
        """All options are chosen; the data is not open yet."""

    def loaders_opened(self, loaders: Loaders) -> None:
        """The data is open, training begins."""


class Silent:
    """An observer that shows nothing."""

    def run_started(self, run: PreparedRun, device: torch.device, processes: Processes) -> None:
        """Do nothing."""

    def loaders_opened(self, loaders: Loaders) -> None:
        """Do nothing."""

    def epoch_started(self, epoch: int, done: int) -> None:
        """Do nothing."""

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Do nothing."""

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        settings: what decided it.
        last: checkpoint of the last epoch, with all that resuming needs; pruning reads it.
        best: checkpoint of the epoch with the highest validation mAP.
        history: CSV with a line per epoch.
        records: the same lines.
        problems: what was wrong with the training images, a line for each kind of fault.
        device: where it was trained.
        is_first: whether this process wrote the files; the others of a torchrun launch get the same figures,
            but no free share.
    """

    settings: RunSettings
    last: Path
    best: Path
    history: Path
    records: tuple[EpochRecord, ...]
    problems: tuple[str, ...]
    device: torch.device
    is_first: bool = True

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.records)

    @property
    def last_map50(self) -> float | None:
        """Validation mAP@0.5 of the last epoch, a fraction; None without validation images."""
        return _known(self.records[-1].map50)

    @property
    def best_map50(self) -> float | None:
        """The highest validation mAP@0.5, a fraction; None without validation images."""
        return max(
            (record.map50 for record in self.records if _known(record.map50) is not None), default=None
        )

    @property
    def free_share(self) -> float | None:
        """Share of the channels that can be removed without changing the outputs; None if not sparse."""
        return _known(self.records[-1].free_share)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def train(options: TrainOptions, observer: RunObserver | None = None) -> TrainingResult:
    """Train a network, or resume a run; with several processes under torchrun, all of them call this.

    It seeds the global random generators and sets the number of torch's threads.

    Args:
        options: files and hyper-parameters; what is not given comes from the cfg or is the default.
        observer: progress callbacks.

    Raises:
        InterruptedTrainingError: SIGINT or SIGTERM came; the state is saved.
        ToolkitError: a file cannot be used, options contradict each other, or the loss is not finite.
    """
    observer = observer or Silent()
    device = local_device(prepare(options))
    with joined(device) as processes:
        run = _new(options) if options.resume is None else _resumed(options.resume)
        observer.run_started(run, device, processes)
        return _trained(run, options, observer, device, processes)


def _new(options: TrainOptions) -> PreparedRun:
    project = resolve(options, needs=("cfg", "data"))
    data = project.needed("data")
    read_data_file(data)  # an error comes before the table of settings
    model = fresh_network(project.network())
    report = options.report or (project.weights.with_suffix(".json") if project.weights else None)
    choice = choose_control(options, model, report)
    loaded = None if options.scratch else project.weights
    if loaded and options.cutoff is not None:
        load_weights(model, loaded, options.cutoff)
    elif loaded:
        load_pretrained(model, loaded, options.weights_classes)
    is_default = project.is_demo and options.output == OUTPUT
    settings = RunSettings(
        cfg=project.cfg,
        data=data,
        t_cfg=options.t_cfg,
        t_weights=options.t_weights,
        report=report,
        output=DemoFiles.here().weights.parent if is_default else options.output,
        prune=CANDIDATES if options.prune is None else options.prune,
        classic=options.classic,
        is_demo=project.is_demo,
        options=choice.options,
        scratch=options.scratch,
    )
    return PreparedRun(model, settings, choice.origins, weights=project.weights)


def _resumed(path: Path) -> PreparedRun:
    path = newest_run(Path()) if path == NEWEST else path
    checkpoint = _read_run(path)
    state = checkpoint.training
    if checkpoint.cfg is None or not {"trainer", "context", "history"} <= state.keys():
        raise ToolkitError(
            path, "not a run that can be resumed", f"name its {LAST}, or start a new run with --weights"
        )
    settings = replace(RunSettings.from_mapping(state["context"]), output=path.parent)
    model = Darknet(Network.from_text(checkpoint.cfg, f"cfg in {path}"))
    model.header = checkpoint.header
    origins = dict.fromkeys(settings.options.to_mapping(), "resumed")
    return PreparedRun(model, settings, origins, resumed=path, checkpoint=checkpoint)


def newest_run(folder: Path) -> Path:
    """The youngest last.pt in `folder` or up to four folders below it.

    Raises:
        ToolkitError: none was found.
    """
    found = []
    for path, folders, files in os.walk(folder):
        here = Path(path)
        depth = len(here.relative_to(folder).parts)
        kept = [name for name in folders if not name.startswith(".") and name not in _PASSED_OVER]
        folders[:] = kept if depth < _DEPTH else []
        if LAST in files:
            found.append(here / LAST)
    if not found:
        fact = f"no {LAST} in {folder.resolve()} or below"
        raise ToolkitError("--resume", fact, "name the file: --resume FILE")
    return max(found, key=lambda path: path.stat().st_mtime)


def _read_run(path: Path) -> Checkpoint:
    """Read the checkpoint, or the one before it if that is damaged."""
    try:
        return read_checkpoint(path)
    except WeightsError as error:
        before = path.with_name(PREVIOUS)
        if path.name != LAST or not before.exists():
            raise
        logger.warning("%s; continuing from %s", error, before)
        return read_checkpoint(before)


def _trained(
    run: PreparedRun,
    options: TrainOptions,
    observer: RunObserver,
    device: torch.device,
    processes: Processes,
) -> TrainingResult:
    model, settings, checkpoint = run.model, run.settings, run.checkpoint
    require_writable(settings.output, "choose another folder with --output DIR")
    data = read_data_file(settings.data)
    loaders = open_loaders(data, model, settings, options.workers, options.cache, processes, device)
    settings = replace(settings, threads=_choose_threads(model, settings, options.threads, device))
    teacher = _teacher(settings, device)
    model.to(device)
    objective = objective_of(model, settings, teacher)
    processes.barrier()  # all have read their inputs, so these may move
    if checkpoint is None:
        settings = _protected(settings, run.weights, processes)
    extras = Extras(
        penalty=penalty_of(model, settings),
        objective=objective,
        free_share=free_share_of(settings, loaders, device),
        processes=processes,
        context=settings.to_mapping(),
        save_seconds=60 * options.save_minutes,
    )
    observer.loaders_opened(loaders)
    with ExitStack() as stack:
        observers: list[Observer] = [observer]
        if options.tensorboard and processes.is_first:
            shown = (loaders.valid or loaders.train).dataset.images
            size = settings.options.image_size
            board = Board(settings.output / "tensorboard", run.epochs_done + 1, shown, loaders.names, size)
            observers.append(stack.enter_context(board))
        history = loop.train(
            model,
            loaders,
            settings.options,
            settings.output,
            observers=observers,
            extras=extras,
            resume=checkpoint,
        )
    files = [settings.output / name for name in OUTPUTS]
    last, _, best, table = files[:4]
    return TrainingResult(
        settings=settings,
        last=last,
        best=best if best.exists() else last,  # last.pt alone was copied, and no epoch since was better
        history=table,
        records=history.records,
        problems=tuple(data_problems(loaders.train)),
        device=device,
        is_first=processes.is_first,
    )


def _protected(settings: RunSettings, weights: Path | None, processes: Processes) -> RunSettings:
    """Rename inputs that the results would overwrite; the settings with the teacher's new name."""
    inputs = (weights, settings.t_weights)
    outputs = [settings.output / name for name in OUTPUTS]
    taught_by = settings.t_weights and settings.t_weights.resolve()
    moved = protect_inputs(outputs, inputs) if processes.is_first else {}
    return replace(settings, t_weights=moved.get(taught_by, settings.t_weights)) if taught_by else settings


def _choose_threads(model: Darknet, settings: RunSettings, asked: int | None, device: torch.device) -> int:
    """Set the number of threads: as given, else as in the resumed run, else by the network; return it.

    One thread for a network that is too small to gain from more, torch's own choice for others.
    """
    if asked is not None or device.type != "cpu":
        return torch.get_num_threads()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
        return settings.threads
    options = settings.options
    macs = count_macs(model, options.image_size, model.network.channels(-1)) * options.batch_size
    if macs < ONE_THREAD_MACS:
        torch.set_num_threads(1)
    return torch.get_num_threads()


def _teacher(settings: RunSettings, device: torch.device) -> Teacher | None:
    if settings.t_weights is None:
        return None
    model = open_files(settings.t_cfg, settings.t_weights)
    return Teacher(channels_last(model.to(device)), model.head_specs)
