"""What a pruning run works on: files, network, data set and the names of its results."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from ...darknet.model import Darknet
from ...data.listing import DataFile, read_data_file
from ...data.loader import Loader
from ...errors import ToolkitError
from ...files import require_writable
from ...frontends.darknet.subject import DarknetSubject
from ...pruning.conv_classes import Convolution
from ...pruning.latency import LatencyTable
from ...pruning.scores import Scorer
from ...runtimes.choice import find_runtime
from ...runtimes.detecting import facts_of
from ...runtimes.runtime import Runtime
from ..arguments import resolve
from ..evaluate.run import open_split, require_same_classes
from ..inputs import Project, open_network
from ..latency.measure import find_or_measure
from ..latency.network import darknet_convolutions
from .options import TAYLOR_BATCH, TAYLOR_IMAGES, has_budget, scorer_of
from .refusals import refuse_idle


@dataclass(frozen=True)
class Outputs:
    """The files of a run."""

    cfg: Path
    weights: Path
    report: Path
    page: Path

    def written(self, page: bool) -> tuple[Path, ...]:
        """All of them, or all but the page."""
        return (self.cfg, self.weights, self.report, *((self.page,) if page else ()))


@dataclass(frozen=True)
class Job:
    """A pruning run, opened.

    Attributes:
        args: the parsed options.
        project: the files that were given.
        device: where the network lies.
        image_size: height and width at which everything is measured.
        subject: the network as the engine sees it.
        data: the data set, or None.
        outputs: the files to write.
    """

    args: argparse.Namespace
    project: Project
    device: torch.device
    image_size: tuple[int, int]
    subject: DarknetSubject
    data: DataFile | None
    outputs: Outputs

    @property
    def model(self) -> Darknet:
        """The network as given."""
        return self.subject.model

    @property
    def inputs(self) -> tuple[Path | None, Path | None]:
        """The files that must not be overwritten."""
        return self.project.cfg, self.project.weights

    @cached_property
    def validation(self) -> Loader | None:
        """The images that mAP is measured on, --eval-images of them; None where it is not to be measured."""
        if self.data is None or self.args.no_eval:
            return None
        return self.images("valid", getattr(self.args, "eval_images", None))

    @property
    def score(self) -> str:
        """What --score says; unless it does, Taylor's for a budget with a data set, else gamma."""
        if self.args.score is not None:
            return str(self.args.score)
        return "taylor" if has_budget(self.args) and self.data is not None else "gamma"

    @cached_property
    def scorer(self) -> Scorer:
        """Of `score`; the whole network, which a budget and the report both ask for, is scored once."""
        score = scorer_of(self.args, self.score, self.calibration)
        whole = cache(lambda: score(self.subject))
        return lambda subject: whole() if subject is self.subject else score(subject)

    @property
    def aligns_itself(self) -> bool:
        """Whether the latency table says what multiples to keep: --align auto, or --max-ms alone."""
        wanted = self.args.align
        return wanted == "auto" or (wanted is None and getattr(self.args, "max_ms", None) is not None)

    @property
    def align(self) -> int:
        """Multiples of so many channels are kept."""
        return self.table.align if self.aligns_itself else self.args.align or 1

    @cached_property
    def runtime(self) -> Runtime:
        """What milliseconds are of."""
        return find_runtime(getattr(self.args, "runtime", "onnxruntime"))

    @cached_property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Those of the network as given."""
        return darknet_convolutions(self.model, self.image_size)

    @cached_property
    def table(self) -> LatencyTable:
        """The runtime's latency table, measured where it is not known."""
        return find_or_measure(self.convolutions, self.runtime, getattr(self.args, "latency_table", None))

    @property
    def calibration(self) -> Callable[[], Loader] | None:
        """Opens training images for a score that needs them; None without a data set."""
        return None if self.data is None else lambda: self.images("train", TAYLOR_IMAGES, TAYLOR_BATCH)

    def images(self, split: str, limit: int | None = None, batch_size: int | None = None) -> Loader:
        """Images of a split, not augmented; with `limit` at most so many.

        Raises:
            ToolkitError: there is no data set, or its list cannot be used.
        """
        if self.data is None:
            raise ToolkitError(
                "", f"images of the {split} list are needed, but no data set is given", "add --data"
            )
        size = {"batch_size": batch_size or self.args.batch_size, "workers": self.args.workers}
        return open_split(self.data, split, self.model, self.image_size, limit=limit, **size)


def open_job(args: argparse.Namespace, device: torch.device, tag: str) -> Job:
    """Open everything that can be wrong before any work is done.

    Raises:
        ToolkitError: a file or an option cannot be used.
    """
    refuse_idle(args)
    project = resolve(args, needs=("cfg", "weights"))
    weights = project.needed("weights")
    if args.recalibrate and project.data is None:
        raise ToolkitError("--recalibrate", "statistics come from training images", "add --data")
    outputs = _outputs(project.cfg or weights, weights, args.output, tag)
    for path in outputs.written(True):
        if path.is_dir():
            raise ToolkitError(
                path, "is a folder, and a result would have its name", "choose another --output DIR"
            )
    table = getattr(args, "latency_table", None)
    if table is not None and not table.is_file():
        raise ToolkitError(
            f"--latency-table {table}", "no such file", f"make it with latency.py --output {table}"
        )
    model = open_network(project).to(device).eval()
    data = read_data_file(project.data) if project.data else None
    if data is not None:
        require_same_classes(data, facts_of(model))
    subject = DarknetSubject.of(model, keep_sections=args.keep_sections)
    size = args.img_size or (model.network.height, model.network.width)
    job = Job(args, project, device, size, subject, data, outputs)
    _ = job.validation  # whatever is wrong with it is told now
    return job


def _outputs(network: Path, weights: Path, folder: Path | None, tag: str) -> Outputs:
    """Where the files go; refuses before any work a folder that cannot be written.

    Args:
        network: the cfg, or the checkpoint that carries it; the new cfg lies beside it.
        weights: the new weights and the report lie beside them.
        folder: for all files instead.
        tag: what their names begin with.
    """
    cfg_folder, weights_folder = (folder, folder) if folder else (network.parent, weights.parent)
    for target in {cfg_folder, weights_folder}:
        require_writable(target, "choose a folder with --output DIR")
    stem = f"{tag}_{weights.stem}"
    beside = (weights_folder / f"{stem}{suffix}" for suffix in (".weights", ".json", ".html"))
    return Outputs(cfg_folder / f"{tag}_{network.stem}.cfg", *beside)
