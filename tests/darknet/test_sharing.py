"""Convolutions with share_index: one set of tensors, wherever the network goes."""

from pathlib import Path

import torch

from tests.darknet.references import randomised
from utils.darknet.edit import residual_blocks
from utils.darknet.model import Darknet, fused
from utils.darknet.network import Network
from utils.darknet.weights import fields, read_weights, write_weights
from utils.frontends.darknet.subject import DarknetSubject, gamma_penalty
from utils.pruning.costs import count_parameters
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune
from utils.training.optimizer import WeightAverage

CFG = Path(__file__).parents[1] / "cfgs/share_index.cfg"
PAIRS = ((5, 1), (6, 2), (7, 3))  # borrower, lender


def are_shared(model: Darknet) -> bool:
    pairs = [(model.layers[borrower], model.layers[lender]) for borrower, lender in PAIRS]
    return all(
        one.conv.weight.data_ptr() == other.conv.weight.data_ptr()
        and one.norm.running_mean.data_ptr() == other.norm.running_mean.data_ptr()
        for one, other in pairs
    )


def test_references_are_relative_or_absolute():
    assert [Network.from_cfg(CFG)[index].shared_with for index, _ in PAIRS] == [1, 2, 3]


def test_tensors_stay_shared_through_type_and_copies():
    model = Darknet.from_cfg(CFG)
    assert are_shared(model)
    assert are_shared(model.double())
    assert are_shared(model.to(memory_format=torch.channels_last))
    assert are_shared(WeightAverage(model, 10).model)


def test_the_file_holds_them_once(tmp_path):
    model = randomised(Darknet.from_cfg(CFG))
    assert [len(list(fields(model.layers[index]))) for index, _ in PAIRS] == [0, 0, 0]
    unshared = sum(parameter.numel() for layer in model.layers for parameter in layer.parameters())
    assert count_parameters(model) < unshared
    path = tmp_path / "shared.weights"
    write_weights(path, model, model.header)
    assert path.stat().st_size == 20 + 4 * sum(model.network.weight_counts)
    other = Darknet.from_cfg(CFG)
    read_weights(path, other)
    images = torch.rand(1, 3, 32, 32)
    assert all(map(torch.equal, model(images), other.eval()(images)))


def test_an_average_moves_them_once():
    """Moved twice, the shared tensors would be nearer to the model than the others."""
    model = Darknet.from_cfg(CFG)
    average = WeightAverage(model, 1000.0)
    average.update(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    before = [parameter.clone() for parameter in average.model.parameters()]
    average.update(model)
    moved = [(new - old).mean().item() for new, old in zip(average.model.parameters(), before, strict=True)]
    assert max(moved) - min(moved) < 1e-5 * abs(max(moved))


def test_the_penalty_counts_them_once():
    model = Darknet.from_cfg(CFG)
    assert not {f"layers.{borrower}.conv" for borrower, _ in PAIRS} & set(gamma_penalty(model, 1, 1).norms)


def test_merged_norms_compute_the_same():
    model = randomised(Darknet.from_cfg(CFG))
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(fused(model)(images), model(images), rtol=1e-4, atol=1e-5)


def test_constants_that_differ_are_not_folded_into_a_shared_norm():
    subject = DarknetSubject.of(randomised(Darknet.from_cfg(CFG)).double())
    result = prune(subject, [slim_threshold(0.5, 0.1)])
    borrowers_and_lenders = {f"layers.{index}.conv" for pair in PAIRS for index in pair}
    assert set(result.unfolded) <= borrowers_and_lenders
    assert are_shared(result.compact.model)


def test_a_block_whose_weights_others_use_is_kept():
    text = "[net]\nwidth=8\nheight=8\nchannels=4\n" + "[conv]\nfilters=4\n" * 2 + "[shortcut]\nfrom=-2\n"
    assert len(residual_blocks(Network.from_text(text + "[conv]\nfilters=4\n"))) == 1
    assert not residual_blocks(Network.from_text(text + "[conv]\nfilters=4\nshare_index=1\n"))
