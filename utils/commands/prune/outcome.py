"""What a pruning leaves, before anything is written: the networks, the proof so far, and what to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...darknet.model import Darknet
from ...frontends.darknet.subject import DarknetSubject, section_index
from ...pruning.policies import Candidates
from ...pruning.report import SectionChange
from ...pruning.subject import ChannelPlan, LayerScores, Merge, Policy
from ...pruning.surgery import prune
from . import stages
from .budget import Budget
from .job import Job
from .ledger import Ledger, compare_in_memory
from .stages import Result


@dataclass(frozen=True)
class Outcome:
    """What became of a job's network, in one pruning or in several rounds.

    Attributes:
        saved: what is to be written.
        ledger: the lines so far, and the image of those to come.
        networks: to evaluate, by stage: "before" first, then those on the way.
        written: the stage of what is written.
        sections: every convolution before and after.
        scores: of the channels of the network as given.
        removed_blocks: numbers of the shortcuts whose blocks are gone.
        threshold: the score below which channels went; None where there is no such one.
        candidates: what could go.
        merge: how those that shortcuts tie decided together.
        timing: before and after, where they were measured on the way.
        notes: what the user should know, a sentence each.
    """

    saved: DarknetSubject
    ledger: Ledger
    networks: Mapping[str, Darknet]
    written: str
    sections: tuple[SectionChange, ...]
    scores: LayerScores
    removed_blocks: tuple[int, ...] = ()
    threshold: float | None = None
    candidates: Candidates = "all"
    merge: Merge = "union"
    timing: stages.Timing | None = None
    notes: tuple[str, ...] = ()


def pruned(job: Job, policies: Sequence[Policy], budget: Budget | None = None) -> Result:
    """Prune as the job's options say, by `policies` or down to a budget."""
    args = job.args
    return prune(
        job.subject,
        [budget.policy] if budget else policies,
        job.scorer,
        folding=args.fold,
        rescore=args.classic,
        align=1 if budget else job.align,  # the budget's mask is aligned already
        min_channels=args.min_channels,
    )


def outcome_of(job: Job, result: Result, budget: Budget | None = None) -> Outcome:
    """Prove a pruning in memory, and recalibrate.

    Raises:
        PruningError: the compact network does not compute what the zeroed one does.
    """
    ledger = compare_in_memory(result)
    plans = [plan for plan in result.plans if isinstance(plan, ChannelPlan)]
    networks = {"before": job.model, "gamma_masked": result.masked.model, "folded": result.folded.model}
    saved = stages.recalibrated(job, result.compact, job.args.recalibrate)
    if job.args.recalibrate:
        networks["compact"] = result.compact.model
    told = budget.notes if budget else stages.alignment_notes(job, job.align)
    return Outcome(
        saved=saved,
        ledger=ledger,
        networks=networks,
        written="recalibrated" if job.args.recalibrate else "compact",
        sections=stages.section_changes(job.subject, result),
        scores=result.scores,
        removed_blocks=tuple(section_index(block.name) for block in result.removed_blocks),
        threshold=next((plan.threshold for plan in plans), None),
        candidates=next((plan.candidates for plan in plans), "all"),
        merge=next((plan.merge for plan in plans), "union"),
        timing=budget.timing if budget else None,
        notes=(*told, *stages.recalibration_notes(job), *stages.notes(result)),
    )
