"""ONNX files that keep a tensor outside, in every place where a tensor can stand. Runs in the runner's environment:

    <runner environment>/bin/python -m tests.security.onnx_variants FOLDER

writes `FOLDER/<place>.onnx`; each names the file `outside.data`. With a FILE instead, it moves that model's own tensors there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LOCATION = "outside.data"


def outside(name: str = "w", **more: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": LOCATION, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside(name: str = "v") -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(2, np.float32), name)


def graph(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    return helper.make_graph(nodes, "g", values[:1], values[1:], initializers)


def model(*nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = (), **more: object) -> onnx.ModelProto:
    return helper.make_model(graph([helper.make_node("Identity", ["x"], ["y"]), *nodes], list(initializers)), **more)


def constant(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], **attributes)


def variants() -> dict[str, onnx.ModelProto]:
    sparse = onnx.SparseTensorProto(values=outside(), indices=inside(), dims=[4])
    sparse_indices = onnx.SparseTensorProto(values=inside(), indices=outside(), dims=[4])
    in_sparse = model()
    in_sparse.graph.sparse_initializer.append(sparse)
    in_sparse_indices = model()
    in_sparse_indices.graph.sparse_initializer.append(sparse_indices)
    branch = graph([constant(value=outside())], [])
    deep = graph([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)], [])
    function = helper.make_function("d", "f", ["x"], ["y"], [constant(value=outside())], [helper.make_opsetid("", 17)])
    with_default = helper.make_function("d", "f", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    with_default.attribute_proto.append(helper.make_attribute("a", outside()))
    training = model()
    training.training_info.add().algorithm.CopyFrom(graph([], [outside()]))
    training_start = model()
    training_start.training_info.add().initialization.CopyFrom(graph([], [outside()]))
    unmarked = model(initializers=(outside(),))
    unmarked.graph.initializer[0].data_location = TensorProto.DEFAULT
    return {
        "initializer": model(initializers=(inside(), outside())),
        "attribute": model(constant(value=outside())),
        "attribute-list": model(helper.make_node("Foo", ["x"], ["c"], many=[inside(), outside()])),
        "sparse": in_sparse,
        "sparse-indices": in_sparse_indices,
        "sparse-attribute": model(helper.make_node("Foo", ["x"], ["c"], s=sparse)),
        "sparse-attributes": model(helper.make_node("Foo", ["x"], ["c"], s=[sparse])),
        "subgraph": model(helper.make_node("If", ["x"], ["c"], then_branch=branch, else_branch=branch)),
        "subgraph-deep": model(helper.make_node("Loop", ["x"], ["c"], body=deep)),
        "subgraph-list": model(helper.make_node("Foo", ["x"], ["c"], graphs=[branch])),
        "subgraph-initializer": model(helper.make_node("Foo", ["x"], ["c"], body=graph([], [outside()]))),
        "function": model(functions=[function]),
        "function-default": model(functions=[with_default]),
        "training": training,
        "training-start": training_start,
        "unmarked": unmarked,
        "offset": model(initializers=(outside(offset="4096", length="8"),)),
        "length": model(initializers=(outside(offset="0", length="9"),)),
        "negative": model(initializers=(outside(offset="-8", length="8"),)),
    }


def externalize(file: Path) -> None:
    """Move the tensors of a model to `outside.data` beside it."""
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location=LOCATION, size_threshold=0)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if target.is_file():
        externalize(target)
    else:
        for place, made in variants().items():
            (target / f"{place}.onnx").write_bytes(made.SerializeToString())
