"""Selection: within every limit, the candidate that the judge likes best, scores taken anew on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.errors import PruningError
from utils.pruning.budget_search import BudgetSearch, Limit
from utils.pruning.channels import WidthLimits
from utils.pruning.costs import costs_of
from utils.pruning.policies import slim_threshold
from utils.pruning.scores import gamma_scores, unit_scores


@pytest.fixture(scope="module")
def subject():
    return ToySubject.of(randomised(ToyNet(width=16, blocks=3)))


@pytest.fixture(scope="module")
def costs(subject):
    return costs_of(subject.model, subject.graph, torch.zeros(1, 3, 12, 12, dtype=torch.float64))


def limits(subject, costs, macs: float, parameters: float = 1.0) -> tuple[Limit, ...]:
    whole = np.ones(subject.graph.unit_count, bool)
    return (
        Limit("MACs", costs.macs, costs.layer_macs, macs * costs.macs(whole)),
        Limit("parameters", costs.parameters, costs.layer_parameters, parameters * costs.parameters(whole)),
    )


@pytest.mark.parametrize("stages", [1, 4])
@pytest.mark.parametrize("merge", ["max", "mean", "norm", "union"])
@pytest.mark.parametrize(("macs", "parameters"), [(0.5, 1.0), (1.0, 0.4), (0.6, 0.6)])
def test_mask_is_legal_and_within_every_limit(subject, costs, stages, merge, macs, parameters):
    wanted = limits(subject, costs, macs, parameters)
    keep = BudgetSearch(subject, gamma_scores, wanted, WidthLimits(align=2), merge, stages).mask()
    assert all(limit.cost(keep) <= limit.most for limit in wanted)
    assert (subject.graph.legal(keep, np.zeros(len(keep)), 2) == keep).all()
    assert keep.sum() < len(keep)


def test_the_judge_chooses_among_different_candidates(subject, costs):
    asked = []

    def judge(keep):
        asked.append(keep.copy())
        return -costs.parameters(keep)

    wanted = limits(subject, costs, 0.5)
    keep = BudgetSearch(subject, gamma_scores, wanted, WidthLimits(), stages=4, judge=judge).mask()
    assert len({mask.tobytes() for mask in asked}) == len(asked) > 1
    assert costs.parameters(keep) == min(costs.parameters(mask) for mask in asked)
    assert all(limit.cost(mask) <= limit.most for mask in asked for limit in wanted)


def test_what_one_threshold_leaves_is_a_candidate(subject, costs):
    wanted = limits(subject, costs, 0.5)
    asked = []
    BudgetSearch(subject, gamma_scores, wanted, judge=lambda keep: asked.append(keep.copy()) or 0.0).mask()
    scores = gamma_scores(subject)
    thresholds = [
        subject.graph.legal(
            slim_threshold(share, 0.0)(subject, scores).keep, unit_scores(subject.graph, scores)
        )
        for share in np.linspace(0.01, 0.99, 99)
    ]
    assert {mask.tobytes() for mask in thresholds} & {mask.tobytes() for mask in asked}


def test_scores_are_taken_on_what_is_left(subject, costs):
    """A score that says which channels its network still has: later ones see fewer."""
    seen = []

    def score(network):
        gammas = gamma_scores(network)
        seen.append(sum(int((values > 0).sum()) for values in gammas.values()))
        return gammas

    BudgetSearch(subject, score, limits(subject, costs, 0.4), stages=3).mask()
    assert seen[0] == max(seen)
    assert min(seen) < seen[0]


def test_other_limits_need_no_new_scores(subject, costs):
    count = []

    def score(network):
        count.append(1)
        return gamma_scores(network)

    selection = BudgetSearch(subject, score, limits(subject, costs, 0.5))
    first, before = selection.mask(), len(count)
    second = selection.again(limits(subject, costs, 0.3))
    assert len(count) == before
    assert costs.macs(second) <= 0.3 * costs.macs(np.ones(len(second), bool)) < costs.macs(first)


def test_a_search_for_other_limits_judges_no_candidates_of_the_first(subject, costs):
    asked = []

    def judge(keep):
        asked.append(keep.tobytes())
        return 0.0

    first = BudgetSearch(subject, gamma_scores, limits(subject, costs, 0.6), stages=4, judge=judge)
    first.mask()
    asked.clear()
    replace(first, limits=limits(subject, costs, 0.3)).mask()
    found = asked.copy()
    asked.clear()
    BudgetSearch(subject, gamma_scores, limits(subject, costs, 0.3), stages=4, judge=judge).mask()
    assert found == asked


def test_limits_below_the_floors_are_refused(subject, costs):
    with pytest.raises(PruningError, match="but the smallest network that the widths allow takes"):
        BudgetSearch(subject, gamma_scores, limits(subject, costs, 0.5), WidthLimits(layer_keep=1.0)).mask()
