"""Checks of a pruning run: which networks were compared, and how much their outputs differ.

Everything is compared on one random image, of 128 pixels where the network accepts it: in float64 between
the networks in memory and the files read back, in float32 with other programs.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch
from torch import Tensor

from ...darknet.model import Darknet
from ...errors import ExportError, MissingPackageError, PruningError
from ...exporters.job import exporting
from ...exporters.onnx import TOLERANCE, export_onnx
from ...exporters.tracing import BoxesAndScores
from ...frontends.darknet.subject import DarknetSubject, usable_size
from ...pruning.equality import outputs_in_float64, relative_difference
from ...pruning.report import Check
from ...pruning.surgery import PruningResult
from ...runtimes.opencv import opencv_maps, opencv_objection, raw_maps

SIZE = 128
# Rounding in float64 stays below 1e-12; a fault is larger.
EQUAL = 1e-8
# OpenCV sums in float32, in another order: 1e-6 is usual, extreme weights reach 1e-4.
OPENCV_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Ledger:
    """The comparisons so far, with the image, the compact network, and its heads in float64."""

    image: Tensor
    compact: Darknet
    heads: list[Tensor]
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, model: Darknet, checks: Iterable[Check] = ()) -> "Ledger":
        """A ledger for a network that is not compared with another one in memory."""
        image = _image(model)
        return cls(image, model, outputs_in_float64(model, image), tuple(checks))


def compare_in_memory(result: PruningResult[DarknetSubject]) -> Ledger:
    """Compare gamma_masked with folded, for information only, and zeroed with compact.

    Raises:
        PruningError: zeroed and compact differ, which is an error of this program.
    """
    compact = result.compact.model
    ledger = Ledger.of(compact)
    image, heads = ledger.image, ledger.heads
    zeroed = outputs_in_float64(result.folded.model, image)
    masked = outputs_in_float64(result.masked.model, image)
    size = f"float64, {image.shape[3]}x{image.shape[2]}"
    checks = (
        *_where(zeroed, masked, size),
        Check("zeroed / compact", relative_difference(heads, zeroed), EQUAL, size),
    )
    require(checks, compact.network.source)
    return replace(ledger, checks=checks)


def compare_files(ledger: Ledger, saved: Darknet, reloaded: Darknet, *, full: bool) -> tuple[Check, ...]:
    """Compare the saved network with the files read back, then with other programs.

    Args:
        ledger: of `compare_in_memory`.
        saved: the network in memory: the compact one, recalibrated or not.
        reloaded: the files just written, read.
        full: run OpenCV and onnxruntime too.

    Raises:
        PruningError: one of them computes different outputs.
    """
    expected = ledger.heads if saved is ledger.compact else outputs_in_float64(saved, ledger.image)
    difference = relative_difference(outputs_in_float64(reloaded, ledger.image), expected)
    checks = [Check("compact / .weights read back", difference, EQUAL, "float64")]
    if full:
        cpu = reloaded if next(reloaded.parameters()).device.type == "cpu" else deepcopy(reloaded).cpu()
        onnx = _onnx(
            cpu, ledger.image
        )  # needs more memory, so it runs before OpenCV, which does not free its own
        checks += [_opencv(cpu, ledger.image), onnx]
    require(checks, saved.network.source)
    return tuple(checks)


def require(checks: Sequence[Check], source: str) -> None:
    """Refuse a ledger with a failed comparison.

    Raises:
        PruningError: naming the comparison.
    """
    for check in checks:
        if check.passed:
            continue
        if check.difference is not None and math.isnan(check.difference):
            remedy = "doctor.py lists the weights that are not finite"
            raise PruningError(source, f"{check}: outputs contain NaN or inf", remedy)
        fact = f"{check}: the pruned network computes different outputs"
        raise PruningError(source, fact, "nothing was written; please report this cfg")


def _image(model: Darknet) -> Tensor:
    size = usable_size(model.network, SIZE)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, model.network.channels(-1), *size, generator=generator)


def _where(folded: Sequence[Tensor], masked: Sequence[Tensor], size: str) -> Iterator[Check]:
    """The effect of zero padding: the border cells of each head, and the interior ones."""
    inside = [_ring(head.shape[2], head.shape[3]) for head in masked]
    for place, wanted in (("interior", False), ("border", True)):
        rings = [ring == wanted for ring in inside]
        pairs = [
            (a[:, :, ring], b[:, :, ring])
            for a, b, ring in zip(folded, masked, rings, strict=True)
            if ring.any()
        ]
        name = f"gamma_masked / folded, {place}"
        if not pairs:
            yield Check(name, None, None, "no head has such cells at this size")
            continue
        actual, expected = zip(*pairs, strict=True)
        yield Check(name, relative_difference(actual, expected), None, f"{size}; for information")


def _ring(height: int, width: int) -> Tensor:
    """(height, width) whether a cell is at the border."""
    ring = torch.ones(height, width, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    return ring


def _opencv(model: Darknet, image: Tensor) -> Check:
    name = "compact / OpenCV"
    objection = opencv_objection(model.network)
    if objection:
        return Check(name, None, None, objection)
    with torch.no_grad():
        expected = raw_maps(model(image))
    try:
        actual = opencv_maps(model, image)
    except cv2.error as error:
        return Check(name, None, None, f"OpenCV cannot run it: {' '.join(str(error).split())}"[:200])
    return Check(
        name, relative_difference(actual, expected), OPENCV_TOLERANCE, f"OpenCV {cv2.__version__}, float32"
    )


def _onnx(model: Darknet, image: Tensor) -> Check:
    name = "compact / ONNX"
    size = (image.shape[2], image.shape[3])
    with torch.no_grad():
        outputs = BoxesAndScores(model, model.head_specs)(image)
    if not all(bool(output.isfinite().all()) for output in outputs):
        return Check(
            name, None, None, "boxes overflow, as happens when too much is removed: nothing to compare"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            job = exporting(model, model.head_specs, size, channels=model.network.channels(-1))
            export = export_onnx(job, Path(folder) / "net.onnx")
        except MissingPackageError as error:
            return Check(name, None, None, str(error))
        except ExportError as error:
            return Check(name, float("inf"), TOLERANCE, str(error))
    return Check(name, export.parities[0].largest, TOLERANCE, "onnxruntime, decoded, float32")
