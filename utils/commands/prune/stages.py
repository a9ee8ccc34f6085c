"""The networks of a pruning run, measured: mAP by stage, size, latency, and what the user should know."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tqdm import tqdm

from ...darknet.compatibility import darknet_findings
from ...darknet.costs import section_costs
from ...darknet.fuse import deployed_run
from ...darknet.model import Darknet
from ...detection.evaluator import Evaluation
from ...frontends.darknet.subject import DarknetSubject, section_index
from ...profiling import Latency, count_parameters, measure_latency
from ...pruning.recalibrate import recalibrate
from ...pruning.report import Figures, SectionChange
from ...pruning.subject import ChannelPlan
from ...pruning.surgery import PruningResult
from ..evaluate.run import evaluate_network
from ..latency.network import network_latencies
from .job import Job

Result = PruningResult[DarknetSubject]
_ROUNDS, _WARM_UP = 20, 3


def recalibrated(job: Job, subject: DarknetSubject, count: int) -> DarknetSubject:
    """A copy of `subject` with batch-norm statistics of `count` training images; itself for 0.

    Raises:
        ToolkitError: there is no data set.
    """
    if not count:
        return subject
    copy = subject.copied()
    loader = job.images("train", count)
    bar = tqdm(loader, desc="recalibrating", unit="batch", leave=False, disable=None)
    recalibrate(copy.model, (batch.images.to(job.device) for batch in bar))
    return copy


def evaluations(job: Job, models: Mapping[str, Darknet]) -> dict[str, Evaluation | None]:
    """Each model on the validation images; None where mAP is not to be measured."""
    if job.validation is None or job.data is None:
        return dict.fromkeys(models)
    names = job.data.names
    return {
        name: evaluate_network(model, job.validation, names, label=name) for name, model in models.items()
    }


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the network before and after, in turns; None where they were not to be measured.

    Attributes:
        runtime: where, with its version.
    """

    runtime: str
    before: Latency | None = None
    after: Latency | None = None


def timing(job: Job, before: Darknet, after: Darknet, rounds: int = _ROUNDS) -> Timing:
    """Both networks as they are deployed: on the runtime of --max-ms, else on torch."""
    if getattr(job.args, "max_ms", None) is not None:
        models = {"before": before, "after": after}
        found = network_latencies(models, job.runtime, job.image_size, rounds)
        return Timing(f"{job.runtime.name} {job.runtime.version}", **found)
    if job.args.no_eval:
        return Timing("")
    runs = {
        name: deployed_run(model, job.image_size) for name, model in (("before", before), ("after", after))
    }
    return Timing(f"torch {torch.__version__}", **measure_latency(runs, rounds=rounds, warmup=_WARM_UP))


def figures(job: Job, model: Darknet, map50: float | None, latency: Latency | None) -> Figures:
    """Size and worth of a network."""
    macs = sum(cost.macs for cost in section_costs(model.network, job.image_size))
    size = len(model.header.pack()) + 4 * sum(model.network.weight_counts)
    return Figures(count_parameters(model), macs, size, map50, latency)


def section_changes(subject: DarknetSubject, result: Result) -> tuple[SectionChange, ...]:
    """Every convolution before and after."""
    gone = {name for block in result.removed_blocks for name in block.layers}
    changes = []
    for name, layer in subject.graph.layers.items():
        mask = result.keep[layer.outputs]
        changes.append(SectionChange(section_index(name), mask & (name not in gone), name in gone))
    return tuple(changes)


def alignment_notes(job: Job, align: int) -> tuple[str, ...]:
    """Which multiples were taken, where the latency table said so."""
    if not job.aligns_itself:
        return ()
    where = f"{job.runtime.name}, threads {torch.get_num_threads()}"
    less = f"; {job.align} would not come down to the limits" if align < job.align else ""
    return (f"widths are multiples of {align}, by the latency table of {where}{less}",)


def recalibration_notes(job: Job) -> tuple[str, ...]:
    """Whether there were fewer images than asked for."""
    asked = job.args.recalibrate
    there = len(job.images("train").dataset) if asked else 0
    return () if asked <= there else (f"--recalibrate {asked}: the training list has {there} images",)


def notes(result: Result) -> tuple[str, ...]:
    """What the user should know, a sentence each."""
    found = []
    emptied = [name for plan in result.plans if isinstance(plan, ChannelPlan) for name in plan.emptied]
    if emptied:
        found.append(
            f"every channel of these sections is below the threshold, the best stay: {_list(emptied)}"
        )
    if result.restored:
        fact = "channels came back so that the network stays valid or widths are as asked"
        found.append(f"{fact}, at sections {_list(result.restored)}")
    if result.unfolded:
        fact = "the constants of removed channels could not be folded"
        found.append(f"{fact} at sections {_list(result.unfolded)}")
    if result.bordered:
        layers = result.folded.graph.layers
        grouped = {name: " (grouped)" * (layers[name].groups > 1) for name in result.bordered}
        where = ", ".join(f"{section_index(name)}{how}" for name, how in grouped.items())
        found.append(f"at image borders not exact at sections {where}: no channel there can carry constants")
    if result.carried.any():
        fact = "dead channels stay to carry the constants of all others to image borders"
        found.append(f"{int(result.carried.sum())} {fact}")
    # A shortcut may only now be narrower than Darknet takes it for.
    return (*found, *map(str, darknet_findings(result.compact.network)))


def _list(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(str(section_index(name)) for name in names)
