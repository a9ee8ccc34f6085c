"""What all scripts share: option spelling, common flags, the demo's defaults, errors, JSON results.

parser = Parser(__doc__, "evaluate")
add_network(parser), add_data(parser), add_common(parser)
args = parser.parse_args(argv)
device = prepare(args)
project = resolve(args, needs=("cfg", "weights"))
"""

import argparse
import os
import random
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cli import as_typed, program
from ..errors import ToolkitError
from ..options import NON_NEGATIVE_INT, POSITIVE_INT, option
from ..runtimes.choice import ALL_NAMES
from .inputs import Need, Project, resolve
from .results import arguments, next_command, provenance, write_json

__all__ = [  # of project.py and results.py too: one import serves a command
    "Need", "Parser", "Project", "add_common", "add_data", "add_image_size", "add_network", "add_runtime",
    "arguments", "next_command",
    "prepare", "provenance", "resolve",
    "write_json",
]  # fmt: skip

Options = argparse.ArgumentParser | argparse._ArgumentGroup  # what options are added to


class _ManualFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the manual's line breaks and tells the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        if silent or not action.option_strings or "(default" in (action.help or ""):
            return action.help
        return f"{action.help or ''} (default: %(default)s)".strip()


class Parser(argparse.ArgumentParser):
    """A parser whose long options take `_` or `-`, and whose `--help` is the script's docstring.

    Options must be written out, not abbreviated. The namespace also gets `command`, the line typed.

    Args:
        manual: the help text; scripts in it are shown as the user starts them.
        command: such as "slim-prune"; None for a program that is no command of this package.

    >>> parser = Parser("Prune.", "prune"); _ = parser.add_argument("--img_size", type=int)
    >>> parser.parse_args(["--img-size=320"]).img_size
    320
    """

    def __init__(self, manual: str | None, command: str | None = None) -> None:
        self.program = program(command) if command else f"python {Path(sys.argv[0]).name}"
        super().__init__(
            self.program.removeprefix("python "),
            description=as_typed(manual or ""),
            formatter_class=_ManualFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(  # type: ignore[override]  # the base is overloaded over namespace types
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, after giving every long option the spelling it was added with."""
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        spelled = [self._spelled(word) for word in words[:end]] + words[end:]
        parsed, rest = super().parse_known_args(spelled, namespace)
        parsed.command = f"{self.program} {shlex.join(words)}".rstrip()
        return parsed, rest

    def _spelled(self, word: str) -> str:
        if not word.startswith("--"):
            return word
        name, equals, value = word.partition("=")
        known = {option.replace("_", "-"): option for option in self._option_string_actions}
        return known.get(name.replace("_", "-"), name) + equals + value


class _ImageSize(argparse.Action):
    """Stores one or two sizes as (height, width)."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        sizes = tuple(values or ())
        if len(sizes) > 2:
            parser.error(
                f"argument {option_string}: give one size, or height and width, not {len(sizes)} numbers"
            )
        setattr(namespace, self.dest, (sizes[0], sizes[-1]))


@dataclass(frozen=True)
class NetworkOptions:
    """The files of a network."""

    cfg: Path | None = option(None, "Darknet cfg of the network", Path)
    weights: Path | None = option(None, "its .weights file or .pt checkpoint", Path)


@dataclass(frozen=True)
class InputOptions(NetworkOptions):
    """The files of a network, and a data set."""

    data: Path | None = option(None, ".data file of the data set", Path)


@dataclass(frozen=True)
class MachineOptions:
    """Where a command runs.

    Attributes:
        command: the line that was typed; empty for a call from Python.
    """

    seed: int = option(0, "of every random choice", NON_NEGATIVE_INT)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")
    workers: int = option(min(4, os.cpu_count() or 1), "processes that load images", NON_NEGATIVE_INT)
    threads: int | None = option(None, "of torch (default: torch's own choice)", POSITIVE_INT)
    command: str = ""


def add_image_size(parser: Options, default: tuple[int, int] | None = None) -> None:
    """Add `--img_size N` or `H W`, kept as (height, width); None stands for the cfg's own size."""
    size = f"(default: {default[0]} {default[1]})" if default else "(default: the cfg's own)"
    text = f"pixels of the network's input, square or height and width {size}"
    parser.add_argument(
        "--img_size", nargs="+", type=POSITIVE_INT, action=_ImageSize, default=default, metavar="N", help=text
    )


def add_network(parser: Options) -> None:
    """Add --cfg and --weights."""
    parser.add_argument("--cfg", type=Path, help="Darknet cfg of the network")
    parser.add_argument("--weights", type=Path, help="its .weights file or .pt checkpoint")


def add_runtime(parser: Options) -> None:
    """Add --runtime for exported files, and for OpenCV."""
    text = "what computes: onnxruntime, openvino or tensorrt for .onnx; torch or opencv for cfg and weights"
    parser.add_argument("--runtime", choices=ALL_NAMES, help=text)


def add_data(parser: Options) -> None:
    """Add --data."""
    parser.add_argument("--data", type=Path, help=".data file of the data set")


def add_common(parser: argparse.ArgumentParser, *, several_threads: bool = False) -> None:
    """Add --seed, --device, --workers and --threads; of several, they are the list `thread_counts`."""
    group = parser.add_argument_group("machine")
    group.add_argument("--seed", type=NON_NEGATIVE_INT, default=0, help="of every random choice")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=NON_NEGATIVE_INT, default=workers, help="processes that load images")
    text = "of torch (default: torch's own choice)"
    if several_threads:
        group.add_argument(
            "--threads", type=POSITIVE_INT, nargs="+", dest="thread_counts", metavar="N", help=text
        )
        parser.set_defaults(threads=None)
    else:
        group.add_argument("--threads", type=POSITIVE_INT, help=text)


def prepare(args: argparse.Namespace | MachineOptions) -> torch.device:
    """Seed all generators, set the thread count, and return the device that the options ask for.

    Raises:
        ToolkitError: the device is not known or not there.
    """
    random.seed(args.seed)
    np.random.seed(args.seed % 2**32)  # libraries draw from the global state
    torch.manual_seed(args.seed % 2**63)
    if args.threads:
        torch.set_num_threads(args.threads)
    return _device(args.device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: this torch was built without the device
        fact = "this torch knows or finds no such device"
        raise ToolkitError(f"--device {name}", fact, "use auto, cpu, cuda or cuda:N") from error
    return device
