"""Evaluate a network on a data set, from Python: `evaluate(EvaluationOptions(...))`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...darknet.model import Darknet
from ...data.dataset import DetectionDataset
from ...data.listing import SPLITS, DataFile, read_data_file
from ...data.loader import Loader, make_loader
from ...detection import evaluator
from ...detection.decode import decode_heads
from ...detection.evaluator import STYLES, Evaluation, Predict, Scoring
from ...errors import ToolkitError
from ...options import FRACTION, POSITIVE_INT, check_ranges, option
from ...pruning.layers import torch_threads
from ...runtimes.detecting import Detecting, Facts, detecting, facts_of
from ..arguments import (
    ImageSizeOptions,
    InputFiles,
    InputOptions,
    MachineOptions,
    RuntimeOptions,
    arguments,
    prepare,
    provenance,
    resolve,
    write_json,
)
from ..inputs import open_detecting
from ..output import Track, advancing, bar, untracked

# pixels that rectangular inputs are a multiple of
Fit = Literal["cfg", "letterbox", "rect"]
_CELL = 32


@dataclass(frozen=True)
class EvaluationOptions(MachineOptions, ImageSizeOptions, RuntimeOptions, InputOptions):
    """Options of an evaluation; `InputOptions` names the files."""

    split: str = option("valid", "list of the .data file", choices=SPLITS)
    style: str = option("darknet", "how the figures are computed", choices=STYLES)
    letterbox: bool = option(False, "keep the aspect ratio of images (default: as the cfg says)")
    rect: bool = option(False, "keep the aspect ratio, with as little padding as possible")
    conf: float | None = option(None, "minimum score (default: 0.005, for coco 0.001)", FRACTION)
    batch_size: int = option(8, "images per batch", POSITIVE_INT, flags=("--batch-size",))
    json: Path | None = option(None, "write the figures to FILE", Path, metavar="FILE")

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.letterbox and self.rect:
            raise ToolkitError("--rect", "not allowed with --letterbox", "leave one of them out")


@dataclass(frozen=True)
class EvaluationResult:
    """Result of an evaluation.

    Attributes:
        figures: mAP and the rest.
        files: the network and the data set.
        image_size: (height, width) that images were brought to.
        letterbox: whether they kept their aspect ratio, padded to that size.
        problems: of the data set, one line per kind.
    """

    figures: Evaluation
    files: InputFiles
    image_size: tuple[int, int]
    letterbox: bool
    problems: tuple[str, ...]


def evaluate(options: EvaluationOptions, *, track: Track = untracked) -> EvaluationResult:
    """Evaluate a network on a split of a data set, and write the JSON file if the options name one.

    Args:
        options: what to evaluate and how.
        track: shows the progress, see `Track`.

    Raises:
        ToolkitError: a file cannot be used, or network and data set do not fit.
    """
    device = prepare(options)
    files = resolve(options)
    data = read_data_file(files.needed("data"))
    network = open_detecting(files, device, options.runtime, options.img_size)
    size = options.img_size or network.image_size
    loader = open_split(
        data,
        options.split,
        network,
        size,
        fit="rect" if options.rect else "letterbox" if options.letterbox else "cfg",
        batch_size=options.batch_size,
        workers=options.workers,
    )
    figures = evaluate_network(
        network, loader, data.names, style=options.style, confidence=options.conf, track=track
    )
    letterbox = loader.dataset.letterbox
    if options.json:
        used = {
            "cfg": files.cfg,
            "weights": files.weights,
            "data": files.data,
            "split": options.split,
            "img_size": size,
            "letterbox": letterbox,
            "rect": options.rect,
            "arguments": arguments(options),
        }
        write_json(options.json, figures.to_json() | used | provenance(options))
    return EvaluationResult(figures, files, size, letterbox, tuple(data_problems(loader)))


def require_same_classes(data: DataFile, network: Facts) -> None:
    """Refuse a network with other classes than the data set.

    Raises:
        ToolkitError: with both numbers.
    """
    if network.classes != data.classes:
        raise ToolkitError(
            data.path,
            f"has {data.classes} classes, the network ({network.source}) has {network.classes}",
            "give the cfg and the data that belong together",
        )


def open_split(
    data: DataFile,
    split: str,
    network: Detecting,
    image_size: tuple[int, int],
    *,
    fit: Fit = "cfg",
    batch_size: int = 8,
    workers: int = 0,
    limit: int | None = None,
) -> Loader:
    """The images of a split as `detector map` prepares them: stretched, unless the cfg has letter_box=1.

    Args:
        data: the data set.
        split: "train", "valid" or "test".
        network: the detector.
        image_size: height and width to evaluate at.
        fit: "letterbox": keep the aspect ratio although the cfg does not ask for it; "rect": give each image
            an input of its own shape: its aspect ratio, padded to cells of 32 pixels, or of the network's
            stride where that is larger.
        batch_size: images per batch.
        workers: processes that load.
        limit: at most this many images, evenly spread over the list; None for all.

    Raises:
        ToolkitError: the network has other classes than the data set.
        DatasetError: the split cannot be used.
    """
    return make_loader(open_images(data, split, network, image_size, fit, limit), batch_size, workers=workers)


def open_images(
    data: DataFile,
    split: str,
    network: Detecting,
    image_size: tuple[int, int],
    fit: Fit = "cfg",
    limit: int | None = None,
) -> DetectionDataset:
    """The images of `open_split`, to be loaded in another way; same arguments and errors."""
    facts = facts_of(network)
    require_same_classes(data, facts)
    cell = math.lcm(_CELL, facts.size_step) if fit == "rect" else None
    letterbox = fit == "letterbox" or (fit == "cfg" and facts.letterbox)
    return DetectionDataset.from_split(
        data, split, image_size, letterbox=letterbox, rectangles=cell, limit=limit
    )


def evaluate_network(
    network: Detecting,
    loader: Loader,
    names: Sequence[str],
    *,
    style: str = "darknet",
    confidence: float | None = None,
    label: str = "evaluating",
    track: Track = bar,
) -> Evaluation:
    """Evaluate a network that is open already; arguments and errors as for `evaluator.evaluate`.

    Of a Darknet a copy is evaluated, with fused batch norms as it would be deployed, on the device of the
    weights. On the CPU each of torch's threads takes a part of every batch.
    """
    network = detecting(network)
    parts = min(torch.get_num_threads(), loader.batch_size) if network.is_parallel else 1
    with (
        advancing(track, len(loader.dataset), label) as advance,
        torch_threads(torch.get_num_threads() // parts),
    ):
        return evaluator.evaluate(
            network.predict,
            loader,
            names,
            Scoring(style, [network], confidence),
            progress=advance,
            parts=parts,
        )


def predictor(model: Darknet) -> Predict:
    """A callable from images, wherever they are, to decoded boxes (B, N, 5 + classes)."""
    device = next(model.parameters()).device

    def predict(images: Tensor) -> Tensor:
        return decode_heads(model(images.to(device, non_blocking=True)), model.head_specs)

    return predict


def data_problems(loader: Loader) -> list[str]:
    """Problems of an image list as far as the loader has read it, one line per kind."""
    index = loader.dataset.index
    lines = []
    if loader.dataset.missing:
        lines.append(f"{loader.dataset.missing} images of the list do not exist and were left out")
    if index.without_file:
        lines.append(f"{index.without_file} images have no label file and count as empty")
    if index.problems:
        lines.append(f"{len(index.problems)} malformed label lines were left out")
    if loader.problems:
        lines.append(f"{len(loader.problems)} images could not be read and were left out")
    return lines
