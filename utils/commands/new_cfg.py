"""Write a cfg for your own data, based on a stock one.

    python new_cfg.py --from cfg/yolov3.cfg --classes 3 --output cfg/my.cfg
    python new_cfg.py --from cfg/yolov3-tiny.cfg --data data/my.data --anchors auto --output cfg/my.cfg
    python new_cfg.py --from cfg/yolov4-tiny.cfg --classes 1 --width 0.5 --img_size 320 --output cfg/my.cfg

    --classes   set in every head, with the filters of the convolution before it
    --anchors   auto: k-means over the labels of --data, the small ones to the heads that mask them
    --width     multiplies the filters of all other convolutions; depthwise groups follow
    --img_size  input size of the network; anchors are scaled with it
The result is read back and checked before it is written. Weights of the stock cfg still fit if --width is 1:
train.py loads them and re-initializes the heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from ..darknet.anchors import slots, with_anchors
from ..darknet.edit import with_classes
from ..darknet.heads import Head
from ..darknet.network import Network, section_costs
from ..darknet.scale import with_size, with_width
from ..data.checks import check_data
from ..data.listing import read_data_file
from ..errors import CfgError, DatasetError, Finding, ToolkitError
from ..files import same_file, write_text
from ..options import POSITIVE_FLOAT, POSITIVE_INT, add_options, check_ranges, from_arguments, option
from .arguments import ImageSizeOptions, Parser, next_command
from .doctor.checks import Anchors, check_anchors
from .inputs import available
from .output import multiply_adds, quoted, show

Row = tuple[str, ...]  # what, before, after


@dataclass(frozen=True)
class NewCfgOptions(ImageSizeOptions):
    """Options of the new-cfg command; see its manual."""

    source: Path = option(Path(), "cfg to start from", Path, flags=("--from",), required=True, metavar="CFG")
    classes: int | None = option(None, "number of classes (default: that of --data)", POSITIVE_INT)
    anchors: str = option("keep", "auto: k-means over the labels of --data", choices=["keep", "auto"])
    data: Path | None = option(None, ".data file of the data set", Path)
    width: float = option(
        1.0, "factor of the filters, rounded to multiples of 8", POSITIVE_FLOAT, metavar="FACTOR"
    )
    output: Path = option(Path(), "the new cfg", Path, required=True, metavar="CFG")

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    parser = Parser(__doc__, "new-cfg")
    names = ("source", "classes", "anchors", "data", "width", "img_size", "output")
    for name in names:
        add_options(parser, NewCfgOptions, [name])
    run_new_cfg(from_arguments(NewCfgOptions, parser.parse_args(argv)))


def run_new_cfg(options: NewCfgOptions) -> None:
    """Write the new cfg and print the differences.

    Raises:
        ToolkitError: a file cannot be used, or the result is not a valid network.
    """
    if options.anchors == "auto" and options.data is None:
        raise ToolkitError("--anchors auto", "needs the labels of a data set", "add --data")
    if options.output.exists() and same_file(options.output, options.source):
        raise ToolkitError(f"--output {options.output}", "is the cfg to start from", "give another name")
    data = options.data and available(options.data)
    before = Network.from_cfg(options.source)
    if not before.heads:
        raise CfgError(options.source, "has no detection head", "start from the cfg of a detector")
    network = _changed(before, options, _class_count(options.classes, data))
    anchors = _best_anchors(network, data) if options.anchors == "auto" and data is not None else None
    if anchors is not None:
        network = with_anchors(network, anchors.sizes)
    text = network.to_cfg()
    network = Network.from_text(text, str(options.output))
    write_text(options.output, text)
    rows = [*_differences(before, network), *_fits(anchors)]
    if rows:
        paths = (options.source, options.output)
        table = Table("", *(Column(str(path), justify="right", overflow="fold") for path in paths))
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        show("Differences", table)
    else:
        print(f"{options.output}: the network of {options.source}, unchanged")
    files = f"--cfg {quoted(options.output)}"
    next_command(f"python train.py {files} --data {quoted(data)}" if data else f"python doctor.py {files}")


def _class_count(classes: int | None, data: Path | None) -> int | None:
    """Number of classes from the options or the data file, which must agree; None to keep the heads."""
    if data is None:
        return classes
    found = read_data_file(data)
    if classes not in (None, found.classes):
        raise ToolkitError(f"--classes {classes}", f"{data} has {found.classes}", "make them agree")
    return found.classes


def _changed(network: Network, options: NewCfgOptions, classes: int | None) -> Network:
    if classes is not None:
        network = with_classes(network, classes)
    if options.width != 1:
        network = with_width(network, options.width)
    if options.img_size is not None:
        try:
            network = with_size(network, *options.img_size)
        except CfgError as error:
            stride = max(network.stride(head) for head in network.heads)
            raise CfgError(error.place, error.fact, f"give an --img_size of multiples of {stride}") from None
    return network


def _best_anchors(network: Network, data: Path) -> Anchors:
    check = check_data(data, read_images=5000 if network.letterbox else 0)
    anchors = check_anchors(network, check)
    if anchors is None:
        errors = [finding for finding in check.findings if finding.severity == "error"]
        first = errors[0] if errors else Finding("error", str(data), "has no objects to compute anchors from")
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
    rows.append(("filters in total", *(f"{count:,}" for count in filters)))
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
