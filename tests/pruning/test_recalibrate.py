"""Statistics after recalibration, against a direct float64 computation; and everything given back."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.pruning.toy import ToyNet, randomised
from utils.pruning.recalibrate import recalibrate, recalibrating


def network() -> nn.Module:
    model = randomised(ToyNet(width=6, blocks=1, size=3)).float()
    for number, norm in enumerate(norms(model).values()):
        norm.momentum = 0.1 + number / 100
        norm.num_batches_tracked.fill_(7)
    return model


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def batches(sizes: tuple[int, ...] = (2, 3, 1)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 10, 10, generator=generator) for size in sizes]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def expected(model: nn.Module, images: list[torch.Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Norm -> average over the batches of mean and unbiased variance of what enters it, each batch alone.

    Norms normalise by their batch, as they do while they learn.
    """
    model = copy.deepcopy(model).double().eval()
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in norms(model)}

    def watch(name: str):
        def hook(module, inputs):
            values = inputs[0].transpose(0, 1).flatten(1).numpy()
            found[name].append((values.mean(1), values.var(1, ddof=1)))
            # normalised by this batch: its own mean and biased variance stand in for the statistics
            module.running_mean = torch.from_numpy(values.mean(1))
            module.running_var = torch.from_numpy(values.var(1))

        return hook

    for name, norm in norms(model).items():
        norm.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for batch in images:
            model(batch.double())
    return {name: tuple(np.mean(rows, axis=0)) for name, rows in found.items()}


def test_statistics_are_the_averages_over_the_batches():
    model, images = network(), batches()
    wanted = expected(model, images)
    recalibrate(model, images)
    for name, norm in norms(model).items():
        mean, variance = wanted[name]
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-4, atol=1e-5)


def test_nothing_but_statistics_changes():
    model = network()
    before = state(model)
    recalibrate(model, batches())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert len(changed) == 3 * len(norms(model))


def test_a_network_that_shares_the_statistics_keeps_its_own():
    model = network()
    other = copy.copy(norms(model)["stem.norm"].running_mean)
    shared = norms(model)["stem.norm"].running_mean
    recalibrate(model, batches())
    assert torch.equal(shared, other)
    assert not torch.equal(norms(model)["stem.norm"].running_mean, other)


def test_exception_gives_everything_back():
    model = network()
    before = state(model)

    def failing():
        yield batches()[0]
        raise KeyError

    with pytest.raises(KeyError):
        recalibrate(model, failing())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_a_batch_everything_stays():
    model = network()
    before = state(model)
    recalibrate(model, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_modes_and_momenta_are_given_back(training, raises):
    model = network().train(training)
    model.stem.eval()  # a mixture, as a frozen stem is
    model.head.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    momenta = {name: norm.momentum for name, norm in norms(model).items()}
    try:
        with recalibrating(model):
            assert all(norm.training for norm in norms(model).values())
            assert not model.training
            model(batches()[0])
            if raises:
                raise KeyError
    except KeyError:
        pass
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: norm.momentum for name, norm in norms(model).items()} == momenta
