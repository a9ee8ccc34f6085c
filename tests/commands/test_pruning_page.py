"""The parts of a page against the networks they come from."""

from dataclasses import replace

import numpy as np
import pytest

from tests.reporting.example import changes, randomised
from utils.commands.prune.page import (
    cards,
    channel_scores,
    class_rows,
    moved_sections,
    network_page,
    other_times,
    section_rows,
    section_times,
)
from utils.darknet.edit import residual_blocks, without_blocks
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.detection.evaluator import Evaluation
from utils.frontends.darknet.subject import DarknetSubject
from utils.profiling import Latency
from utils.pruning.costs import count_macs, count_parameters
from utils.pruning.policies import WeakestBlocks, slim_threshold
from utils.pruning.report import Figures, SectionChange
from utils.pruning.scores import gamma_scores
from utils.pruning.surgery import prune

SIZE = (96, 64)


@pytest.fixture(scope="module")
def pruned(root):
    """The network before, what was done to it, and its sections' fates."""
    subject = DarknetSubject.of(randomised(root / "cfg/yolov3-shapes.cfg"))
    result = prune(subject, [slim_threshold(0.6, 0.01), WeakestBlocks(8)])
    return subject, result.compact.model, *changes(subject, result)


@pytest.fixture(scope="module")
def rows(pruned):
    subject, after, sections, blocks = pruned
    moved = moved_sections(subject.network, blocks)
    return section_rows(subject.model, after, subject.graph, sections, moved, SIZE)


def test_sections_move_as_the_editor_moves_them(pruned):
    subject, after, _, shortcuts = pruned
    gone = [block for block in residual_blocks(subject.network) if block.shortcut in shortcuts]
    moved = moved_sections(subject.network, shortcuts)
    assert len(gone) == 8
    assert moved == without_blocks(subject.network, gone)[1]
    assert len(moved) == len(after.network)


def test_rows_add_up_to_both_networks(pruned, rows):
    subject, after, _, _ = pruned
    for number, model in enumerate((subject.model, after)):
        assert sum(row.parameters[number] for row in rows) == count_parameters(model)
        assert sum(row.macs[number] for row in rows) == count_macs(model, SIZE)


def test_filters_are_those_of_the_pruned_network(pruned, rows):
    _, after, _, blocks = pruned
    left = [row.filters_after for row in rows if not row.removed]
    assert left == [layer.conv.out_channels for layer in after.layers if hasattr(layer, "conv")]
    assert sum(row.removed for row in rows) == 2 * len(blocks)
    assert all(row.filters_after == row.parameters[1] == 0 for row in rows if row.removed)


def test_groups_are_the_stages_of_yolov3(rows):
    groups = {}
    for row in rows:
        if row.group is not None:
            groups.setdefault(row.group, []).append(row.index)
    assert groups == {
        1: [1, 3],
        2: [5, 7, 10],
        3: [12, *range(14, 36, 3)],
        4: [37, *range(39, 61, 3)],
        5: [62, *range(64, 74, 3)],
    }


def test_a_shortcut_of_several_sources_makes_one_group():
    conv = "[convolutional]\nbatch_normalize=1\nfilters=4\n"
    text = f"[net]\nwidth=8\nheight=8\nchannels=3\n{4 * conv}[shortcut]\nfrom=-2,-4\n{conv}"
    model = Darknet(Network.from_text(text)).eval()
    subject = DarknetSubject.of(model)
    sections = [SectionChange(index, np.ones(4, bool)) for index in (0, 1, 2, 3, 5)]
    moved = moved_sections(model.network, [])
    rows = section_rows(model, model, subject.graph, sections, moved, (8, 8))
    assert [row.group for row in rows] == [1, None, 1, 1, None]


def test_times_belong_to_what_became_of_a_section(pruned):
    subject, after, sections, blocks = pruned
    moved = moved_sections(subject.network, blocks)
    times = section_times(subject.model, after, moved, SIZE)
    assert len(times) == len(subject.network)
    assert [index for index, pair in enumerate(times) if pair[1] == 0] == sorted(
        set(range(len(times))) - set(moved)
    )
    assert all(before > 0 for before, _ in times)
    rows = section_rows(subject.model, after, subject.graph, sections, moved, SIZE, times)
    others = other_times(rows, times)
    for number in (0, 1):
        shown = sum(row.milliseconds[number] for row in rows)
        assert shown + others[number] == pytest.approx(sum(pair[number] for pair in times))


def test_scores_are_those_of_all_channels_that_may_go(pruned):
    subject, _, sections, _ = pruned
    scores, kept = channel_scores(subject.graph, gamma_scores(subject), sections)
    norms = [layer.norm for layer in subject.model.layers if getattr(layer, "norm", None) is not None]
    assert sorted(scores) == sorted(np.concatenate([n.weight.detach().abs().numpy() for n in norms]))
    with_norms = {int(name.split(".")[1]) for name in gamma_scores(subject)}
    assert kept.sum() == sum(change.mask.sum() for change in sections if change.index in with_norms)


def test_a_strategy_without_shortcuts_judges_fewer(pruned):
    subject, _, sections, _ = pruned
    everything, _ = channel_scores(subject.graph, gamma_scores(subject), sections)
    uncoupled, kept = channel_scores(subject.graph, gamma_scores(subject), sections, "uncoupled")
    tied = sum(subject.graph.coupled[layer.outputs].sum() for layer in subject.graph.layers.values())
    assert len(uncoupled) == len(kept) == len(everything) - tied


def test_the_page_of_the_networks_has_both_cfgs(pruned):
    subject, after, sections, blocks = pruned
    page = network_page(subject, after, gamma_scores(subject), sections, blocks, SIZE)
    assert Network.from_text(page.cfg_after).sections == after.network.sections
    assert Network.from_text(page.cfg_before).sections == subject.network.sections
    assert page.subtitle.endswith("16 sections with filters were removed.")
    assert page.title == subject.network.source


def evaluation(per_class: dict[str, float], truths: dict[str, int]) -> Evaluation:
    return Evaluation("darknet", 0.5, 0.3, per_class, truths, None, 0.5, 0.5, 10, 0, 0, 1.0)


def test_classes_that_do_not_occur_have_no_row():
    truths = {"cat": 3, "dog": 0, "cow": 1}
    before = evaluation({"cat": 0.5, "dog": 0.0, "cow": 1.0}, truths)
    rows = class_rows(before, replace(before, per_class={"cat": 0.75, "dog": 0.0, "cow": 0.5}))
    assert [(row.name, row.objects, row.change) for row in rows] == [("cat", 3, 0.25), ("cow", 1, -0.5)]


def test_cards_tell_what_is_left():
    before = Figures(8_674_496, 2_720_000_000, 34_700_000, 0.894, Latency(20.0, 25.0, 2, 20))
    after = Figures(754_000, 710_000_000, 3_020_000, 0.876, Latency(8.0, 9.0, 2, 20))
    found = {
        card.label: (card.before, card.after, card.change)
        for card in cards(before, after, "onnxruntime 1.31")
    }
    assert found["mAP@0.5"] == ("89.4 %", "87.6 %", "−1.8 points")
    assert found["Parameters"] == ("8.67 M", "754 k", "9 % left")
    assert found["MACs per image"] == ("2.72 G", "710 M", "26 % left")
    assert found["Latency, onnxruntime 1.31"] == ("20.0 ms", "8.00 ms", "40 % left")


def test_what_was_not_measured_has_no_card():
    figures = Figures(1000, 1000, 1000)
    assert [card.label for card in cards(figures, figures, "torch")] == [
        "Parameters",
        "MACs per image",
        "Weights file",
    ]
