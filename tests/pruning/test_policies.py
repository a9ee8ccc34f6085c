"""The policies against a naive re-statement of the published rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.errors import PruningError
from utils.pruning.policies import (
    GlobalThreshold,
    GroupRatios,
    WeakestBlocks,
    candidate_channels,
    normal_threshold,
    slim_threshold,
)
from utils.pruning.scores import gamma_scores


@pytest.fixture(scope="module")
def subject():
    return ToySubject.of(randomised(ToyNet(width=16, blocks=3)))


def naive_slim(subject, percent, layer_keep):
    """Layer masks by the published rule: threshold, floor, then the union over each residual group."""
    gammas = {f"{n[:-5]}.norm": n for n in subject.graph.layers if n != "head"}
    values = {
        name: np.abs(dict(subject.model.named_modules())[norm].weight.detach().numpy().astype("f4"))
        for norm, name in gammas.items()
    }
    chain = np.minimum(values["depthwise.conv"], values["branches.2.1.conv"])  # serial: one writer
    pools = {n: v for n, v in values.items() if n not in ("depthwise.conv", "branches.2.1.conv")}
    pools["chain"] = chain
    pool = np.sort(np.concatenate(list(pools.values())))
    threshold = pool[int(len(pool) * percent)]

    def floor(mask, score):
        least = max(1, int(len(score) * layer_keep))
        if mask.sum() < least:
            mask = np.zeros_like(mask)
            mask[np.argsort(-score, kind="stable")[:least]] = True
        return mask

    masks = {n: floor(v > threshold, v) for n, v in pools.items()}
    group = ["stem.conv", "branches.0.1.conv", "branches.1.1.conv", "chain"]
    union = np.logical_or.reduce([masks[n] for n in group])
    return {**{n: m for n, m in masks.items() if n not in group}, "stem.conv": union, "depthwise.conv": union}


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.99), st.sampled_from([0.0, 0.01, 0.1, 0.3]))
def test_slim_equals_the_published_rule(percent, layer_keep):
    subject = ToySubject.of(randomised(ToyNet(width=16, blocks=3)))
    plan = slim_threshold(percent, layer_keep)(subject, gamma_scores(subject))
    for name, mask in naive_slim(subject, percent, layer_keep).items():
        assert (plan.keep[subject.graph.layers[name].outputs] == mask).all(), name


def test_normal_leaves_shortcuts_alone_and_keeps_from_the_threshold_on(subject):
    scores = gamma_scores(subject)
    plan = normal_threshold(0.5)(subject, scores)
    pool = np.sort(np.concatenate([scores[f"branches.{i}.0.conv"] for i in range(3)]))
    assert plan.threshold == pool[12]
    for i in range(3):
        name = f"branches.{i}.0.conv"
        assert (plan.keep[subject.graph.layers[name].outputs] == (scores[name] >= pool[12])).all()
    assert plan.keep[subject.graph.coupled].all()


def test_leader_decides_for_its_group(subject):
    scores = gamma_scores(subject)
    plan = GlobalThreshold(0.5, merge="leader", strict=False)(subject, scores)
    stem = scores["stem.conv"] >= plan.threshold
    assert (plan.keep[subject.graph.layers["stem.conv"].outputs] == stem).all()
    assert 0 < stem.sum() < 16


def test_an_emptied_layer_keeps_its_best_channel_and_is_named(subject):
    scores = dict(gamma_scores(subject))
    scores["branches.1.0.conv"] = scores["branches.1.0.conv"] * 1e-6
    plan = slim_threshold(0.5, 0.0)(subject, scores)
    kept = plan.keep[subject.graph.layers["branches.1.0.conv"].outputs]
    assert np.flatnonzero(kept).tolist() == [int(scores["branches.1.0.conv"].argmax())]
    assert plan.emptied == ("branches.1.0.conv",)


def test_a_guarded_threshold_stays_below_the_highest_score_of_every_layer(subject):
    scores = dict(gamma_scores(subject))
    scores["branches.1.0.conv"] = scores["branches.1.0.conv"] * 0.3
    guard = scores["branches.1.0.conv"].max()
    plan = GlobalThreshold(0.8, guarded=True)(subject, scores)
    assert GlobalThreshold(0.8)(subject, scores).threshold > guard > plan.threshold
    assert plan.emptied == ()
    for name in ("branches.0.0.conv", "branches.1.0.conv", "branches.2.0.conv"):  # tied to nothing else
        assert (plan.keep[subject.graph.layers[name].outputs] == (scores[name] >= guard)).all()
    low = GlobalThreshold(0.1, guarded=True)(subject, scores)
    assert low.threshold == GlobalThreshold(0.1)(subject, scores).threshold


def test_percent_that_takes_everything_names_the_largest_value(subject):
    scores = gamma_scores(subject)
    with pytest.raises(PruningError, match=r"largest value is 0\.9999$") as stop:
        slim_threshold(1.0, 0.01)(subject, scores)
    named = float(str(stop.value).split()[-1])
    most = max(max(values) for values in scores.values())
    assert slim_threshold(named, 0.01)(subject, scores).threshold == most  # there is no larger one


@pytest.mark.parametrize("count", [1, 29, 9999, 10000, 27072, 123456])
def test_the_largest_value_works_for_every_number_of_channels(count):
    pool = np.arange(count, dtype=np.float32)
    with pytest.raises(PruningError) as stop:
        slim_threshold(1.0, 0.01)._threshold(pool)
    assert slim_threshold(float(str(stop.value).split()[-1]), 0.01)._threshold(pool) == count - 1


def test_without_a_candidate_the_remedy_is_named(subject):
    with pytest.raises(PruningError, match="nothing to prune"):
        slim_threshold(0.5, 0.01)(subject, {})


def test_layers_without_score_stay_whole_and_out_of_the_pool(subject):
    scores = {n: s for n, s in gamma_scores(subject).items() if n != "branches.0.0.conv"}
    plan = slim_threshold(0.9, 0.0)(subject, scores)
    assert plan.keep[subject.graph.layers["branches.0.0.conv"].outputs].all()
    pool = np.sort(
        np.concatenate(
            [
                scores["stem.conv"],
                scores["branches.0.1.conv"],
                scores["branches.1.0.conv"],
                scores["branches.1.1.conv"],
                scores["branches.2.0.conv"],
                np.minimum(scores["branches.2.1.conv"], scores["depthwise.conv"]),
            ]
        )
    )
    assert plan.threshold == pool[int(len(pool) * 0.9)]


def test_shares_leave_whole_what_the_scores_do_not_judge(subject):
    scores = dict(gamma_scores(subject))
    del scores["branches.0.0.conv"]
    graph = subject.graph
    keep = GroupRatios(dict.fromkeys(graph.layers, 0.5))(subject, scores).keep
    assert keep[graph.layers["branches.0.0.conv"].outputs].all()
    assert not keep[graph.layers["branches.1.0.conv"].outputs].all()


def test_weakest_blocks_go_by_the_mean_of_their_last_layer(subject):
    scores = gamma_scores(subject)
    plan = WeakestBlocks(2)(subject, scores)
    means = {block.name: float(scores[block.layers[-1]].mean()) for block in subject.blocks}
    strongest = max(means, key=means.__getitem__)
    assert {b.name for b in plan.blocks} == set(means) - {strongest}
    with pytest.raises(PruningError, match="4 blocks asked for, but this network has 3"):
        WeakestBlocks(4)(subject, scores)


def test_candidates_of_training_are_those_of_pruning(subject):
    scores = gamma_scores(subject)
    assert set(candidate_channels(subject.graph, scores, "all")) == set(scores)
    assert set(candidate_channels(subject.graph, scores, "uncoupled")) == {
        f"branches.{i}.0.conv" for i in range(3)
    }
