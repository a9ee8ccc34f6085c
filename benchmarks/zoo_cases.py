"""The cases of benchmarks/zoo.py: a cfg pruned by a strategy, and the result proven step by step."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from utils.commands.prune.ledger import Ledger, compare_files
from utils.darknet.checkpoint import load_weights
from utils.darknet.edit import residual_blocks
from utils.darknet.model import Darknet
from utils.darknet.modules import ConvBlock
from utils.darknet.network import Network, section_costs
from utils.darknet.sections import Convolutional
from utils.darknet.weights import read_weights
from utils.errors import CfgError, PruningError
from utils.frontends.darknet.subject import DarknetSubject, classic_scores, trace, usable_size
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.policies import Policy, WeakestBlocks, normal_threshold, shortcut_threshold, slim_threshold
from utils.pruning.report import Check
from utils.pruning.scores import gamma_scores
from utils.pruning.surgery import Folding, PruningResult, prune

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
EQUAL = 1e-12
Policies = Callable[[DarknetSubject], list[Policy]]


@dataclass(frozen=True)
class Step:
    """One pruning run; the options are those of the scripts."""

    policies: Policies
    align: int = 1
    min_channels: int = 1
    folding: Folding = "interior"
    classic: bool = False


def _half(subject: DarknetSubject) -> WeakestBlocks:
    return WeakestBlocks(max(1, len(subject.blocks) // 2))


CHANNELS = Step(lambda _: [slim_threshold(0.5, 0.01)])
LAYERS = Step(lambda subject: [_half(subject)])
STRATEGIES: Mapping[str, tuple[Step, ...]] = {
    "normal": (Step(lambda _: [normal_threshold(0.6)]),),
    "shortcut": (Step(lambda _: [shortcut_threshold(0.6)]),),
    "slim": (Step(lambda _: [slim_threshold(0.7, 0.01)]),),
    "slim --classic": (Step(lambda _: [slim_threshold(0.7, 0.01)], classic=True),),
    "slim --align 8": (Step(lambda _: [slim_threshold(0.7, 0.01)], align=8),),
    "slim --min-channels 5": (Step(lambda _: [slim_threshold(0.9, 0.0)], min_channels=5),),
    "slim --fold borders": (Step(lambda _: [slim_threshold(0.7, 0.01)], folding="borders"),),
    "slim --merge mean": (Step(lambda _: [slim_threshold(0.7, 0.01, "mean")]),),
    "slim --keep-sections": (Step(lambda _: [slim_threshold(0.7, 0.01)]),),
    "layers": (LAYERS,),
    "all layers": (Step(lambda subject: [WeakestBlocks(max(1, len(subject.blocks)))]),),
    "layer_channel": (Step(lambda subject: [slim_threshold(0.7, 0.01), _half(subject)]),),
    "layer_channel --align 8 --fold borders": (
        Step(lambda subject: [slim_threshold(0.7, 0.01), _half(subject)], align=8, folding="borders"),
    ),
    "slim, slim": (CHANNELS, CHANNELS),
    "slim, layers, slim, layers": (CHANNELS, LAYERS, CHANNELS, LAYERS),
    "layers, slim, layers, slim": (LAYERS, CHANNELS, LAYERS, CHANNELS),
}


@dataclass(frozen=True)
class Row:
    """A line of the CSV file.

    Attributes:
        cfg: such as "zoo/yolov3".
        strategy: key of STRATEGIES.
        verdict: "ok", "n/a: reason" or "FAULT: what".
        compact: largest difference of compact from zeroed over the largest output, worst of all steps.
        files: the same for the files read back.
        opencv: the same for OpenCV, or its objection.
        onnx: the same for onnxruntime.
    """

    cfg: str
    strategy: str
    verdict: str
    filters: int = 0
    filters_after: int = 0
    parameters: int = 0
    parameters_after: int = 0
    macs: int = 0
    macs_after: int = 0
    blocks: int = 0
    blocks_removed: int = 0
    compact: str = ""
    files: str = ""
    opencv: str = ""
    onnx: str = ""
    seconds: float = 0.0


def cfgs() -> dict[str, Path]:
    """Every cfg by its name in the table."""
    found = [*(SHARED / "zoo").glob("*.cfg"), *(SHARED / "weights").glob("*/*.cfg")]
    found.append(ROOT / "cfg/yolov3-shapes.cfg")
    names = {path: f"{'zoo' if path.parent.name == 'zoo' else 'real'}/{path.stem}" for path in found}
    names[found[-1]] = "cfg/yolov3-shapes"
    return {name: path for path, name in sorted(names.items(), key=lambda item: item[1].lower())}


def randomise(model: Darknet, seed: int = 0) -> Darknet:
    """Fill every tensor such that maps keep their size of about 1 from section to section."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.3, 1.5, generator=generator)
        elif tensor.ndim > 1 and not name.endswith("weights"):
            tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0.2, 0.2, generator=generator)
    return model.eval()


def network_of(path: Path) -> Darknet:
    """Real weights if there are any beside the cfg, else such that maps keep their size of about 1."""
    model = Darknet(Network.from_cfg(path), initialise=False)
    if weights := sorted(path.parent.glob("*.weights")):
        load_weights(model, weights[0])
        return model.eval()
    randomise(model)
    for block in residual_blocks(model.network):  # or sums of many grow beyond what exp of a width can take
        last = model.layers[block.branch[-1]]
        if isinstance(last, ConvBlock) and last.norm is not None:
            last.norm.weight.data *= 0.2
    return model.eval()


def run_case(name: str, path: Path, strategy: str, model: Darknet | None = None) -> Row:
    """Prune one cfg by one strategy and prove the result.

    Args:
        name: of the cfg in the table.
        path: of the cfg.
        strategy: key of STRATEGIES.
        model: `network_of(path)` if it is there already.
    """
    start = time.perf_counter()
    try:
        model = model or network_of(path)
        row = _proven(name, model, strategy)
    except CfgError as error:
        row = Row(name, strategy, f"n/a: {str(error).replace(str(path), path.name)}")
    except PruningError as error:
        is_refusal = "asked for" in str(error) or "nothing to prune" in str(error)
        row = Row(name, strategy, f"{'n/a' if is_refusal else 'FAULT'}: {error}")
    except AssertionError as error:
        row = Row(name, strategy, f"FAULT: {error}")
    return replace(row, seconds=round(time.perf_counter() - start, 2))


def _proven(name: str, model: Darknet, strategy: str) -> Row:
    keep = kept_sections(model.network) if strategy.endswith("--keep-sections") else ()
    subject = first = DarknetSubject.of(model, keep)
    size = usable_size(model.network, 2 * model.network.size_step)
    image = torch.rand(1, model.network.channels(-1), *size, generator=torch.Generator().manual_seed(0))
    worst, removed = 0.0, 0
    for step in STRATEGIES[strategy]:
        scores = classic_scores if step.classic else gamma_scores
        policies = step.policies(subject)
        result = prune(
            subject,
            policies,
            scores,
            folding=step.folding,
            align=step.align,
            min_channels=step.min_channels,
            may_keep_all=True,
        )
        heads = outputs_in_float64(result.compact.model, image)
        difference = relative_difference(heads, outputs_in_float64(result.folded.model, image))
        assert difference <= EQUAL, f"compact is {difference:.1e} from zeroed"
        assert _spread(heads) > 1e-6, "the outputs are the same in all cells: equality would prove nothing"
        _assert_widths(subject, result, step)
        worst, removed = max(worst, difference), removed + len(result.removed_blocks)
        subject = result.compact
    assert kept_widths(subject) == kept_widths(first), "a kept section did not stay as it is"
    files, opencv, onnx = _files(subject, Ledger(image, subject.model, heads, ()))
    before, after = model.network, subject.network
    return Row(
        name,
        strategy,
        "ok",
        _filters(before),
        _filters(after),
        _cost(before, "parameters"),
        _cost(after, "parameters"),
        _cost(before, "macs"),
        _cost(after, "macs"),
        len(first.blocks),
        removed,
        f"{worst:.1e}",
        files,
        opencv,
        onnx,
    )


def kept_widths(subject: DarknetSubject) -> list[int]:
    """Filters of the sections that are to be kept, which the subject follows through every cut."""
    return sorted(len(subject.graph.layers[name].outputs) for name in subject.kept)


def kept_sections(network: Network) -> tuple[int, ...]:
    """Three convolutions that a run with --keep-sections leaves as they are."""
    found = [i for i, section in enumerate(network.sections) if isinstance(section, Convolutional)]
    return tuple(sorted({found[1], found[len(found) // 3], found[len(found) // 2]}))


def _assert_widths(subject: DarknetSubject, result: PruningResult[DarknetSubject], step: Step) -> None:
    """The network traced again has the mask's widths, and they are such as were asked for."""
    gone = {layer for block in result.removed_blocks for layer in block.layers}
    left = [name for name in subject.graph.layers if name not in gone]
    graph = trace(result.compact.network)
    for name, layer in zip(left, graph.layers.values(), strict=True):
        old = subject.graph.layers[name]
        for after, before in ((layer.outputs, old.outputs), (layer.inputs, old.inputs)):
            assert len(after) == int(result.keep[before].sum()), f"{name} has not the widths of its mask"
        width, whole = len(layer.outputs), len(old.outputs)
        assert width == whole or width % step.align == 0 or old.groups > 1, f"{name} is {width} wide"
        assert width >= min(step.min_channels, whole), f"{name} is {width} wide"


def _files(subject: DarknetSubject, ledger: Ledger) -> tuple[str, str, str]:
    """Differences of the files read back, OpenCV and onnxruntime, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        cfg, weights = Path(folder) / "net.cfg", Path(folder) / "net.weights"
        subject.save(cfg, weights)
        again = Darknet(Network.from_cfg(cfg), initialise=False)
        read_weights(weights, again)
    for (key, ours), theirs in zip(
        subject.model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs) or "num_batches" in key, f"{key} read back differs"
    files, opencv, onnx = compare_files(ledger, subject.model, again.eval(), full=True)
    return _told(files), _told(opencv), _told(onnx)


def _told(check: Check) -> str:
    return check.note if check.difference is None else f"{check.difference:.1e}"


def _spread(heads: Sequence[Tensor]) -> float:
    """How much the outputs change from cell to cell, over the largest output."""
    varied = max(float((head - head.mean((2, 3), keepdim=True)).abs().max()) for head in heads)
    return varied / max(1.0, *(float(head.abs().max()) for head in heads))


def _filters(network: Network) -> int:
    return sum(section.filters for section in network.sections if isinstance(section, Convolutional))


def _cost(network: Network, kind: str) -> int:
    return sum(getattr(cost, kind) for cost in section_costs(network))
