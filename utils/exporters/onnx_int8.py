"""int8 for ONNX: QuantizeLinear and DequantizeLinear around the convolutions.

Invariant: quantization is symmetric, without zero points: weights per output channel, activations per tensor.
Biases and all operators except convolutions, their activations and the pooling after them stay in float32.
This is what both onnxruntime and TensorRT fuse to integer kernels.

A leaky or plain ReLU shrinks negative values, so the output of a convolution is given the range measured
after its activation: what is clipped is small afterwards. The convolutions of the raw heads have float
outputs, since a head applies an exponential to them.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from .onnx_half import NETWORK

LEVELS = 127
_ACTIVATIONS = ("LeakyRelu", "Relu", "Clip")
# outputs are a selection of the inputs, so the same scale applies
_SAME_VALUES = ("MaxPool", "Resize", "Slice")


def convolutions(graph: GraphProto) -> dict[int, NodeProto]:
    """The convolutions that can be quantized, by section number; in other networks by position."""
    weights = {tensor.name for tensor in graph.initializer}
    found = [
        node
        for node in graph.node
        if node.op_type == "Conv" and node.name.startswith(NETWORK) and node.input[1] in weights
    ]
    matches = [re.match(rf"{NETWORK}layers\.(\d+)/", node.name) for node in found]
    numbers = [int(match[1]) if match else position for position, match in enumerate(matches)]
    return dict(zip(numbers, found, strict=True))


def measured_tensors(graph: GraphProto) -> dict[str, str]:
    """For each tensor that may be quantized, the tensor whose range it gets.

    The input and the output of a pooling share one range, that of the output, which a convolution reads, so
    that quantizing again after the pooling has no effect.
    """
    links = _Links(graph)
    found = convolutions(graph).values()
    sources = {node.input[0]: node.input[0] for node in found}
    for node in found:
        sources.setdefault(links.origin(node.input[0]), node.input[0])
    for node in found:
        activation = links.activation(node)
        if activation is not None:
            sources.setdefault(activation.output[0], activation.output[0])
            sources[node.output[0]] = sources[activation.output[0]]
        elif links.leads_to_convolution(node):
            sources.setdefault(node.output[0], node.output[0])
    return sources


class _Links:
    """Producer and consumers of each tensor."""

    def __init__(self, graph: GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def origin(self, tensor: str) -> str:
        """The tensor that contains all values of `tensor`."""
        maker = self.makers.get(tensor)
        while maker is not None and maker.op_type in _SAME_VALUES:
            tensor = maker.input[0]
            maker = self.makers.get(tensor)
        return tensor

    def activation(self, node: NodeProto) -> NodeProto | None:
        """The only consumer of a convolution, where that is a supported activation."""
        readers = self.readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS else None

    def leads_to_convolution(self, node: NodeProto) -> bool:
        """Whether any convolution follows a node: true for all but those of the raw heads."""
        seen: set[str] = set()
        waiting = list(node.output)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for reader in self.readers.get(name, []):
                if reader.op_type == "Conv":
                    return True
                waiting.extend(reader.output)
        return False


def quantised(proto: ModelProto, limits: Mapping[str, float], skip: Collection[int] = ()) -> ModelProto:
    """A copy of a simplified float32 graph with its convolutions in int8.

    Args:
        proto: the graph; opset 13 or newer.
        limits: largest absolute value of each tensor of `measured_tensors`.
        skip: sections that stay in float.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    sources = measured_tensors(graph)
    chosen = {node.name for number, node in convolutions(graph).items() if number not in skip}
    shared = _shared(graph, chosen, sources)
    writer = _Writer(graph, {name: limits[source] for name, source in sources.items()})
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in shared or (node.name in chosen and index == 0):
                node.input[index] = writer.activation(name)
        if node.name in chosen:
            node.input[1] = writer.weight(node.input[1])
        graph.node.append(node)
    writer.drop_unread_weights()
    return result


def _shared(graph: GraphProto, chosen: Collection[str], sources: Mapping[str, str]) -> set[str]:
    """Tensors that all consumers read quantized: runtimes do not fuse a node whose floats are read."""
    links = _Links(graph)
    shared = set()
    for node in graph.node:
        if node.name in chosen:
            shared |= {node.output[0]} & sources.keys()
            origin = links.origin(node.input[0])
            maker = links.makers.get(origin)
            if maker is not None and maker.op_type in _ACTIVATIONS:
                shared.add(origin)
    return shared


class _Writer:
    """Adds the quantization nodes, each once, at the current end of the graph."""

    def __init__(self, graph: GraphProto, limits: Mapping[str, float]) -> None:
        self._graph = graph
        self._limits = limits
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._quantised: set[str] = set()

    def activation(self, name: str) -> str:
        """Name of an activation after quantization."""
        output = f"{name}_dequantised"
        if name not in self._quantised:
            self._quantised.add(name)
            scale = self._constant(f"{name}_scale", _scales(np.asarray(self._limits[name])))
            zero = self._constant(f"{name}_zero", np.zeros((), np.int8))
            self._node("QuantizeLinear", [name, scale, zero], f"{name}_int8")
            self._node("DequantizeLinear", [f"{name}_int8", scale, zero], output)
        return output

    def weight(self, name: str) -> str:
        """Name of a convolution's weight (O, I, h, w) after quantization, per output channel."""
        output = f"{name}_dequantised"
        if name in self._weights:
            values = numpy_helper.to_array(self._weights.pop(name))
            scales = _scales(np.abs(values).max(axis=(1, 2, 3)))
            levels = np.rint(values / scales[:, None, None, None]).clip(-LEVELS, LEVELS).astype(np.int8)
            zeros = np.zeros(len(scales), np.int8)
            parts: dict[str, NDArray[Any]] = {"int8": levels, "scale": scales, "zero": zeros}
            inputs = [self._constant(f"{name}_{part}", array) for part, array in parts.items()]
            self._node("DequantizeLinear", inputs, output, axis=0)
        return output

    def drop_unread_weights(self) -> None:
        """Remove the float weights that are no longer read."""
        read = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._graph.node.append(helper.make_node(kind, inputs, [output], name=output, **attributes))


def _scales(limits: NDArray[Any]) -> NDArray[np.float32]:
    """Value of one level; 1 for all-zero tensors."""
    return np.where(limits > 0, limits / LEVELS, 1.0).astype(np.float32)
