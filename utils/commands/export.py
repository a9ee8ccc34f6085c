"""The export command: which network goes where, and what is told about it."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from utils.commands.arguments import (
    Parser,
    add_common,
    add_data,
    add_image_size,
    add_network,
    next_command,
    prepare,
    resolve,
)
from utils.commands.project import open_network
from utils.darknet.model import Darknet
from utils.data.listing import read_data_file
from utils.export.onnx import OnnxExport, export_onnx


def export_parser(manual: str | None) -> Parser:
    """The command line of export.py; `manual` is its help text."""
    parser = Parser(manual)
    add_network(parser)
    add_data(parser)
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="of the file")
    add_image_size(parser)
    parser.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the file (default: the weights')"
    )
    add_common(parser)
    return parser


def run_export(args: argparse.Namespace) -> None:
    """Export as the command line says, and print what was compared.

    Raises:
        ToolkitError: a file cannot be used, or the exported one would not compute the same.
    """
    prepare(args)
    project = resolve(args, needs=("cfg", "weights"))
    weights = project.needed("weights")
    model = open_network(project)
    names = read_data_file(project.data).names if project.data else ()
    size = args.img_size or (model.network.height, model.network.width)
    path = (args.output or weights.parent) / f"{weights.stem}.onnx"
    export = export_onnx(
        model,
        model.head_specs,
        path,
        size,
        channels=model.network.channels(-1),
        dynamic=args.dynamic,
        size_step=model.network.size_step,
        metadata=_metadata(model, names),
    )
    _report(export)
    load = f"import onnxruntime; print(onnxruntime.InferenceSession({path.as_posix()!r}).get_outputs())"
    next_command(f'python -c "{load}"')


def _metadata(model: Darknet, names: Sequence[str]) -> dict[str, str]:
    """What a program needs to make sense of the outputs, as texts."""
    specs = model.head_specs
    texts = {
        "anchors": json.dumps([spec.anchors for spec in specs]),
        "strides": json.dumps([spec.stride for spec in specs]),
        "cfg_sha256": hashlib.sha256(model.network.to_cfg().encode()).hexdigest(),
    }
    return texts | ({"names": json.dumps(list(names))} if names else {})


def _report(export: OnnxExport) -> None:
    print(f"{export.path}: {export.path.stat().st_size / 1e6:.1f} MB")
    print("onnxruntime against torch, largest difference / largest value:")
    for parity in export.parities:
        batch, _, height, width = parity.shape
        print(f"  batch {batch}, {height}x{width}: boxes {parity.boxes:.1e}, scores {parity.scores:.1e}")
