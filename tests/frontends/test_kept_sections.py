"""--keep-sections: these stay as wide as they are, their blocks too, through every cut."""

import argparse

import pytest

from tests.frontends.feature_cfgs import heads, image, randomised
from utils.commands.prune.options import sections
from utils.errors import PruningError
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import WeakestBlocks, normal_threshold, slim_threshold
from utils.pruning.surgery import prune


def width(subject: DarknetSubject, name: str) -> int:
    return len(subject.graph.layers[name].outputs)


@pytest.fixture
def model(root):
    return randomised(root / "tests/cfgs/residual.cfg", 0)


def test_kept_sections_stay_whole_and_nothing_else_is_pinned_for_them(model):
    plain, kept = DarknetSubject.of(model), DarknetSubject.of(model, keep_sections=[0, 2])
    more = kept.graph.pinned & ~plain.graph.pinned
    own = {unit for i in (0, 2) for unit in kept.graph.layers[f"layers.{i}.conv"].outputs.tolist()}
    assert {i for i, pinned in enumerate(more) if pinned} == own
    assert {kept.graph.pin_reasons[unit] for unit in own} == {"given in --keep-sections"}
    result = prune(kept, [slim_threshold(0.9, 0.0)])
    for name in ("layers.0.conv", "layers.2.conv"):
        assert width(result.compact, name) == width(kept, name)
    free = prune(plain, [slim_threshold(0.9, 0.0)])
    assert width(free.compact, "layers.2.conv") < width(plain, "layers.2.conv")
    zeroed, compact = (heads(subject.model, image(model)) for subject in (result.folded, result.compact))
    assert (zeroed - compact).abs().max() < 1e-12


def test_blocks_that_hold_a_kept_section_are_never_removed(model):
    subject = DarknetSubject.of(model)
    for block in subject.blocks:
        section = int(block.layers[0].split(".")[1])
        others = DarknetSubject.of(model, keep_sections=[section]).blocks
        assert {b.name for b in others} == {b.name for b in subject.blocks if block.layers[0] not in b.layers}
    count = len(subject.blocks)
    kept = DarknetSubject.of(model, keep_sections=[int(subject.blocks[0].layers[0].split(".")[1])])
    message = f"{count} blocks asked for, but this network has {len(kept.blocks)}"
    with pytest.raises(PruningError, match=message):
        prune(kept, [WeakestBlocks(count)])


def test_kept_sections_stay_kept_when_cut_again_and_moved(model):
    """A block before it goes, so its number changes; the next run still leaves it alone."""
    first = DarknetSubject.of(model)
    before, last = first.blocks[0], first.blocks[-1]
    section = int(last.layers[0].split(".")[1])
    subject = DarknetSubject.of(model, keep_sections=[section])
    whole = width(subject, last.layers[0])
    shorter = subject.shortened([before])
    (name,) = shorter.kept
    assert int(name.split(".")[1]) == section - len(before.layers) - 1
    for _ in range(2):
        assert width(shorter, name) == whole
        shorter = prune(shorter, [slim_threshold(0.6, 0.0)]).compact
        assert shorter.kept == {name}
        assert name not in {layer for block in shorter.blocks for layer in block.layers}


def test_a_network_all_of_which_is_kept_cannot_be_pruned(model):
    sections = [i for i, section in enumerate(model.network.sections) if section.kind == "convolutional"]
    subject = DarknetSubject.of(model, keep_sections=sections)
    for policy in (slim_threshold(0.5, 0.01), normal_threshold(0.5)):
        with pytest.raises(PruningError, match="nothing to prune"):
            prune(subject, [policy])


@pytest.mark.parametrize(
    ("cfg", "section", "message"),
    [
        ("residual", 99, "residual.cfg: has no section 99; the last one is 13"),
        ("residual", 3, r"residual.cfg:\d+: .*#3: has no channels of its own to keep; give the"),
        ("upsample", 4, r"\[yolo\] #4: has no channels of its own"),
    ],
)
def test_what_has_no_channels_is_refused(root, cfg, section, message):
    model = randomised(root / f"tests/cfgs/{cfg}.cfg", 0)
    with pytest.raises(PruningError, match=message):
        DarknetSubject.of(model, keep_sections=[section])


def test_connected_sections_can_be_kept(root):
    model = randomised(root / "tests/cfgs/connected.cfg", 0)
    subject = DarknetSubject.of(model, keep_sections=[2])
    result = prune(subject, [slim_threshold(0.7, 0.0)])
    assert width(result.compact, "layers.2.linear") == 7
    free = prune(DarknetSubject.of(model), [slim_threshold(0.7, 0.0)])
    assert width(free.compact, "layers.2.linear") < 7


@pytest.mark.parametrize("text", ["5-3", "a", "1-", "-1", "1,,2", "1.5"])
def test_a_list_that_says_nothing_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        sections(text)
