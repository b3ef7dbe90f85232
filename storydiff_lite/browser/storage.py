"""ONNX graphs made small: names cut, weights kept in a byte or two where that is exact.

A weight w that is q * s to the last bit, q of -127 to 127 and s of its output channel, is stored as int8 q
and float32 s, with Mul(Cast(q), s) in the graph; one that float16 holds exactly, as that and a Cast. Runtimes
compute both once, when they load the model. So nothing is lost here: rounding is done before, to the
pipeline's own weights (`int8.round_weights`).
"""

import numpy as np

#: numbers below which a weight stays as it is
LEAST = 64


def strip(model):
    """Take out of a graph what it carries for people, in place, and shorten all names but those of inputs and
    outputs.
    """
    graph = model.graph
    del model.metadata_props[:], graph.value_info[:], graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    kept, short = {x.name for x in (*graph.input, *graph.output)}, {}

    def name(old):
        return old if not old or old in kept else short.setdefault(old, f"n{len(short):x}")

    for number, node in enumerate(graph.node):
        del node.metadata_props[:]
        node.doc_string, node.name = "", f"o{number:x}"  # older runtimes want names
        node.input[:], node.output[:] = map(name, node.input), map(name, node.output)
        for attribute in node.attribute:
            attribute.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string, tensor.name = "", name(tensor.name)
    return model


def as_int8(w, axis):
    """(q int8, s float32) with q * s == w to the last bit and one s for each index of ``axis``, or None."""
    other = tuple(i for i in range(w.ndim) if i != axis)
    largest = np.abs(w).max(other, keepdims=True)
    first = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    up, down = (np.nextafter(first, np.float32(to)) for to in (np.inf, 0))  # division may be off by one
    found = np.zeros_like(first)
    for s in (down, up, first):
        right = (np.clip(np.round(w / s), -127, 127).astype(np.float32) * s == w).all(other, keepdims=True)
        found = np.where(right, s, found)
    if not (found > 0).all():
        return None
    return np.round(w / found).astype(np.int8), found


def _channels(graph):
    """Name of each weight of a convolution or matrix product -> its axis of output channels."""
    found = {}
    for node in graph.node:
        if node.op_type == "Conv":
            found[node.input[1]] = 0
        elif node.op_type == "MatMul":
            found[node.input[1]] = 1
        elif node.op_type == "Gemm":
            found[node.input[1]] = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return found


def store(model):
    """Store the weights of a graph as small as is exact, in place; returns it."""
    from onnx import TensorProto, helper, numpy_helper

    graph, nodes, scales = model.graph, [], []
    axes = _channels(graph)
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        w, name = numpy_helper.to_array(tensor), tensor.name
        if w.size < LEAST:
            continue
        small = as_int8(w, axes[name]) if name in axes and w.ndim > 1 else None
        if small is not None:
            tensor.CopyFrom(numpy_helper.from_array(small[0], f"{name}_q"))
            scales.append(numpy_helper.from_array(small[1], f"{name}_s"))
            nodes.append(helper.make_node("Cast", [f"{name}_q"], [f"{name}_c"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"{name}_c", f"{name}_s"], [name]))
        elif (np.abs(w) <= 65504).all() and (w.astype(np.float16).astype(np.float32) == w).all():
            tensor.CopyFrom(numpy_helper.from_array(w.astype(np.float16), f"{name}_h"))
            nodes.append(helper.make_node("Cast", [f"{name}_h"], [name], to=TensorProto.FLOAT))
    graph.initializer.extend(scales)
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + old)
    return model
