"""What every runtime offers.

Invariant: all of them compute the same function of the same file, up to the rounding of their precision. The
number of threads is torch's own (`torch.set_num_threads`), so that figures of several runtimes compare.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ToolkitError

Images = NDArray[np.float32]  # (B, C, H, W)
Outputs = list[NDArray[np.float32]]
Sizes = tuple[int | None, ...]  # batch, channels, height, width; None for one that is open
OPEN: Sizes = (None, None, None, None)

# What an exported file says of its network, each a text with JSON inside.
TEXTS = ("names", "strides", "anchors", "cfg_sha256", "darknet")

_SHORT = 160  # characters of what a package says
_PLACE_IN_SOURCE = re.compile(
    r"Exception from .*:$|Check '.*' failed at .*:$|FrontEnd API failed with .*:$|While validating "
)


class Session(Protocol):
    """A network that is ready to run."""

    @property
    def sizes(self) -> Sizes:
        """What the images must be; a file that does not say it is taken for open."""

    @property
    def texts(self) -> Mapping[str, str]:
        """What the file says of its network, of `TEXTS`; empty for a module."""

    def infer(self, images: Images) -> Outputs:
        """(B, C, H, W) -> the network's outputs, in their order."""

    def bound(self, images: Images) -> Callable[[], object]:
        """One inference of these images, to be timed: what only hands them over is done beforehand."""


class Runtime(Protocol):
    """A way to run networks."""

    @property
    def name(self) -> str:
        """As users write it."""

    @property
    def version(self) -> str:
        """Of the package."""

    @property
    def precision(self) -> str:
        """In which it computes: f32, bf16, f16."""

    @property
    def device(self) -> str | None:
        """Model of the device that it runs on; None for the machine's processor."""

    def load(self, path: Path) -> Session:
        """A file in one of the runtime's formats, ready to run.

        Raises:
            ToolkitError: the runtime cannot load it.
        """


def warm_up(session: Session, shape: tuple[int, ...]) -> Outputs:
    """Run on black images of `shape`, which takes what only the first run takes; its outputs."""
    return session.infer(np.zeros(shape, np.float32))


def random_images(shape: tuple[int, ...], seed: int = 0) -> Images:
    """Noise (B, C, H, W) in 0..1, always the same: zeros and denormals would run at another speed."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).numpy()


def texts_path(path: Path) -> Path:
    """The JSON file beside a format that carries no texts itself.

    >>> texts_path(Path("best.engine")).name
    'best.engine.json'
    """
    return path.with_name(f"{path.name}.json")


def read_texts(path: Path) -> dict[str, str]:
    """The texts beside the file `path`, see `texts_path`; none where there is no such file.

    Raises:
        ToolkitError: it is not a JSON object.
    """
    return known_texts(read_beside(path))


def read_beside(path: Path) -> dict[str, object]:
    """All that the JSON file beside `path` holds; nothing where there is none.

    Raises:
        ToolkitError: it is not a JSON object.
    """
    file = texts_path(path)
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{str(found)[:_SHORT]!r} is no object")
    except (ValueError, RecursionError) as error:
        fact = f"is not what an export writes ({error})"
        raise ToolkitError(file, fact, "export the network anew") from error
    return found


def known_texts(found: Mapping[str, object]) -> dict[str, str]:
    """Those of `TEXTS` in what a file carries; others are its runtime's business."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in found.items()
        if name in TEXTS
    }


def unloadable(path: Path, runtime: str, error: Exception) -> ToolkitError:
    """What to raise where a package cannot load a file."""
    return ToolkitError(path, f"{runtime} cannot load it: {gist(error, path)}", "export it again")


def unusable(path: Path, shape: tuple[int, ...], error: Exception) -> ToolkitError:
    """What to raise where a package cannot run a file on images of `shape`."""
    fact = f"cannot be run on images {shape}: {gist(error, path)}"
    return ToolkitError(path, fact, "give a size that fits, or export it again")


def gist(error: Exception, path: Path) -> str:
    """The first telling line of a package's message, shortened, without the folder of `path`.

    >>> gist(RuntimeError("Exception from core.cpp:84:\\nNo weights in /a/net.bin!\\n"), Path("/a/net.bin"))
    'No weights in net.bin!'
    """
    lines = [line.strip() for line in str(error).replace(str(path), path.name).splitlines() if line.strip()]
    telling = [line for line in lines if not _PLACE_IN_SOURCE.match(line)]  # OpenVINO begins with these
    line = (telling or lines or [type(error).__name__])[0].rstrip(".;:")
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}..."
