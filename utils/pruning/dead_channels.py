"""Dead channels: the share of channels whose removal does not change the outputs.

Invariant: with that share masked, the outputs for the given images change by at most `tolerance`; the network
itself is not changed.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..errors import PruningError
from .channels import UnitMask
from .scores import gamma_scores, unit_scores
from .subject import ChannelPlan, LayerScores, Policy, Subject
from .surgery import mask_gammas

# change of the outputs, relative to their variation between images, that is ignored
TOLERANCE = 0.01
# halvings of the interval: shares are found to 1 / 2^STEPS
STEPS = 6


def free_share(
    subject: Subject,
    policy: Callable[[float], Policy],
    images: Tensor,
    scores: LayerScores | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """The largest share of the candidates that can be masked without changing the outputs.

    Args:
        subject: the network.
        policy: from a pruning ratio to the policy that will prune.
        images: (B, C, H, W) to compare outputs on, at least two.
        scores: of the candidates; |gamma| if None.
        tolerance: root mean square change of the outputs that is ignored, relative to their standard
            deviation over the images.

    Returns:
        Removed channels over all channels with a score, 0..1, of the largest plan within the tolerance.
    """
    scores = gamma_scores(subject) if scores is None else scores
    model = subject.model.eval()
    before = _outputs(model, images)
    low, high, found = 0.0, 1.0, 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        keep = _kept(subject, policy(middle), scores)
        passed = keep is not None and _change(before, _masked(subject, keep, images)) <= tolerance
        if passed and keep is not None:
            low, found = middle, _removed(subject, keep, scores)
        else:
            high = middle
    return found


def _kept(subject: Subject, policy: Policy, scores: LayerScores) -> UnitMask | None:
    try:
        plan = policy(subject, scores)
    except PruningError:  # no candidates, or all would be removed
        return None
    if not isinstance(plan, ChannelPlan):
        raise ValueError("give a policy that removes channels")
    return subject.graph.legal(plan.keep, unit_scores(subject.graph, scores))


def _masked(subject: Subject, keep: UnitMask, images: Tensor) -> Sequence[Tensor]:
    return _outputs(mask_gammas(deepcopy(subject.model), subject.graph, keep, ()), images)


@torch.inference_mode()
def _outputs(model: nn.Module, images: Tensor) -> Sequence[Tensor]:
    outputs = model(images)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The worst output's root mean square change over its standard deviation over the images."""
    shares = []
    for old, new in zip(before, after, strict=True):
        spread = old.var(dim=0).mean().sqrt().clamp(min=1e-12)
        shares.append(((new - old).square().mean().sqrt() / spread).item())
    return max(shares)


def _removed(subject: Subject, keep: UnitMask, scores: LayerScores) -> float:
    channels = [keep[subject.graph.layers[name].outputs] for name in scores]
    return 1 - sum(int(kept.sum()) for kept in channels) / max(sum(len(kept) for kept in channels), 1)
