"""ONNX models whose nodes are Attention and what moves or converts its operands, computed by libmha.

`Backend` has the interface of `onnx.backend.base`; `run_model` is a shorthand. Attention of opsets 23, 24 and 25 means what
opset 25 says, in the wording of ONNX 1.23.2. Inputs are float32, float16 or bfloat16 (of ml_dtypes); softmax is float32
whatever `softmax_precision` asks for. Other nodes may only move or convert what Attention reads and writes; ONNX's
reference implementation runs them. A model with any other node is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.backend.base
from onnx.reference import ReferenceEvaluator

from mha._onnx_attention import attention

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from mha import Context
    from mha._onnx_attention import Array

    Inputs = Mapping[str, Array] | Sequence[Array]

__all__ = ["Backend", "BackendRep", "run_model"]

_NEWEST = 25  # version of Attention that is understood
_MOVERS = frozenset(
    "Cast CastLike Concat Constant Identity Reshape Slice Split Squeeze TensorScatter Transpose Unsqueeze".split()
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
    ...     return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    >>> node = helper.make_node("Attention", ["Q", "K", "V"], ["Y"], is_causal=1)
    >>> graph = helper.make_graph([node], "causal", [declare(name) for name in "QKV"], [declare("Y")])
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    >>> (y,) = mha.onnx.run_model(model, {"Q": q, "K": k, "V": v})
    >>> np.array_equal(y, mha.attention(q, k, v, causal=True))
    True
    """
    return BackendRep(_load(model), threads=threads, context=context).run(inputs)


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
        if not cls.supports_device(device):
            raise ValueError(f"device is {device!r}, expected 'CPU'")
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
        present = [name for name in node.input if name]
        arrays = inputs if isinstance(inputs, dict) else dict(zip(present, inputs, strict=True))
        declared = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(arrays[name].dtype), None)
            for name in present
        ]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        opset = onnx.helper.make_opsetid("", kwargs.get("opset_version", _NEWEST))
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "node", declared, results), opset_imports=[opset]
        )
        return cls.prepare(model, device, **kwargs).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `device` is the CPU."""
        return device.partition(":")[0] == "CPU"


class BackendRep(onnx.backend.base.BackendRep):
    """A model that is ready to run; made by `Backend.prepare`."""

    def __init__(self, model: onnx.ModelProto, *, threads: int | None, context: Context | None) -> None:
        onnx.checker.check_model(model)
        opsets = {opset.domain: opset.version for opset in model.opset_import}
        graph = model.graph
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._declared = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._outputs = [value.name for value in graph.output]
        self._threads, self._context = threads, context
        for node in graph.node:
            _expect_known(node, opsets)
        self._movers = {
            index: _reference(node, opsets) for index, node in enumerate(graph.node) if node.op_type != "Attention"
        }
        self._nodes = list(graph.node)

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
        values: dict[str, Array] = self._constants | self._named(inputs)
        for index, node in enumerate(self._nodes):
            try:
                results = self._run_node(index, node, values)
            except TypeError as error:
                raise TypeError(f"{_describe(node)}: {error}") from error
            except ValueError as error:
                raise ValueError(f"{_describe(node)}: {error}") from error
            values |= {name: result for name, result in zip(node.output, results, strict=False) if name}
        outputs = onnx.backend.base.namedtupledict("Outputs", self._outputs)
        return outputs(*(values[name] for name in self._outputs))

    def _run_node(self, index: int, node: onnx.NodeProto, values: dict[str, Array]) -> Sequence[Array | None]:
        if node.op_type != "Attention":
            present = {name: values[name] for name in node.input if name}
            return self._movers[index].run(None, present)  # type: ignore[no-any-return]
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        operands = [values[name] if name else None for name in node.input]
        with_scores = len(node.output) == 4 and node.output[3] != ""
        return attention(*operands, with_scores=with_scores, threads=self._threads, context=self._context, **attributes)

    def _named(self, inputs: Inputs) -> dict[str, Array]:
        """The graph's inputs by name."""
        wanted = [name for name in self._declared if name not in self._constants]
        if not hasattr(inputs, "keys"):
            if len(inputs) != len(wanted):
                raise ValueError(f"inputs are {len(inputs)}, expected {len(wanted)}: {', '.join(wanted)}")
            inputs = dict(zip(wanted, inputs, strict=True))
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        if missing := [name for name in wanted if name not in arrays]:
            raise ValueError(f"inputs lack {', '.join(missing)}")
        for name, array in arrays.items():
            if name not in self._declared:
                raise ValueError(f"inputs have {name}, expected only {', '.join(self._declared)}")
            declared = onnx.helper.tensor_dtype_to_np_dtype(self._declared[name])
            if array.dtype != declared:
                raise TypeError(f"input {name} has dtype {array.dtype}, expected {declared}")
        return arrays


def _load(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    return onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)


def _describe(node: onnx.NodeProto) -> str:
    name = f" {node.name!r}" if node.name else ""
    return f"node{name} of operator {node.op_type}, which computes {', '.join(filter(None, node.output))}"


def _expect_known(node: onnx.NodeProto, opsets: dict[str, int]) -> None:
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if operator == "Attention":
        version = onnx.defs.get_schema("Attention", opsets[""]).since_version
        if version > _NEWEST:
            raise NotImplementedError(f"{_describe(node)} is of version {version}, expected at most {_NEWEST}")
    elif operator not in _MOVERS:
        known = ", ".join(sorted(_MOVERS))
        raise NotImplementedError(f"{_describe(node)} is not run here, only Attention, {known}")


def _reference(node: onnx.NodeProto, opsets: dict[str, int]) -> ReferenceEvaluator:
    """ONNX's own implementation of a node."""
    names = [[onnx.ValueInfoProto(name=name) for name in side if name] for side in (node.input, node.output)]
    return ReferenceEvaluator(onnx.helper.make_graph([node], "node", *names), opsets=opsets)
