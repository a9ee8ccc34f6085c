"""What a pruning run works on, opened and checked, and how its networks are measured.

Files, options and the data set are checked in `open_job`, before any work is done. Costly parts (scores,
validation images, latency table) are opened when first used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ...darknet.model import Darknet, deployed_run
from ...darknet.network import section_costs
from ...data.listing import DataFile, read_data_file
from ...data.loader import Batch, Loader
from ...detection.evaluator import Evaluation
from ...errors import ToolkitError
from ...files import require_writable
from ...frontends.darknet.subject import DarknetSubject, classic_scores
from ...options import UNITS, given
from ...profiling import Latency, measure_latency
from ...pruning.conv_classes import Convolution
from ...pruning.costs import count_parameters
from ...pruning.latency import LatencyTable
from ...pruning.recalibrate import recalibrate
from ...pruning.report import Figures
from ...pruning.scores import Scorer, named_scorer, random_scores, taylor_scores
from ...pruning.subject import LayerScores, Subject
from ...runtimes.detecting import facts_of
from ...runtimes.runtime import Runtime, find_runtime
from ...training.losses import LossWeights, yolo_loss
from ..arguments import resolve
from ..evaluate.run import evaluate_network, open_split, require_same_classes
from ..inputs import InputFiles, open_network
from ..latency.measure import find_or_measure
from ..latency.network import darknet_convolutions, network_latencies
from ..output import Track, untracked
from .options import COSTS, PruningOptions, Strategy

# training images that a Taylor score takes its gradients on
TAYLOR_IMAGES = 64
# and how many per batch: the absolute value is taken of each batch's gradient, so small batches say more
TAYLOR_BATCH = 2
_ROUNDS, _WARM_UP = 20, 3


@dataclass(frozen=True)
class OutputFiles:
    """The files that a run writes."""

    cfg: Path
    weights: Path
    report: Path
    page: Path

    def written(self, page: bool) -> tuple[Path, ...]:
        """All of them, or all but the HTML page."""
        return (self.cfg, self.weights, self.report, *((self.page,) if page else ()))


@dataclass(frozen=True)
class LatencyPair:
    """Latency of the network before and after, measured interleaved; None where it was not measured.

    Attributes:
        runtime: that ran them, with its version.
    """

    runtime: str
    before: Latency | None = None
    after: Latency | None = None


@dataclass(frozen=True)
class Job:
    """A pruning run, opened.

    Attributes:
        options: of the run.
        project: the input files.
        device: of the network.
        image_size: (height, width) at which everything is measured.
        subject: the network as the engine sees it.
        data: the data set, or None.
        outputs: the files to write.
        eval_images: validation images to evaluate on, at most; None for all.
        track: shows progress.
    """

    options: PruningOptions
    project: InputFiles
    device: torch.device
    image_size: tuple[int, int]
    subject: DarknetSubject
    data: DataFile | None
    outputs: OutputFiles
    eval_images: int | None = None
    track: Track = untracked

    @property
    def model(self) -> Darknet:
        """The unpruned network."""
        return self.subject.model

    @property
    def inputs(self) -> tuple[Path | None, Path | None]:
        """The files that must not be overwritten."""
        return self.project.cfg, self.project.weights

    @cached_property
    def validation(self) -> Loader | None:
        """The images that mAP is measured on; None where it is not to be measured."""
        if self.data is None or self.options.no_eval:
            return None
        return self.images("valid", self.eval_images)

    @property
    def score(self) -> str:
        """Name of the score: as given, else taylor for a budget with a data set, else gamma."""
        if self.options.score is not None:
            return self.options.score
        return "taylor" if self.options.has_budget and self.data is not None else "gamma"

    @cached_property
    def scorer(self) -> Scorer:
        """Of `score`, or the published one; the unpruned network is scored once."""
        score: Scorer = self.named_scorer(self.score)
        if self.options.classic:
            score = classic_scores  # type: ignore[assignment]  # takes subjects of Darknet networks only
        whole = cache(lambda: score(self.subject))
        return lambda subject: whole() if subject is self.subject else score(subject)

    def named_scorer(self, name: str) -> Scorer:
        """The scorer of a name.

        Raises:
            PruningError: the name is unknown.
            ToolkitError: when scoring: the score needs images, and there is no data set.
        """

        def taylor(subject: Subject) -> LayerScores:
            if self.data is None:
                raise ToolkitError("--score taylor", "needs gradients on training images", "add --data")
            images = self.images("train", TAYLOR_IMAGES, TAYLOR_BATCH)
            return taylor_scores(images, _detection_loss)(subject)

        return named_scorer(name, {"taylor": taylor, "random": random_scores(self.options.seed)})

    @property
    def aligns_itself(self) -> bool:
        """Whether the latency table sets the multiple: --align auto, or --max-ms without --align."""
        wanted = self.options.align
        return wanted == "auto" or (wanted is None and self.options.max_ms is not None)

    @property
    def align(self) -> int:
        """Widths are rounded up to multiples of this."""
        return self.table.align if self.aligns_itself else int(self.options.align or 1)

    @cached_property
    def runtime(self) -> Runtime:
        """What milliseconds are measured on."""
        return find_runtime(self.options.runtime)

    @cached_property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Of the unpruned network."""
        return darknet_convolutions(self.model, self.image_size)

    @cached_property
    def table(self) -> LatencyTable:
        """The runtime's latency table; missing points are measured."""
        return find_or_measure(self.convolutions, self.runtime, self.options.latency_table)

    def images(self, split: str, limit: int | None = None, batch_size: int | None = None) -> Loader:
        """Images of a split, not augmented.

        Args:
            split: "train", "valid" or "test".
            limit: at most this many, evenly spread over the list.
            batch_size: None for that of the options.

        Raises:
            ToolkitError: there is no data set, or its list cannot be used.
        """
        if self.data is None:
            fact = f"images of the {split} list are needed, but no data set is given"
            raise ToolkitError("--data", fact, "add --data")
        size = batch_size or self.options.batch_size
        workers = self.options.workers
        return open_split(
            self.data, split, self.model, self.image_size, limit=limit, batch_size=size, workers=workers
        )

    def recalibrated(self, subject: DarknetSubject, count: int) -> DarknetSubject:
        """A copy of `subject` with batch-norm statistics of `count` training images; itself for 0.

        Raises:
            ToolkitError: there is no data set.
        """
        if not count:
            return subject
        copy = subject.copied()
        batches = self.track(self.images("train", count), "recalibrating")
        recalibrate(copy.model, (batch.images.to(self.device) for batch in batches))
        return copy

    def evaluated(self, models: Mapping[str, Darknet]) -> dict[str, Evaluation | None]:
        """Each model evaluated on the validation images; None where mAP is not to be measured."""
        return {name: self._evaluated(model, name) for name, model in models.items()}

    def map50(self, model: Darknet, label: str) -> float:
        """mAP@0.5 of a model on the validation images, which must be there."""
        found = self._evaluated(model, label)
        assert found is not None
        return found.map50

    def _evaluated(self, model: Darknet, label: str) -> Evaluation | None:
        if self.validation is None or self.data is None:
            return None
        return evaluate_network(model, self.validation, self.data.names, label=label, track=self.track)

    def latencies(self, before: Darknet, after: Darknet, rounds: int = _ROUNDS) -> LatencyPair:
        """Both networks as deployed: on the runtime of --max-ms, else on torch."""
        models = {"before": before, "after": after}
        if self.options.max_ms is not None:
            found = network_latencies(models, self.runtime, self.image_size, rounds)
            return LatencyPair(f"{self.runtime.name} {self.runtime.version}", **found)
        if self.options.no_eval:
            return LatencyPair("")
        runs = {name: deployed_run(model, self.image_size) for name, model in models.items()}
        measured = measure_latency(runs, rounds=rounds, warmup=_WARM_UP)
        return LatencyPair(f"torch {torch.__version__}", **measured)

    def figures(self, model: Darknet, map50: float | None, latency: Latency | None) -> Figures:
        """Size, cost and accuracy of a network."""
        macs = sum(cost.macs for cost in section_costs(model.network, self.image_size))
        size = len(model.header.pack()) + 4 * sum(model.network.weight_counts)
        return Figures(count_parameters(model), macs, size, map50, latency)

    def alignment_notes(self, align: int) -> tuple[str, ...]:
        """The multiple of widths that was used, where the latency table set it."""
        if not self.aligns_itself:
            return ()
        where = f"{self.runtime.name}, threads {torch.get_num_threads()}"
        less = f"; {self.align} cannot meet the limits" if align < self.align else ""
        return (f"widths are multiples of {align}, set by the latency table of {where}{less}",)

    def recalibration_notes(self) -> tuple[str, ...]:
        """Whether there are fewer training images than asked for."""
        asked = self.options.images_to_recalibrate
        found = len(self.images("train").dataset) if asked else 0
        return () if asked <= found else (f"--recalibrate {asked}: the training list has {found} images",)


def _detection_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The modern loss of a Darknet for a batch."""
    assert isinstance(model, Darknet)
    device = next(model.parameters()).device
    heads = model(batch.images.to(device))
    return yolo_loss(heads, batch.targets.to(device), model.head_specs, LossWeights()).total


def open_job(
    options: PruningOptions,
    device: torch.device,
    *,
    eval_images: int | None = None,
    track: Track = untracked,
) -> Job:
    """Open and check everything before any work is done; arguments as the fields of `Job`.

    Raises:
        ToolkitError: a file cannot be used, or an option needs one that is missing.
    """
    project = resolve(options, needs=("cfg", "weights"))
    weights = project.needed("weights")
    if options.images_to_recalibrate and project.data is None:
        raise ToolkitError("--recalibrate", "statistics come from training images", "add --data")
    outputs = _outputs(project.cfg or weights, weights, options.output, _tag(options))
    for path in outputs.written(True):
        if path.is_dir():
            raise ToolkitError(path, "is a folder with the name of an output file", "use --output DIR")
    table = options.latency_table
    if table is not None and not table.is_file():
        remedy = f"make it with latency.py --output {table}"
        raise ToolkitError(f"--latency-table {table}", "no such file", remedy)
    model = open_network(project).to(device).eval()
    data = read_data_file(project.data) if project.data else None
    if data is not None:
        require_same_classes(data, facts_of(model))
    subject = DarknetSubject.of(model, keep_sections=options.keep_sections)
    size = options.img_size or (model.network.height, model.network.width)
    job = Job(options, project, device, size, subject, data, outputs, eval_images, track)
    _ = job.validation  # errors of its list are reported now
    return job


def _outputs(network: Path, weights: Path, folder: Path | None, tag: str) -> OutputFiles:
    """Where the files go; refuses before any work a folder that cannot be written.

    Args:
        network: the cfg, or the checkpoint that carries it; the new cfg is written beside it.
        weights: the new weights and the report are written beside them.
        folder: for all files instead.
        tag: what their names begin with.
    """
    cfg_folder, weights_folder = (folder, folder) if folder else (network.parent, weights.parent)
    for target in {cfg_folder, weights_folder}:
        require_writable(target, "choose a folder with --output DIR")
    stem = f"{tag}_{weights.stem}"
    beside = (weights_folder / f"{stem}{suffix}" for suffix in (".weights", ".json", ".html"))
    return OutputFiles(cfg_folder / f"{tag}_{network.stem}.cfg", *beside)


def _tag(options: PruningOptions) -> str:
    """What the names of the output files begin with."""
    return _budget_tag(options) if options.has_budget else _strategy_tag(options)


def _strategy_tag(options: PruningOptions) -> str:
    share = f"{options.global_percent}_keep_{options.layer_keep}"
    tags: Mapping[Strategy, str] = {
        "slim_prune": f"prune_{share}",
        "prune": f"normal_{options.percent}",
        "shortcut_prune": f"shortcut_{options.percent}",
        "layer_prune": f"prune_{options.shortcuts}_shortcut",
        "layer_channel_prune": f"prune_{options.shortcuts}_shortcut_{share}",
    }
    return tags[options.strategy]


def _budget_tag(options: PruningOptions) -> str:
    limits = {name: value for name, value in given(options).items() if name in COSTS}
    parts = [
        f"{100 * limit.value:g}pct_{name[4:]}" if limit.is_share else f"{_short(limit.value)}{name[4:]}"
        for name, limit in limits.items()
    ]
    return "_".join(["prune", *parts, *([f"map{options.min_map:g}"] if options.min_map is not None else [])])


def _short(value: float) -> str:
    """A number as one would type it.

    >>> _short(2e6), _short(1234567), _short(12.5)
    ('2M', '1234567', '12.5')
    """
    for unit, size in reversed(UNITS.items()):
        if value >= size and value % (size / 10) == 0:
            return f"{value / size:g}{unit}"
    return f"{value:.0f}" if value >= 1000 else f"{value:g}"
