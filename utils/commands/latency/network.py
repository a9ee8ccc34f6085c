"""Whole networks on a runtime: their latency, their convolutions, and how the one follows from the other."""

from collections.abc import Callable, Iterator, Mapping

import torch

from ...darknet.fuse import fused
from ...darknet.model import Darknet
from ...darknet.network import Network
from ...darknet.scale import with_width
from ...darknet.sections import Convolutional
from ...errors import CfgError
from ...exporters.tracing import module_session
from ...profiling import Latency, measure_latency
from ...pruning.conv_classes import Convolution, conv_classes, total_milliseconds
from ...pruning.latency import Calibration, LatencyTable
from ...runtimes.runtime import Runtime, random_images

_FULL = "full width"
_SHARES = (0.5, 0.25)  # of the width, at which a calibration measures too


def darknet_convolutions(model: Darknet, image_size: tuple[int, int]) -> tuple[Convolution, ...]:
    """What `model` runs on an image of (height, width)."""
    activations = {
        f"layers.{index}.conv": section.activation
        for index, section in enumerate(model.network.sections)
        if isinstance(section, Convolutional)
    }
    return conv_classes(model, image_size, activations, model.network.channels(-1))


def network_latencies(
    models: Mapping[str, Darknet], runtime: Runtime, image_size: tuple[int, int], rounds: int = 20
) -> dict[str, Latency]:
    """One image through whole networks, raw heads, batch norms folded, the networks taking turns."""
    return measure_latency(network_runs(models, runtime, image_size), rounds=rounds)


def network_runs(
    models: Mapping[str, Darknet], runtime: Runtime, image_size: tuple[int, int]
) -> dict[str, Callable[[], object]]:
    """One image through each network, raw heads, batch norms folded, to be timed."""
    runs = {}
    for name, model in models.items():
        images = random_images((1, model.network.channels(-1), *image_size))
        deployed = fused(model).cpu().float()
        runs[name] = module_session(deployed, torch.from_numpy(images), runtime).bound(images)
    return runs


def network_latency(
    model: Darknet, runtime: Runtime, image_size: tuple[int, int], rounds: int = 20
) -> Latency:
    """`network_latencies` of one."""
    return network_latencies({"": model}, runtime, image_size, rounds)[""]


def calibrate(
    table: LatencyTable, network: Network, runtime: Runtime, image_size: tuple[int, int], rounds: int = 20
) -> tuple[Calibration, Latency]:
    """Measure `network` at full, half and quarter width, and fit what the table's sums are to these.

    A network that cannot be made narrower as a whole is measured at full width alone.

    Returns:
        The calibration, and the latency of the network as it is.
    """
    models = {share: Darknet(found).eval() for share, found in _narrower(network)}
    measured = network_latencies(models, runtime, image_size, rounds)
    predicted = [
        total_milliseconds(table, darknet_convolutions(model, image_size)) for model in models.values()
    ]
    calibration = Calibration.fitted(predicted, [latency.p50 for latency in measured.values()])
    return calibration, measured[_FULL]


def _narrower(network: Network) -> Iterator[tuple[str, Network]]:
    yield _FULL, network
    for share in _SHARES:
        try:
            yield f"{share:g} of the width", with_width(network, share)
        except CfgError:
            return
