"""Latency of whole networks on a runtime, their convolutions, and the calibration between the two."""

from collections.abc import Callable, Iterator, Mapping

import torch

from ...darknet.model import Darknet, fused
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
    """Convolutions that `model` runs on an image of (height, width)."""
    activations = {
        f"layers.{index}.conv": section.activation
        for index, section in enumerate(model.network.sections)
        if isinstance(section, Convolutional)
    }
    return conv_classes(model, image_size, activations, model.network.channels(-1))


def network_latencies(
    models: Mapping[str, Darknet], runtime: Runtime, image_size: tuple[int, int], rounds: int = 20
) -> dict[str, Latency]:
    """Latency of whole networks for one image: raw heads, fused batch norms, measured interleaved."""
    return measure_latency(network_runs(models, runtime, image_size), rounds=rounds)


def network_runs(
    models: Mapping[str, Darknet], runtime: Runtime, image_size: tuple[int, int]
) -> dict[str, Callable[[], object]]:
    """Functions that run one image through each network: raw heads, fused batch norms."""
    runs = {}
    for name, model in models.items():
        images = random_images((1, model.network.channels(-1), *image_size))
        deployed = fused(model).cpu().float()
        runs[name] = module_session(deployed, torch.from_numpy(images), runtime).bound(images)
    return runs


def calibrate(
    table: LatencyTable, network: Network, runtime: Runtime, image_size: tuple[int, int], rounds: int = 20
) -> tuple[Calibration, Latency]:
    """Measure `network` at full, half and quarter width, and fit the sums of the table to these latencies.

    A network that cannot be narrowed as a whole is measured at full width only.

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
