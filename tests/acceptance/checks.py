"""The checks that a cfg must pass: a function for each group of columns of docs/results/acceptance.md.

Networks run at a few cells of their coarsest map, with random weights and statistics, so that even the
largest takes seconds. A cell is "ok", "n/a: reason" or "FAILED: what happened".
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.zoo_cases import randomise
from tests.darknet.references import as_map, opencv_heads, random_images
from utils.darknet.cfg import format_cfg, parse_cfg, read_text
from utils.darknet.compatibility import opencv_findings, verdict
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.sections import Connected
from utils.darknet.weights import read_weights, write_weights
from utils.errors import CfgError
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import PruningResult, prune

OK = "ok"
Cells = dict[str, str]


@dataclass
class Candidate:
    """A cfg under test; every stage is made when it is first asked for."""

    path: Path
    cells: Cells = field(default_factory=dict)

    @cached_property
    def network(self) -> Network:
        """As the file has it, at a small size."""
        network = Network.from_cfg(self.path)
        if self.has_one_size(network) or max(network.width, network.height) <= 64:
            return network
        sides = {"width": str(2 * network.size_step), "height": str(2 * network.size_step)}
        return Network([network.raw[0].with_options(sides), *network.raw[1:]], network.source)

    @staticmethod
    def has_one_size(network: Network) -> bool:
        """Whether a [connected] section ties the network to its own size."""
        return any(isinstance(section, Connected) for section in network.sections)

    @cached_property
    def model(self) -> Darknet:
        """Built, with random weights."""
        return randomise(Darknet(self.network, initialise=False))

    @cached_property
    def pruned(self) -> PruningResult[DarknetSubject]:
        """By slim, in float64."""
        subject = DarknetSubject.of(deepcopy(self.model).double())
        return prune(subject, [slim_threshold(0.6, 0.1)])

    @contextmanager
    def cell(self, name: str) -> Iterator[None]:
        """Fill a cell with "ok" unless the block raises."""
        try:
            yield
            self.cells.setdefault(name, OK)
        except (CfgError, AssertionError, RuntimeError, ValueError, KeyError, IndexError, cv2.error) as error:
            self.cells[name] = (
                f"FAILED: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )


def heads(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """All raw heads as one row of numbers."""
    with torch.no_grad():
        return torch.cat([head.flatten() for head in model(images)])


def reads(candidate: Candidate) -> None:
    """parse, round trip, build, forward at two sizes."""
    with candidate.cell("parse"):
        raw = parse_cfg(read_text(candidate.path))
    with candidate.cell("round trip"):
        assert parse_cfg(format_cfg(raw)) == raw
        network = Network.from_cfg(candidate.path)
        assert Network.from_text(network.to_cfg()).sections == network.sections
    with candidate.cell("build"):
        assert sum(candidate.network.weight_counts) > 0
        assert len(candidate.model.head_specs) == len(candidate.network.heads) > 0
    with candidate.cell("two sizes"):
        network = candidate.network
        own, step = (network.height, network.width), network.size_step
        other = (own[0] // step * step + step, own[1] // step * step + 2 * step)
        for size in (own,) if candidate.has_one_size(network) else (own, other):
            outputs = candidate.model(random_images(candidate.model, size))
            shapes = network.shapes_at(*size)
            for index, output in zip(network.heads, outputs, strict=True):
                assert output.shape[2:4] == shapes[index].size
                assert bool(output.isfinite().all())
                assert output.std() > 1e-3
        if candidate.has_one_size(network):
            candidate.cells["two sizes"] = "n/a: [connected] fixes the size of the image"


def prunes(candidate: Candidate) -> None:
    """prune by slim, compact == zeroed in float64, write, reload."""
    with candidate.cell("prune"):
        graph = DarknetSubject.of(candidate.model).graph
        kept, total = int(candidate.pruned.keep.sum()), len(candidate.pruned.keep)
        assert kept < total
        assert bool(candidate.pruned.keep[graph.pinned].all())
    with candidate.cell("compact = zeroed"):
        images = random_images(candidate.model).double()
        expected = heads(candidate.pruned.folded.model, images)
        difference = (heads(candidate.pruned.compact.model, images) - expected).abs().max()
        scale = float(expected.abs().max())
        assert scale > 1e-3
        assert difference <= 1e-12 * scale, f"{difference / scale:.1e} of the largest value"


def survives_its_files(candidate: Candidate, folder: Path) -> None:
    """The pruned network written, and read again."""
    compact = candidate.pruned.compact
    compact.model.float()
    with candidate.cell("write"):
        compact.save(folder / "net.cfg", folder / "net.weights")
        size = (folder / "net.weights").stat().st_size
        assert size == 20 + 4 * sum(compact.network.weight_counts)
    with candidate.cell("reload"):
        again = Darknet(Network.from_cfg(folder / "net.cfg"), initialise=False)
        read_weights(folder / "net.weights", again)
        images = random_images(again)
        assert torch.equal(heads(again.eval(), images), heads(compact.model, images))
        write_weights(folder / "again.weights", again, compact.model.header)
        assert (folder / "again.weights").read_bytes() == (folder / "net.weights").read_bytes()


def is_read_by_opencv(candidate: Candidate, folder: Path) -> None:
    """OpenCV's raw heads of the network and of the pruned one; or what stands in its way, truly."""
    for name, model in {
        "OpenCV": candidate.model,
        "OpenCV, pruned": candidate.pruned.compact.model.float(),
    }.items():
        findings = opencv_findings(model.network)
        expected, found = verdict(findings), opencv_verdict(model, folder)
        with candidate.cell(name):
            # What is misread may be gone by pruning, such as a gate's other channels.
            is_gone = expected == "reads wrongly" and name != "OpenCV"
            is_right = found == expected or (found == "fails" and expected != "accepts")
            assert is_right or is_gone, f"{expected} was said, but it {found}"
        if candidate.cells[name] == OK and expected != "accepts":
            reasons = dict.fromkeys(f"[{model.network[f.section].kind}]: {f.fact}" for f in findings)
            candidate.cells[name] = f"n/a: {expected} " + "; ".join(reasons)


def opencv_verdict(model: Darknet, folder: Path) -> str:
    """What OpenCV really makes of a network: "accepts", "reads wrongly", or "fails" with an error."""
    images = random_images(model)
    try:
        theirs = opencv_heads(model, images, folder)
    except cv2.error:
        return "fails"
    with torch.no_grad():
        ours = [as_map(head) for head in model(images)]
    same = all(
        a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-3 * np.abs(a).max())
        for a, b in zip(ours, theirs, strict=True)
    )
    return "accepts" if same else "reads wrongly"


COLUMNS: Mapping[Callable[..., None], tuple[str, ...]] = {
    reads: ("parse", "round trip", "build", "two sizes"),
    prunes: ("prune", "compact = zeroed"),
    survives_its_files: ("write", "reload"),
    is_read_by_opencv: ("OpenCV", "OpenCV, pruned"),
}
ALL_COLUMNS = tuple(name for names in COLUMNS.values() for name in names)


def check(candidate: Candidate, group: Callable[..., None], folder: Path) -> Cells:
    """Run one group; a refused cfg gets its refusal in every cell."""
    try:
        Network.from_cfg(candidate.path)
    except CfgError as error:
        place = str(error).replace(str(candidate.path), candidate.path.name)
        return dict.fromkeys(COLUMNS[group], f"n/a: {place}")
    if group in (reads, prunes):
        group(candidate)
    else:
        group(candidate, folder)
    return {name: candidate.cells[name] for name in COLUMNS[group]}
