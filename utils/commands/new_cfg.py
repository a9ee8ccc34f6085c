"""Write a cfg for your own data out of a stock one, without editing by hand.

    python new_cfg.py --from cfg/yolov3.cfg --classes 3 --output cfg/my.cfg
    python new_cfg.py --from cfg/yolov3-tiny.cfg --data data/my.data --anchors auto --output cfg/my.cfg
    python new_cfg.py --from cfg/yolov4-tiny.cfg --classes 1 --width 0.5 --img_size 320 --output cfg/my.cfg

    --classes   into every head, with the filters of the convolution before it
    --anchors   auto: by k-means from the labels of --data, the small ones to the heads that mask them
    --width     that many times the filters of all other convolutions; depthwise groups follow
    --img_size  the network's input; anchors grow with it
The result is read back and checked before it is written. Weights of the stock cfg still fit as long as
--width is 1: give them to train.py, which lets the heads start anew.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from ..darknet.anchors import slots, with_anchors
from ..darknet.costs import section_costs
from ..darknet.edit import with_classes
from ..darknet.heads import Head
from ..darknet.network import Network
from ..darknet.scale import with_size, with_width
from ..data.checks import check_data
from ..data.listing import read_data_file
from ..errors import CfgError, DatasetError, Finding, ToolkitError
from ..files import same_file, write_text
from ..options import POSITIVE_FLOAT, POSITIVE_INT
from .arguments import Parser, add_data, add_image_size, next_command
from .doctor.checks import Anchors, check_anchors
from .inputs import available
from .results import quoted
from .tables import multiply_adds, show

Row = tuple[str, ...]  # what, before, after


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_new_cfg(new_cfg_parser().parse_args(argv))


def new_cfg_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "new-cfg")
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="CFG", help="cfg to start from"
    )
    parser.add_argument("--classes", type=POSITIVE_INT, help="number of classes (default: that of --data)")
    parser.add_argument(
        "--anchors",
        choices=["keep", "auto"],
        default="keep",
        help="auto: by k-means from the labels of --data",
    )
    add_data(parser)
    parser.add_argument(
        "--width", type=POSITIVE_FLOAT, default=1.0, metavar="FACTOR", help="of the filters, multiples of 8"
    )
    add_image_size(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="CFG", help="where to write the new cfg"
    )
    return parser


def run_new_cfg(args: argparse.Namespace) -> None:
    """Write the cfg that the command line asks for, and print what is different in it.

    Raises:
        ToolkitError: a file cannot be used, or no valid network comes out.
    """
    if args.anchors == "auto" and args.data is None:
        raise ToolkitError("--anchors auto", "takes them from the labels of a data set", "add --data")
    if args.output.exists() and same_file(args.output, args.source):
        raise ToolkitError(f"--output {args.output}", "is the cfg to start from", "give another name")
    data = args.data and available(args.data)
    before = Network.from_cfg(args.source)
    if not before.heads:
        raise CfgError(args.source, "has no detection head", "start from the cfg of a detector")
    network = _changed(before, args, _class_count(args.classes, data))
    anchors = _best_anchors(network, data) if args.anchors == "auto" and data is not None else None
    if anchors is not None:
        network = with_anchors(network, anchors.sizes)
    text = network.to_cfg()
    network = Network.from_text(text, str(args.output))
    write_text(args.output, text)
    table = Table(
        "", *(Column(str(path), justify="right", overflow="fold") for path in (args.source, args.output))
    )
    for row in (*_differences(before, network), *_fits(anchors)):
        table.add_row(*(Text(cell) for cell in row))
    show("What is different", table)
    data_option = f" --data {quoted(data)}" if data else " --data data/my.data"
    next_command(f"python train.py --cfg {quoted(args.output)}{data_option}")


def _class_count(classes: int | None, data: Path | None) -> int | None:
    """Of the command line or the data file, which must agree; None to leave the heads as they are."""
    if data is None:
        return classes
    found = read_data_file(data)
    if classes not in (None, found.classes):
        raise ToolkitError(f"--classes {classes}", f"{data} has {found.classes}", "make them agree")
    return found.classes


def _changed(network: Network, args: argparse.Namespace, classes: int | None) -> Network:
    if classes is not None:
        network = with_classes(network, classes)
    if args.width != 1:
        network = with_width(network, args.width)
    if args.img_size is not None:
        try:
            network = with_size(network, *args.img_size)
        except CfgError as error:
            stride = max(network.stride(head) for head in network.heads)
            raise CfgError(
                error.place, error.fact, f"--img_size must be made of multiples of {stride}"
            ) from None
    return network


def _best_anchors(network: Network, data: Path) -> Anchors:
    check = check_data(data, read_images=5000 if network.letterbox else 0)
    anchors = check_anchors(network, check)
    if anchors is None:
        errors = [finding for finding in check.findings if finding.severity == "error"]
        first = errors[0] if errors else Finding("error", str(data), "has no object to take anchors from")
        raise DatasetError(first.place, first.fact, first.remedy)
    return anchors


def _differences(before: Network, after: Network) -> Iterator[Row]:
    rows: list[Row] = [("input", *(f"{network.width}x{network.height}" for network in (before, after)))]
    for index in before.heads:
        rows.append(
            (f"classes, [{before[index].kind}] #{index}", *(_classes(n, index) for n in (before, after)))
        )
        source = before.sources(index)[0]
        rows.append((f"filters before it, #{source}", *(str(n.channels(source)) for n in (before, after))))
    rows.append(("anchors in pixels", *(_sizes(network) for network in (before, after))))
    filters = [
        sum(
            network.channels(i)
            for i, section in enumerate(network.sections)
            if section.kind == "convolutional"
        )
        for network in (before, after)
    ]
    rows.append(("filters in all", *(f"{count:,}" for count in filters)))
    costs = [section_costs(network) for network in (before, after)]
    rows.append(("parameters", *(f"{sum(c.parameters for c in found):,}" for found in costs)))
    rows.append(("MACs", *(multiply_adds(sum(c.macs for c in found)) for found in costs)))
    for row in rows:
        if row[1] != row[2]:
            yield row


def _classes(network: Network, index: int) -> str:
    head = network[index]
    assert isinstance(head, Head)
    return str(head.classes)


def _sizes(network: Network) -> str:
    return "  ".join(f"{width:g},{height:g}" for width, height in np.round(slots(network), 1).tolist())


def _fits(anchors: Anchors | None) -> Iterator[Row]:
    if anchors is not None:
        fits = (anchors.current, anchors.suggested)
        yield ("mean best IoU of anchors", *(f"{fit.mean_iou:.3f}" for fit in fits))
        yield ("recall at IoU 0.5", *(f"{fit.recall[-1]:.1%}" for fit in fits))
