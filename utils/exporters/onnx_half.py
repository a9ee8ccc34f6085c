"""fp16 for ONNX: the network is in half precision, from the images to the raw heads.

Invariant: images, outputs and everything after the raw heads stay float32: float16 has a resolution of only
1 pixel from 1024 on, and half a pixel from 512 on.
"""

from collections.abc import Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from ..errors import ExportError

# prefix of nodes that come from the attribute `model` of a wrapper, as named by torch's exporter
NETWORK = "/model/"
# inputs that ONNX requires in float32 whatever the type of the data
_FLOAT_INPUTS = {"Resize": (1, 2)}
_LARGEST = float(np.finfo(np.float16).max)


def to_half(proto: ModelProto) -> None:
    """Convert the network of a traced float32 graph, not simplified yet, to float16, in place.

    Raises:
        ExportError: a weight is too large for float16.
    """
    graph = proto.graph
    inside = [node for node in graph.node if node.name.startswith(NETWORK)]
    kept = _float_inputs(inside)
    constants = {tensor.name for tensor in graph.initializer}
    floats = _float_tensors(proto) - kept - constants
    made = {name for node in inside for name in node.output}
    used = {name for node in inside for name in node.input} - kept
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_half(tensor))
    for node in inside:
        if not kept.intersection(node.output):
            _halve_attributes(node)
    _cast_between(graph, floats - made, floats & made)
    _cast_outputs(graph, floats & made)
    del graph.value_info[:]  # its types are out of date


def _float_inputs(nodes: Iterable[NodeProto]) -> set[str]:
    wanted = ((node, _FLOAT_INPUTS.get(node.op_type, ())) for node in nodes)
    return {node.input[index] for node, indices in wanted for index in indices if index < len(node.input)}


def _float_tensors(proto: ModelProto) -> set[str]:
    graph = shape_inference.infer_shapes(proto).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _half(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))  # float16 has infinity too
    if largest > _LARGEST:
        fact = f"{tensor.name}: {largest:.3g} is out of range, the maximum of float16 is {_LARGEST:.0f}"
        raise ExportError("ONNX fp16", fact, "export fp32")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _halve_attributes(node: NodeProto) -> None:
    """Convert attributes that produce floats: of constants, constant fillings and casts."""
    for attribute in node.attribute:
        if attribute.type == attribute.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _cast_between(graph: GraphProto, singles: set[str], halves: set[str]) -> None:
    """Let nodes of the network read `singles` as float16, and all others read `halves` as float32."""
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        inside = node.name.startswith(NETWORK)
        foreign, kind = (singles, "FLOAT16") if inside else (halves, "FLOAT")
        for index, name in enumerate(node.input):
            if name in foreign:
                node.input[index] = cast = f"{name}_as_{kind}"
                if cast not in done:
                    nodes.append(_cast(name, cast, kind))
                    done.add(cast)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _cast_outputs(graph: GraphProto, halves: set[str]) -> None:
    """Cast outputs of the network itself back to float32, under their names."""
    for name in [output.name for output in graph.output if output.name in halves]:
        renamed = f"{name}_half"
        for node in graph.node:
            for names in (node.input, node.output):
                for index in [index for index, other in enumerate(names) if other == name]:
                    names[index] = renamed
        graph.node.append(_cast(renamed, name, "FLOAT"))


def _cast(source: str, target: str, kind: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=target, to=TensorProto.DataType.Value(kind))
