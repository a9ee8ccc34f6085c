"""Channel graphs of every kind of connection, drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st

from utils.pruning.channels import ChannelGraph, ChannelTracer


def random_graph(draw) -> ChannelGraph:
    tracer = ChannelTracer()
    tensors = [tracer.new(draw(st.integers(1, 4)))]
    tracer.pin(tensors[0], "image")
    for i in range(draw(st.integers(1, 8))):
        source = draw(st.sampled_from(tensors))
        kind = draw(st.sampled_from(["layer", "depthwise", "grouped", "tie", "route", "slice"]))
        if kind == "layer":
            tensors.append(tracer.layer(f"layer{i}", source, draw(st.integers(1, 8))))
        elif kind == "depthwise":
            tensors.append(
                tracer.layer(f"layer{i}", source, len(source) * draw(st.integers(1, 2)), len(source))
            )
        elif kind == "grouped" and len(source) % 2 == 0:
            tensors.append(tracer.layer(f"layer{i}", source, 2 * draw(st.integers(1, 4)), 2))
        elif kind == "tie":
            other = draw(st.sampled_from(tensors))
            n = min(len(source), len(other))
            tracer.tie(source[:n], other[:n])
        elif kind == "route":
            tensors.append(np.concatenate([source, draw(st.sampled_from(tensors))]))
        elif kind == "slice" and len(source) % 2 == 0:
            tensors.append(tracer.section(source, 2)[1])
    tracer.pin(tensors[-1], "output")
    return tracer.finish()
