"""A budget of milliseconds for any network; the clock is simulated, but for one run on each runtime."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.errors import PruningError
from utils.frontends.module.milliseconds import Clock
from utils.frontends.module.slim import slim
from utils.frontends.module.subject import ModuleSubject
from utils.pruning.costs import costs_of, count_macs
from utils.pruning.scores import named_scorer

EXAMPLE = torch.rand(1, 3, 16, 16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 64), (64, 48)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(48, 4, 1)).eval()


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], None]:
    """Let a function of millions of multiply-adds stand for what a runtime takes."""

    def use(taken: Callable[[float], float]) -> None:
        def measured(clock: Clock, pruned: nn.Module, rounds: int) -> tuple[float, float]:
            sizes = [count_macs(model, (16, 16)) / 1e6 for model in (clock.subject.model, pruned)]
            return taken(sizes[0]), taken(sizes[1])

        monkeypatch.setattr(Clock, "measured", measured)

    return use


@pytest.mark.parametrize("is_share", [True, False])
@pytest.mark.parametrize(
    "taken", [lambda macs: 2 + 0.5 * macs, lambda macs: 1 + 0.1 * macs**1.5], ids=["line", "steeper"]
)
def test_the_result_is_within_the_limit_and_close_to_it(simulated, is_share, taken) -> None:
    simulated(taken)
    most = 0.5 * taken(count_macs(network(), (16, 16)) / 1e6)
    result = slim(network(), EXAMPLE, max_ms="50%" if is_share else most)
    found = taken(count_macs(result.model, (16, 16)) / 1e6)
    assert 0.85 * most < found <= most
    assert f"{found:.2f} ms of at most {most:.2f}, measured on torch" in result.report.limits[0]


def test_a_second_limit_holds_too(simulated) -> None:
    simulated(lambda macs: 1 + macs)
    result = slim(network(), EXAMPLE, max_ms="60%", max_params="20%")
    before, after = result.report.parameters
    assert after <= 0.2 * before


def test_what_cannot_be_reached_is_an_error(simulated) -> None:
    simulated(lambda macs: 10 + 0.01 * macs)
    with pytest.raises(PruningError, match="max_ms"):
        slim(network(), EXAMPLE, max_ms="50%")


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_runtime_runs_the_network_and_its_fixed_arguments(runtime: str) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor, factor: float) -> Tensor:
            return factor * self.body(x)

    subject = ModuleSubject.of(Scaled(), EXAMPLE, {"factor": 2.0})
    costs = costs_of(subject.model, subject.graph, subject.example, subject.cells())
    clock = Clock.of(subject, costs, named_scorer("l1", {}), runtime, 1)
    assert 0 < clock.full < np.inf
    assert clock.calibration.scale > 0


def test_faults_are_named() -> None:
    with pytest.raises(PruningError, match="runtime 'cuda': unknown"):
        slim(network(), EXAMPLE, max_ms="50%", runtime="cuda")
    with pytest.raises(PruningError, match="threads 0"):
        slim(network(), EXAMPLE, max_ms="50%", threads=0)
    with pytest.raises(PruningError, match="max_ms 'fast'"):
        slim(network(), EXAMPLE, max_ms="fast")
