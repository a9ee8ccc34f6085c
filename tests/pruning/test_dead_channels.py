"""The share of channels that does nothing any more, on a network written by hand."""

import numpy as np
import pytest
import torch

from tests.pruning.toy import ToyNet, ToySubject
from utils.pruning.policies import slim_threshold
from utils.pruning.scores import gamma_scores
from utils.pruning.sparsity import free_share
from utils.pruning.subject import ChannelPlan, LayerScores, Subject


def subject_with(dead: int) -> ToySubject:
    """`dead` of the 4 channels of each branch's first layer have no gamma; all others are strong."""
    torch.manual_seed(0)
    model = ToyNet(width=8, blocks=2).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
        for branch in model.branches:
            branch[0].norm.weight[:dead] = 0
    return ToySubject.of(model)


def share(subject: ToySubject, tolerance: float = 0.01) -> float:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return free_share(subject, lambda percent: slim_threshold(percent, 0.0), images, tolerance=tolerance)


@pytest.mark.parametrize("dead", [0, 1, 3])
def test_dead_channels_are_free_and_no_others(dead: int) -> None:
    subject = subject_with(dead)
    channels = sum(len(values) for values in gamma_scores(subject).values())
    # the policy's threshold is a channel's own score, which goes too: one more may be free by chance
    assert share(subject, 1e-9) == pytest.approx(2 * dead / channels, abs=1.5 / channels)


def test_a_wide_tolerance_frees_more_and_leaves_the_network_unchanged() -> None:
    subject = subject_with(1)
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    assert share(subject, 1e9) > share(subject, 1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())


def test_a_unit_that_one_writer_needs_is_not_free() -> None:
    """Both writers of a residual sum must be dead."""
    subject = subject_with(0)
    model = subject.model
    with torch.no_grad():
        model.branches[0][1].norm.weight[:] = 0
    assert share(ToySubject.of(model), 1e-9) == 0


def test_a_policy_that_empties_everything_counts_as_nothing_free() -> None:
    def none(subject: Subject, scores: LayerScores) -> ChannelPlan:
        return ChannelPlan(np.zeros(subject.graph.unit_count, dtype=np.bool_))

    subject = subject_with(0)
    images = torch.rand(2, 3, 16, 16)
    assert free_share(subject, lambda _: none, images, tolerance=1e-9) == 0


def test_what_is_the_same_for_all_images_does_not_hide_a_change() -> None:
    """A large bias of an output makes its values large but tells nothing: as much is free as before."""
    subject = subject_with(1)
    before = share(subject)
    with torch.no_grad():
        subject.model.head.bias += torch.tensor([1e3, -1e3, 0.0, 5e2, 0.0])
    assert share(subject) == before
