"""Choose the sections of an int8 file that stay in float.

Invariant: every figure is measured on the graph in question; nothing is summed up or estimated.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import ExportError
from ..runtimes.runtime import Images, Outputs
from .calibration import best_limits
from .job import ALLOWED_LOSS, Accuracy, Exporting
from .onnx_int8 import convolutions, measured_tensors, quantised
from .parity import Infer, proto_infer


@dataclass(frozen=True)
class Quantised:
    """An int8 graph.

    Attributes:
        proto: of the graph.
        accuracy: its mAP@0.5, 0..1; None where it is not measured.
        note: a remark for the user; may be empty.
    """

    proto: onnx.ModelProto
    accuracy: float | None = None
    note: str = ""


def quantise(proto: onnx.ModelProto, job: Exporting) -> Quantised:
    """Calibrate a simplified float32 graph and quantize it as the job says.

    Raises:
        ExportError: there are no images to calibrate on, a section to skip is not a convolution, or no choice
            of sections is good enough.
    """
    if job.calibration is None:
        raise ExportError("int8", "there are no images to find the ranges on", "add --data FILE")
    network = _Network(proto, best_limits(_activations(proto, job.calibration())))
    sections = sorted(convolutions(proto.graph))
    if job.int8_skip == "auto":
        return _automatic(network, sections, job)
    unknown = sorted(set(job.int8_skip) - set(sections))
    if unknown:
        listed = ",".join(map(str, sections))
        raise ExportError(
            f"--int8-skip {unknown[0]}", "not a convolution that can be quantized", f"choose among {listed}"
        )
    graph = network.without(job.int8_skip)
    if job.accuracy is None:
        return Quantised(graph)
    return Quantised(graph, job.accuracy.measure(network.infer(job.int8_skip)))


def _activations(
    proto: onnx.ModelProto, batches: Iterable[Images]
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    """Values of the tensors that may be quantized, image by image."""
    sources = sorted(set(measured_tensors(proto.graph).values()))
    inner = [name for name in sources if name != "images"]
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    for name in inner:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    run = proto_infer(watched, inner)
    for batch in batches:
        for image in batch:
            # onnxruntime takes an empty list of names for all outputs
            values = dict(zip(inner, run(image[None]), strict=True)) if inner else {}
            yield values | ({"images": image} if "images" in sources else {})


@dataclass(frozen=True)
class _Network:
    """A float32 graph with the ranges for any quantization of it."""

    proto: onnx.ModelProto
    limits: Mapping[str, float] = field(repr=False)

    def without(self, skip: Collection[int]) -> onnx.ModelProto:
        return quantised(self.proto, self.limits, skip)

    def infer(self, skip: Collection[int]) -> Infer:
        return proto_infer(self.without(skip))


def _automatic(network: _Network, sections: list[int], job: Exporting) -> Quantised:
    if job.accuracy is None or job.calibration is None:
        raise ExportError(
            "--int8-skip auto", "needs boxes and scores to measure mAP", "leave --raw-heads out"
        )
    accuracy = job.accuracy.measure(network.infer(()))
    if job.accuracy.before - accuracy <= ALLOWED_LOSS:
        return Quantised(network.without(()), accuracy, "all convolutions are in int8")
    worst = _by_error(network, sections, job, next(iter(job.calibration())))
    count, accuracy = _fewest(network, worst, job.accuracy)
    skip = sorted(worst[:count])
    listed = ",".join(map(str, skip))
    note = f"{count} of {len(sections)} convolutions stay in float: --int8-skip {listed}"
    return Quantised(network.without(skip), accuracy, note)


def _by_error(network: _Network, sections: list[int], job: Exporting, images: Images) -> list[int]:
    """Sections by the error when only that one is quantized, largest first."""

    def outputs(infer: Infer) -> Outputs:
        rows = [infer(image[None]) for image in images]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    expected = outputs(proto_infer(network.proto))
    errors: dict[int, float] = {}
    for section in job.progress(sections, "ranking sections"):
        found = outputs(network.infer([other for other in sections if other != section]))
        pairs = zip(found, expected, strict=True)
        errors[section] = sum(float(np.square(a - b).sum() / np.square(b).sum()) for a, b in pairs)
    return sorted(sections, key=lambda section: -errors[section])


def _fewest(network: _Network, worst: list[int], accuracy: Accuracy) -> tuple[int, float]:
    """Number of the worst sections that must stay in float, and the mAP then: by doubling, then bisection.

    Zero is known not to be enough.
    """
    measured: dict[int, float] = {}

    def enough(count: int) -> bool:
        measured[count] = accuracy.measure(network.infer(worst[:count]))
        return accuracy.before - measured[count] <= ALLOWED_LOSS

    low, high, most = 0, min(1, len(worst) - 1), len(worst) - 1
    while not enough(high):
        if high == most:
            loss = 100 * (accuracy.before - measured[high])
            fact = f"loses {loss:.1f} points of mAP even with a single section in int8"
            raise ExportError("--int8-skip auto", fact, "export fp16")
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high, measured[high]
