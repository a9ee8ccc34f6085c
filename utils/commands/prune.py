"""What all pruning scripts do: load, prune, prove, measure, write, report.

The strategy itself is a list of policies that the script hands in.
"""

import argparse
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.commands import tables
from utils.commands.arguments import (
    Parser,
    Project,
    add_common,
    add_data,
    add_image_size,
    add_network,
    arguments,
    next_command,
    positive_int,
    prepare,
    provenance,
    resolve,
    write_json,
)
from utils.commands.evaluate import evaluate_network, open_split
from utils.commands.project import open_files, open_network
from utils.commands.results import quoted
from utils.darknet.compatibility import darknet_findings
from utils.darknet.fuse import deployed_run
from utils.darknet.model import Darknet
from utils.data.listing import read_data_file
from utils.data.loader import Loader
from utils.errors import PruningError
from utils.files import protect_inputs, require_writable
from utils.frontends.darknet import DarknetSubject, classic_scores, section_index, usable_size
from utils.profiling import Latency, count_macs, count_parameters, measure_latency
from utils.pruning.report import Equality, Figures, PruningReport, SectionChange
from utils.pruning.scores import gamma_scores
from utils.pruning.subject import BlockPlan, ChannelPlan, Policy
from utils.pruning.surgery import PruningResult, prune

_ROUNDS, _WARM_UP = 20, 3
_EQUAL = 1e-8  # of the largest head value in float64; rounding stays below 1e-12
Result = PruningResult[DarknetSubject]


@dataclass(frozen=True)
class Outputs:
    """The three files of a run."""

    cfg: Path
    weights: Path
    report: Path


def prune_parser(manual: str | None) -> Parser:
    """The options that all pruning scripts share."""
    parser = Parser(manual)
    add_network(parser)
    add_data(parser)
    add_image_size(parser)
    parser.add_argument("--classic", action="store_true", help="exactly the published rules of 2019-20")
    parser.add_argument("--no-eval", action="store_true", help="do not measure mAP, even with --data")
    parser.add_argument("--batch-size", type=positive_int, default=8, help="images at a time when evaluating")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="put all files there (default: beside inputs)"
    )
    add_common(parser)
    return parser


def run_pruning(args: argparse.Namespace, policies: Sequence[Policy], tag: str) -> PruningReport:
    """Prune as `args` and `policies` say; writes `tag`_... files and prints the table.

    Raises:
        ToolkitError: something given cannot be used.
    """
    device = prepare(args)
    project = resolve(args, needs=("cfg", "weights"))
    weights = project.needed("weights")
    outputs = _outputs(project.cfg or weights, weights, args.output, tag)
    model = open_network(project).to(device).eval()
    image_size = args.img_size or (model.network.height, model.network.width)
    validation = _open_validation(args, project, model, image_size)

    subject = DarknetSubject.of(model)
    score = classic_scores if args.classic else gamma_scores
    result = prune(subject, policies, score, rescore=args.classic)
    proof = _prove(result)
    protect_inputs([outputs.cfg, outputs.weights], [project.cfg, weights])
    result.compact.save(outputs.cfg, outputs.weights)
    reloaded = open_files(outputs.cfg, outputs.weights).to(device).eval()

    stages = {"before": model, "gamma_masked": result.masked.model, "folded": result.folded.model}
    maps = _maps(validation, stages | {"compact": reloaded})
    latencies = _latencies({"before": model, "compact": reloaded}, image_size)
    thresholds = [plan.threshold for plan in result.plans if isinstance(plan, ChannelPlan)]
    report = PruningReport(
        strategy=Path(args.command.split()[1]).stem,
        arguments=arguments(args),
        image_size=image_size,
        before=_figures(model, image_size, maps["before"], latencies["before"]),
        after=_figures(reloaded, image_size, maps["compact"], latencies["compact"]),
        masked_map50=maps["gamma_masked"],
        folded_map50=maps["folded"],
        sections=_sections(subject, result),
        equality=_equality(proof, reloaded),
        threshold=thresholds[0] if thresholds else None,
        removed_blocks=_removed_blocks(result),
        notes=_notes(result),
    )
    write_json(outputs.report, provenance(args) | report.to_json())
    tables.pruning(report, f"{outputs.cfg.stem} at {image_size[1]}x{image_size[0]}")
    print(f"written: {outputs.cfg}, {outputs.weights}, {outputs.report}")
    next_command(_next(project, outputs))
    return report


def _outputs(network: Path, weights: Path, folder: Path | None, tag: str) -> Outputs:
    """Where the files go; refuses before any work a folder that cannot be written.

    Args:
        network: the cfg, or the checkpoint that carries it; the new cfg lies beside it.
        weights: the new weights and the report lie beside them.
        folder: for all files instead.
        tag: what their names begin with.
    """
    cfg_folder, weights_folder = (folder, folder) if folder else (network.parent, weights.parent)
    for target in {cfg_folder, weights_folder}:
        require_writable(target, "choose a folder with --output DIR")
    return Outputs(
        cfg_folder / f"{tag}_{network.stem}.cfg",
        weights_folder / f"{tag}_{weights.stem}.weights",
        weights_folder / f"{tag}_{weights.stem}.json",
    )


Validation = tuple[Loader, tuple[str, ...]]  # images with labels, class names


def _open_validation(
    args: argparse.Namespace, project: Project, model: Darknet, image_size: tuple[int, int]
) -> Validation | None:
    """The data set's valid split, or None where mAP is not to be measured."""
    if project.data is None or args.no_eval:
        return None
    data = read_data_file(project.data)
    options = {"batch_size": args.batch_size, "workers": args.workers}
    return open_split(data, "valid", model, image_size, **options), data.names


def _maps(validation: Validation | None, models: Mapping[str, Darknet]) -> dict[str, float | None]:
    """mAP@0.5 of each model in Darknet's style."""
    if validation is None:
        return dict.fromkeys(models)
    loader, names = validation
    return {name: evaluate_network(model, loader, names, label=name).map50 for name, model in models.items()}


def _latencies(models: Mapping[str, Darknet], image_size: tuple[int, int]) -> dict[str, Latency]:
    runs = {name: deployed_run(model, image_size) for name, model in models.items()}
    return measure_latency(runs, rounds=_ROUNDS, warmup=_WARM_UP)


def _figures(model: Darknet, image_size: tuple[int, int], map50: float | None, latency: Latency) -> Figures:
    macs = count_macs(model, image_size, model.network.channels(-1))
    size = len(model.header.pack()) + 4 * sum(model.network.weight_counts)
    return Figures(count_parameters(model), macs, size, map50, latency)


def _sections(subject: DarknetSubject, result: Result) -> tuple[SectionChange, ...]:
    gone = {
        name for plan in result.plans if isinstance(plan, BlockPlan) for b in plan.blocks for name in b.layers
    }
    changes = []
    for name, layer in subject.graph.layers.items():
        mask = result.keep[layer.outputs]
        changes.append(SectionChange(section_index(name), mask & (name not in gone), name in gone))
    return tuple(changes)


def _removed_blocks(result: Result) -> tuple[int, ...]:
    blocks = (block for plan in result.plans if isinstance(plan, BlockPlan) for block in plan.blocks)
    return tuple(section_index(block.name) for block in blocks)


@dataclass(frozen=True)
class _Proof:
    """Heads of the compact network on an image, float64, and how far the zeroed network's are from them."""

    image: Tensor
    heads: list[Tensor]
    difference: float


def _prove(result: Result) -> _Proof:
    """Compare zeroed and compact in float64, before anything is written.

    Raises:
        PruningError: they are not the same function, which is a fault of this program.
    """
    compact = result.compact.model
    size = usable_size(compact.network, 128)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, compact.network.channels(-1), *size, generator=generator, dtype=torch.float64)
    heads = _heads_in_float64(compact, image)
    difference = _largest_difference(heads, result.folded.model, image)
    if not difference <= _EQUAL * max(1, *(float(head.abs().max()) for head in heads)):
        fact = f"the pruned network differs from the masked one by {difference:.1e}"
        raise PruningError(f"{compact.network.source}: {fact}; nothing was written, please report this cfg")
    return _Proof(image, heads, difference)


def _equality(proof: _Proof, reloaded: Darknet) -> Equality:
    height, width = proof.image.shape[2:]
    return Equality(
        proof.difference, _largest_difference(proof.heads, reloaded, proof.image), (height, width)
    )


def _heads_in_float64(model: Darknet, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return deepcopy(model).to("cpu", torch.float64)(image)


def _largest_difference(expected: Sequence[Tensor], model: Darknet, image: Tensor) -> float:
    heads = _heads_in_float64(model, image)
    return max(float((a - b).abs().max()) for a, b in zip(expected, heads, strict=True))


def _notes(result: Result) -> tuple[str, ...]:
    notes = []
    emptied = [name for plan in result.plans if isinstance(plan, ChannelPlan) for name in plan.emptied]
    if emptied:
        sections = ", ".join(str(section_index(name)) for name in emptied)
        notes.append(f"every channel of these sections is below the threshold, the best stay: {sections}")
    if result.restored:
        sections = ", ".join(str(section_index(name)) for name in result.restored)
        notes.append(f"channels came back so that the network stays valid, at sections {sections}")
    if result.unfolded:
        sections = ", ".join(str(section_index(name)) for name in result.unfolded)
        notes.append(f"the constants of removed channels could not be folded at sections {sections}")
    # A shortcut may only now be narrower than Darknet takes it for.
    return (*notes, *map(str, darknet_findings(result.compact.network)))


def _next(project: Project, outputs: Outputs) -> str:
    """Fine-tuning with the unpruned network as teacher; without a data set, the export."""
    network = f"--cfg {quoted(outputs.cfg)} --weights {quoted(outputs.weights)}"
    if project.data is None:
        return f"python export.py {network}"
    teacher = f"--t_weights {quoted(project.needed('weights'))}"
    if project.cfg is not None:
        teacher = f"--t_cfg {quoted(project.cfg)} {teacher}"
    return f"python train.py {network} --data {quoted(project.data)} {teacher}"
