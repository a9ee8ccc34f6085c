"""The .weights format: a header, then every layer's numbers as float32.

Invariants: `read_weights(p, m)` then `write_weights(q, m, header)` makes q equal p byte for byte (m in
float32); a file is read completely or refused; `WeightsHeader.unpack(header.pack())` gives the header and its
length. Reader and writer use the same `fields` (load_convolutional_weights in parser.c).
"""

import logging
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..files import atomic_path
from .modules import ConnectedBlock, ConvBlock, Shortcut
from .network import Network

if TYPE_CHECKING:
    from .model import Darknet  # which holds a header itself

logger = logging.getLogger(__name__)

Cutoff = int | Literal["auto"] | None


@dataclass(frozen=True)
class WeightsHeader:
    """The first bytes of a file: version (Darknet writes 0.2.5) and number of images seen in training."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def is_plausible(self) -> bool:
        """Whether Darknet may have written it; the first bytes of other formats give other numbers."""
        return 0 <= self.major < 100 and 0 <= self.minor < 100 and 0 <= self.revision < 10_000

    @property
    def seen_format(self) -> str:
        """The `struct` format of `seen`: 32 bits before version 0.2 (load_weights_upto in parser.c)."""
        return "<Q" if self.major * 10 + self.minor >= 2 else "<I"

    def pack(self) -> bytes:
        """The header as bytes: 20, or 16 before version 0.2."""
        version = struct.pack("<3i", self.major, self.minor, self.revision)
        return version + struct.pack(self.seen_format, self.seen)

    @classmethod
    def unpack(cls, data: bytes) -> tuple["WeightsHeader", int]:
        """Header at the start of `data` and its length in bytes.

        Raises:
            ValueError: `data` is shorter than a header.
        """
        if len(data) < 12:
            raise ValueError("shorter than a header")
        version = cls(*struct.unpack_from("<3i", data))
        if len(data) < 12 + struct.calcsize(version.seen_format):
            raise ValueError("shorter than a header")
        (seen,) = struct.unpack_from(version.seen_format, data, 12)
        header = cls(version.major, version.minor, version.revision, seen)
        return header, 12 + struct.calcsize(version.seen_format)


def fields(layer: nn.Module) -> Iterator[Tensor]:
    """The tensors of one section in file order; none for a section without own weights."""
    if isinstance(layer, ConvBlock):
        if layer.shared:
            return
        if layer.norm is not None:
            yield from _norm_fields(layer.norm)
        elif layer.conv.bias is not None:
            yield layer.conv.bias
        yield layer.conv.weight
    elif isinstance(layer, ConnectedBlock):
        # Unlike in a convolution, the other numbers of the norm follow the matrix.
        first, *others = _norm_fields(layer.norm) if layer.norm is not None else (layer.linear.bias,)
        yield from (first, layer.linear.weight, *others)
    elif isinstance(layer, nn.BatchNorm2d):
        yield from _norm_fields(layer)
    elif isinstance(layer, Shortcut) and layer.weights is not None:
        yield layer.weights


def _norm_fields(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Biases and scales (beta, gamma), rolling_mean and rolling_variance, in Darknet's terms and order."""
    return norm.bias, norm.weight, norm.get_buffer("running_mean"), norm.get_buffer("running_var")


def read_header(path: Path) -> tuple[WeightsHeader, int, int]:
    """Header of a .weights file, its length in bytes, and the number of floats after it, rounded up.

    Raises:
        WeightsError: the file is missing, too short for a header, or of another format.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        size = path.stat().st_size
    except FileNotFoundError:
        raise WeightsError(path, "no such file", "check --weights") from None
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", "give a weights file") from None
    if not start:
        raise WeightsError(path, "is empty", "download or copy it again")
    try:
        header, length = WeightsHeader.unpack(start)
    except ValueError:
        fact = f"has {size} bytes, too few for the header of a Darknet weights file"
        raise WeightsError(path, fact, "download or copy it again") from None
    if not header.is_plausible:
        fact = f"is not a Darknet weights file (begins with {start[:4]!r})"
        raise WeightsError(path, fact, "give a .weights file, or name a checkpoint *.pt")
    return header, length, -(-(size - length) // 4)


def read_weights(path: Path, model: "Darknet", cutoff: Cutoff = None) -> WeightsHeader:
    """Copy a .weights file into `model`, which is unchanged on an error unless the file shrinks meanwhile.

    Args:
        cutoff: None: the file must have exactly the model's weights. N: load the first N sections, whatever
            follows in the file. "auto": the file may end after any section.

    Returns:
        The file's header; `model.header` is left to the caller.

    Raises:
        WeightsError: the file is missing, foreign, too short or too long; names section and floats.
    """
    header, offset, floats = read_header(path)
    ends = [0, *accumulate(model.network.weight_counts)]
    count = _sections_to_load(path, model.network, ends, floats, cutoff)
    if (path.stat().st_size - offset) % 4 and floats <= ends[count]:
        _fail_short(path, model.network, ends, floats - 1)
    wanted = [field for layer in model.layers[:count] for field in fields(layer)]
    # One field at a time: a buffer for the whole file would take as much memory as the model.
    buffer = np.empty(max((field.numel() for field in wanted), default=0), dtype="<f4")
    with path.open("rb") as file, torch.no_grad():
        file.seek(offset)
        for field in wanted:
            values = buffer[: field.numel()]
            if file.readinto(values.data) < values.nbytes:
                raise WeightsError(path, "became shorter while it was read", "copy it again")
            field.copy_(torch.from_numpy(values).view(field.shape))
    if count < len(model.network):
        logger.info("%s: weights of the first %d of %d sections loaded", path, count, len(model.network))
    return header


def _sections_to_load(path: Path, network: Network, ends: Sequence[int], floats: int, cutoff: Cutoff) -> int:
    if isinstance(cutoff, int):
        if not 0 < cutoff <= len(network):
            remedy = f"{network.source} has {len(network)} sections"
            raise WeightsError(path, f"cutoff={cutoff} is out of range", remedy)
        if floats < ends[cutoff]:
            _fail_short(path, network, ends, floats)
        return cutoff
    if floats == ends[-1]:
        return len(network)
    if floats > ends[-1]:
        _fail_long(path, network, ends, floats)
    if cutoff != "auto" or floats not in ends[1:]:
        _fail_short(path, network, ends, floats)
    return ends.index(floats)


def _fail_short(path: Path, network: Network, ends: Sequence[int], floats: int) -> NoReturn:
    total = f"{network.source} needs {ends[-1]:,} floats, the file has {floats:,}"
    if floats == 0:
        raise WeightsError(path, f"has a header and no weights ({total})", "download or copy it again")
    if floats in ends:
        # The smallest such count is the one in names like darknet53.conv.74.
        count = ends.index(floats)
        guess = f"it looks like a backbone file of the first {count} sections"
        fact = f"ends exactly after section #{count - 1}: {guess}"
        missing = f"{_place(network, count, ends)} and what follows it lack {ends[-1] - floats:,} floats"
        remedy = f"load it with cutoff={count} (--cutoff {count}) or cutoff=auto"
        raise WeightsError(path, fact, f"{remedy}; without that, {missing}")
    section = next(index for index, end in enumerate(ends[1:]) if end > floats)
    missing = f"{ends[section + 1] - floats:,} of its {ends[section + 1] - ends[section]:,} floats"
    fact = f"ends inside {network.place(section)}: {missing} are missing ({total})"
    raise WeightsError(path, fact, "give the weights made for this cfg, or copy them again")


def _fail_long(path: Path, network: Network, ends: Sequence[int], floats: int) -> NoReturn:
    last = max((index for index in range(len(network)) if ends[index + 1] > ends[index]), default=0)
    fact = f"{floats - ends[-1]:,} floats are left over after {network.place(last)}, the last with weights"
    total = f"{network.source} needs {ends[-1]:,} floats, the file has {floats:,}"
    raise WeightsError(path, f"{fact} ({total})", "give the weights made for this cfg")


def _place(network: Network, index: int, ends: Sequence[int]) -> str:
    """Place of the first section with weights from `index` on."""
    return network.place(next(i for i in range(index, len(network)) if ends[i + 1] > ends[i]))


def write_weights(path: Path, model: "Darknet", header: WeightsHeader) -> None:
    """Write `header` and all weights as float32, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.pack())
        for layer in model.layers:
            for field in fields(layer):
                array = field.detach().to("cpu", torch.float32).contiguous().numpy()
                array.astype("<f4", copy=False).tofile(file)
