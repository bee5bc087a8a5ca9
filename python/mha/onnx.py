"""ONNX models whose nodes are Attention and what moves or converts its operands, computed by libmha.

`Backend` has the interface of `onnx.backend.base`; `run_model` is a shorthand. Attention of opsets 23, 24 and 25 means what
opset 25 says, in the wording of ONNX 1.23.2. Inputs are float32, float16 or bfloat16 (of ml_dtypes); softmax is float32
whatever `softmax_precision` asks for. Other nodes may only move or convert what Attention reads and writes; ONNX's
reference implementation runs them. A model with any other node is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.backend.base
from onnx.reference import ReferenceEvaluator

from mha._onnx_attention import attention

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from mha import Context
    from mha._onnx_attention import Array

    Step = Callable[..., Sequence[Array | None]]
    Inputs = Mapping[str, Array] | Sequence[Array]

__all__ = ["Backend", "BackendRep", "run_model"]

_NEWEST = 25  # version of Attention that is understood
_MOVERS = (
    "Cast",
    "CastLike",
    "Concat",
    "Constant",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "TensorScatter",
    "Transpose",
    "Unsqueeze",
)


def run_model(
    model: onnx.ModelProto | bytes | str | os.PathLike[str],
    inputs: Inputs,
    *,
    threads: int | None = None,
    context: Context | None = None,
) -> Any:
    """Compute the outputs of a model.

    Parameters
    ----------
    model : ModelProto, bytes or path
        The model, serialized as `bytes`, or the path of its file.
    inputs : mapping of str to ndarray, or sequence of ndarray
        The graph's inputs by name, or in their order, without those that have an initializer.
    threads : int
        As in `mha.attention`.
    context : Context
        As in `mha.attention`.

    Returns
    -------
    named tuple of ndarray
        The graph's outputs, in order; an output is also ``outputs["name"]``.

    Raises
    ------
    NotImplementedError
        If the model has a node that this module does not run; the message names it.
    ValueError
        If an input is missing or unknown, or the arguments of a node contradict each other.
    TypeError
        If an input has another dtype than the model declares, or one that a node does not support.
    onnx.checker.ValidationError
        If the model is not valid.

    Examples
    --------
    >>> from onnx import TensorProto, helper
    >>> def declare(name):
    ...     return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "heads", "tokens", "dim"])
    >>> node = helper.make_node("Attention", ["Q", "K", "V"], ["Y"], is_causal=1)
    >>> graph = helper.make_graph([node], "causal", [declare(name) for name in "QKV"], [declare("Y")])
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    >>> (y,) = mha.onnx.run_model(model, {"Q": q, "K": k, "V": v})
    >>> np.array_equal(y, mha.attention(q, k, v, causal=True))
    True
    """
    return Backend.prepare(_load(model), threads=threads, context=context).run(inputs)


class Backend(onnx.backend.base.Backend):
    """libmha behind the interface that ONNX has for its backends; for the CPU only."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Check a model and make it ready to run.

        Parameters
        ----------
        model : ModelProto
        device : str
            "CPU".
        threads, context
            As in `mha.attention`. Other keywords are ignored, as ONNX's own test runner wants it.

        Raises
        ------
        NotImplementedError, ValueError, onnx.checker.ValidationError
            As in `run_model`.
        """
        cls._expect_cpu(device)
        super().prepare(model, device)
        return BackendRep(model, threads=kwargs.get("threads"), context=kwargs.get("context"))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Inputs,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute the outputs of one node; the inputs are its own, without those that are left out.

        Parameters
        ----------
        node : NodeProto
        inputs : mapping of str to ndarray, or sequence of ndarray
        device : str
            "CPU".
        outputs_info
            Not needed.
        opset_version : int
            By default the newest.
        threads, context
            As in `mha.attention`.

        Returns
        -------
        named tuple of ndarray
            As of `run_model`.
        """
        cls._expect_cpu(device)
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        present = [name for name in node.input if name]
        arrays = inputs if isinstance(inputs, Mapping) else dict(zip(present, inputs, strict=True))
        declared = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(arrays[name].dtype), None)
            for name in present
        ]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        opset = onnx.helper.make_opsetid("", kwargs.get("opset_version", _NEWEST))
        graph = onnx.helper.make_graph([node], "node", declared, results)
        model = onnx.helper.make_model(graph, opset_imports=[opset])
        return BackendRep(model, threads=kwargs.get("threads"), context=kwargs.get("context")).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `device` is the CPU."""
        return device.partition(":")[0] == "CPU"

    @classmethod
    def _expect_cpu(cls, device: str) -> None:
        if not cls.supports_device(device):
            raise ValueError(f"device is {device!r}, expected 'CPU'")


class BackendRep(onnx.backend.base.BackendRep):
    """A model that is ready to run; made by `Backend.prepare`."""

    def __init__(self, model: onnx.ModelProto, *, threads: int | None, context: Context | None) -> None:
        opsets = {opset.domain: opset.version for opset in model.opset_import}
        graph = model.graph
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._declared = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.input
        }
        self._outputs = [value.name for value in graph.output]
        self._results = onnx.backend.base.namedtupledict("Outputs", self._outputs)
        self._steps = [(node, _step(node, opsets, threads, context)) for node in graph.node]

    def run(self, inputs: Inputs, **kwargs: Any) -> Any:
        """Compute the outputs.

        Parameters
        ----------
        inputs : mapping of str to ndarray, or sequence of ndarray
            As in `run_model`.

        Returns
        -------
        named tuple of ndarray
            As of `run_model`.

        Raises
        ------
        ValueError, TypeError
            As in `run_model`.
        """
        values: dict[str, Any] = self._constants | self._named(inputs)
        for node, step in self._steps:
            try:
                results = step(*(values[name] if name else None for name in node.input))
            except TypeError as error:
                raise TypeError(f"{_describe(node)}: {error}") from error
            except ValueError as error:
                raise ValueError(f"{_describe(node)}: {error}") from error
            values |= zip(node.output, results, strict=False)
        return self._results(*(values[name] for name in self._outputs))

    def _named(self, inputs: Inputs) -> dict[str, Array]:
        """The graph's inputs by name."""
        wanted = [name for name in self._declared if name not in self._constants]
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(wanted):
                raise ValueError(f"inputs are {len(inputs)}, expected {len(wanted)}: {', '.join(wanted)}")
            inputs = dict(zip(wanted, inputs, strict=True))
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        if missing := [name for name in wanted if name not in arrays]:
            raise ValueError(f"inputs lack {', '.join(missing)}")
        for name, array in arrays.items():
            if name not in self._declared:
                raise ValueError(f"inputs have {name}, expected only {', '.join(self._declared)}")
            if array.dtype != self._declared[name]:
                raise TypeError(f"input {name} has dtype {array.dtype}, expected {self._declared[name]}")
        return arrays


def _load(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    return onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)


def _describe(node: onnx.NodeProto) -> str:
    name = f" {node.name!r}" if node.name else ""
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"node{name} (operator {operator}, output {', '.join(filter(None, node.output))})"


def _step(node: onnx.NodeProto, opsets: dict[str, int], threads: int | None, context: Context | None) -> Step:
    """What computes the outputs of a node from its inputs, None for those that are left out."""
    if node.domain == "" and node.op_type == "Attention":
        version = onnx.defs.get_schema("Attention", opsets[""]).since_version
        if version > _NEWEST:
            raise NotImplementedError(f"{_describe(node)} is of version {version}, expected at most {_NEWEST}")
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        with_scores = len(node.output) == 4
        return partial(attention, with_scores=with_scores, threads=threads, context=context, **attributes)
    if node.domain == "" and node.op_type in _MOVERS:
        return _reference(node, opsets)
    raise NotImplementedError(f"{_describe(node)} is not run here, only Attention, {', '.join(_MOVERS)}")


def _reference(node: onnx.NodeProto, opsets: dict[str, int]) -> Step:
    """ONNX's own implementation of a node."""
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in side if name] for side in (node.input, node.output))
    evaluator = ReferenceEvaluator(onnx.helper.make_graph([node], "node", inputs, outputs), opsets=opsets)

    def step(*operands: Array | None) -> Sequence[Array | None]:
        results: Any = evaluator.run(None, dict(zip(node.input, operands, strict=True)), intermediate=True)
        return [results[name] if name else None for name in node.output]

    return step
