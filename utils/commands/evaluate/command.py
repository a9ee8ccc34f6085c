"""Measure how well a network detects: mean average precision, for all classes and for each.

    python evaluate.py --cfg cfg/yolov3-tiny.cfg --weights weights/yolov3-tiny.weights --data data/coco.data
    python evaluate.py --weights weights/best.pt --data data/my.data --split test --style coco --json out.json
    python evaluate.py --weights weights/best_int8.onnx --data data/my.data

--weights takes exported files too: .onnx, .xml (OpenVINO), .engine (TensorRT), .ncnn.param, .torchscript.

Styles:
    darknet  as `darknet detector map`: area under the curve at IoU 0.5; classes that do not occur count 0
    voc      the same, averaged over the classes that occur
    coco     COCO's evaluation by faster-coco-eval, also by object size
Images are stretched to the network's input as Darknet does; `letter_box=1` in the cfg, or --letterbox, keeps
their aspect. The JSON file holds style, map50, map50_95, per_class, images, images_per_second and more; all
figures are fractions 0..1.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tqdm import tqdm

from ...darknet.model import Darknet
from ...data.dataset import DetectionDataset
from ...data.listing import SPLITS, DataFile, read_data_file
from ...data.loader import Loader, make_loader
from ...detection.decode import decode_heads
from ...detection.evaluator import STYLES, Evaluation, Predict, evaluate
from ...errors import ToolkitError
from ...options import FRACTION, POSITIVE_INT
from ...profiling import torch_threads
from ...runtimes.choice import is_exported
from ...runtimes.detecting import Detecting, Facts, detecting, facts_of
from ..arguments import (
    Parser,
    add_common,
    add_data,
    add_image_size,
    add_network,
    add_runtime,
    arguments,
    next_command,
    prepare,
    provenance,
    resolve,
    write_json,
)
from ..inputs import open_detecting
from ..results import quoted
from ..tables import show

# pixels that rectangular inputs are cut in
_CELL = 32


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_evaluation(evaluate_parser().parse_args(argv))


def evaluate_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "evaluate")
    add_network(parser)
    add_runtime(parser)
    add_data(parser)
    add_image_size(parser)
    parser.add_argument("--split", choices=SPLITS, default="valid", help="which list of the .data file")
    parser.add_argument("--style", choices=STYLES, default="darknet", help="how the figures are computed")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--letterbox", action="store_true", help="keep the aspect (default: as the cfg says)")
    shape.add_argument(
        "--rect", action="store_true", help="keep the aspect, with as little padding as possible"
    )
    parser.add_argument("--conf", type=FRACTION, help="least score (default: .005, for coco .001)")
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=8, help="images at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    add_common(parser)
    return parser


def run_evaluation(args: argparse.Namespace) -> None:
    """Evaluate as the command line says; print the tables and write the JSON file.

    Raises:
        ToolkitError: a file cannot be used, or network and data set do not fit.
    """
    device = prepare(args)
    project = resolve(args)
    data = read_data_file(project.needed("data"))
    network = open_detecting(project, device, args.runtime, args.img_size)
    size = args.img_size or network.image_size
    loader = open_split(
        data,
        args.split,
        network,
        size,
        letterbox=args.letterbox,
        rect=args.rect,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    result = evaluate_network(network, loader, data.names, style=args.style, confidence=args.conf)
    print_evaluation(result, loader, f"{project.weights} on {args.split} of {project.data}")
    if args.json:
        used = {
            "cfg": project.cfg,
            "weights": project.weights,
            "data": project.data,
            "split": args.split,
            "img_size": size,
            "letterbox": loader.dataset.letterbox,
            "rect": args.rect,
        }
        write_json(args.json, result.to_json() | used | {"arguments": arguments(args)} | provenance(args))
    weights = project.needed("weights")
    if is_exported(weights):
        next_command(f"python benchmark.py --models {quoted(weights)}", project.options("data"))
    else:
        next_command("python slim_prune.py", project.options(), "--global_percent 0.8 --layer_keep 0.01")


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
    letterbox: bool = False,
    rect: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    distributed: bool = False,
    limit: int | None = None,
) -> Loader:
    """The images of a split as `detector map` prepares them: stretched, unless the cfg has letter_box=1.

    Args:
        data: the data set.
        split: "train", "valid" or "test".
        network: what detects.
        image_size: height and width to evaluate at.
        letterbox: keep the aspect although the cfg does not ask for it.
        rect: give each image an input of its own shape: its aspect, padded to cells of 32 pixels, or of the
            network's stride where that is larger.
        batch_size: images in a batch.
        workers: processes that load.
        distributed: give this process of several its share.
        limit: at most so many images, evenly spread over the list; None for all.

    Raises:
        ToolkitError: the network has other classes than the data set.
        DatasetError: the split cannot be used.
    """
    facts = facts_of(network)
    require_same_classes(data, facts)
    cell = math.lcm(_CELL, facts.size_step) if rect else None
    wanted = not rect and (letterbox or facts.letterbox)
    dataset = DetectionDataset.from_split(
        data, split, image_size, letterbox=wanted, rectangles=cell, limit=limit
    )
    return make_loader(dataset, batch_size, workers=workers, distributed=distributed)


def evaluate_network(
    network: Detecting,
    loader: Loader,
    names: Sequence[str],
    *,
    style: str = "darknet",
    confidence: float | None = None,
    label: str = "evaluating",
) -> Evaluation:
    """Evaluate a network with a progress bar; arguments and errors as for `evaluator.evaluate`.

    Of a Darknet a copy is evaluated, with batch norms merged as it would be deployed, where the weights are.
    On the CPU each of torch's threads takes a part of every batch.
    """
    network = detecting(network)
    parts = min(torch.get_num_threads(), loader.batch_size) if network.is_parallel else 1
    bar = tqdm(total=len(loader.dataset), desc=label, unit="image", leave=False, disable=None)
    with bar, torch_threads(torch.get_num_threads() // parts):
        return evaluate(
            network.predict,
            loader,
            names,
            style=style,
            specs=[network],
            confidence=confidence,
            progress=bar.update,
            parts=parts,
        )


def predictor(model: Darknet) -> Predict:
    """A callable from images, wherever they are, to decoded boxes (B, N, 5 + classes)."""
    device = next(model.parameters()).device

    def predict(images: Tensor) -> Tensor:
        return decode_heads(model(images.to(device, non_blocking=True)), model.head_specs)

    return predict


def print_evaluation(result: Evaluation, loader: Loader, title: str) -> None:
    """Print a line for each class that occurs, the means, and what was wrong with the data set."""
    console = Console()
    show(title, _table(result))
    means = f"mAP@0.5 {result.map50:.4f}   mAP@0.5:0.95 {result.map50_95:.4f}   ({result.style} style)"
    console.print(means, highlight=False, soft_wrap=True)
    if result.by_size:
        sizes = (f"{name} {'-' if ap is None else f'{ap:.4f}'}" for name, ap in result.by_size.items())
        console.print("by size, 0.5:0.95: " + ", ".join(sizes), highlight=False, soft_wrap=True)
    shown = f"score > 0.25: precision {result.precision:.4f}, recall {result.recall:.4f}"
    console.print(f"{shown}   {result.images_per_second:.1f} images/s", highlight=False, soft_wrap=True)
    for line in _findings(result, loader):
        console.print(line, highlight=False, soft_wrap=True)


def _table(result: Evaluation) -> Table:
    table = Table()
    table.add_column("class")
    table.add_column("objects", justify="right")
    table.add_column("AP@0.5", justify="right")
    for name, ap in result.per_class.items():
        if result.truths[name]:  # Text, since a name may hold the brackets of rich's markup
            table.add_row(Text(name), str(result.truths[name]), f"{ap:.4f}")
    return table


def _findings(result: Evaluation, loader: Loader) -> list[str]:
    lines = [f"{result.images} images, {result.without_objects} without objects"]
    absent = sum(count == 0 for count in result.truths.values())
    if absent:
        counted = "count 0 in the mean" if result.style == "darknet" else "are left out of the mean"
        lines.append(f"{absent} of {len(result.truths)} classes do not occur and {counted}")
    return lines + list_findings(loader)


def list_findings(loader: Loader) -> list[str]:
    """What was wrong with an image list as far as the loader has read it, a line for each kind of fault."""
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
