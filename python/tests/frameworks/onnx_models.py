"""Models of one node Attention, random cases of it, and what ONNX's own evaluator makes of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")


def declare(name, dtype, rank):
    """Of any size."""
    dimensions = [f"{name}_{axis}" for axis in range(rank)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dimensions)


def make_model(nodes, inputs, outputs, opset=25, initializers=()):
    """`inputs`: arrays by name, of which the dtypes are declared; `outputs`: names of f32, or dtypes by name."""
    outputs = outputs if isinstance(outputs, dict) else dict.fromkeys(outputs, np.float32)
    graph = helper.make_graph(
        nodes,
        "test",
        [declare(name, array.dtype, array.ndim) for name, array in inputs.items()],
        [declare(name, dtype, 4) for name, dtype in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def attention_model(arrays, outputs=("Y",), opset=25, **attributes):
    """One node Attention with the inputs in `arrays`."""
    last = max(INPUTS.index(name) for name in arrays)
    inputs = [name if name in arrays else "" for name in INPUTS[: last + 1]]
    named = [name if name in outputs else "" for name in OUTPUTS[: max(map(OUTPUTS.index, outputs)) + 1]]
    node = helper.make_node("Attention", inputs, named, name="attend", **attributes)
    return make_model([node], arrays, dict.fromkeys(outputs, arrays["Q"].dtype), opset)


def draw_mask(rng, shape, is_boolean):
    """Of any rank, broadcast in some axes, and shorter than the keys sometimes."""
    shape = [1 if rng.random() < 0.3 else size for size in shape[:-1]] + [rng.integers(1, shape[-1] + 1)]
    shape = shape[rng.integers(0, 4) :]
    if is_boolean:
        return rng.random(shape) < 0.7
    return np.where(rng.random(shape) < 0.2, -np.inf, rng.standard_normal(shape)).astype(np.float32)


def draw_case(rng):
    """Inputs and attributes that opset 25 allows together."""
    batch, kv_heads, group, q_len, kv_len, dim, v_dim = (int(x) for x in rng.integers(1, (4, 4, 4, 7, 12, 20, 20)))
    heads, past = kv_heads * group, int(rng.integers(1, 6))
    arrays = {
        "Q": rng.standard_normal((batch, heads, q_len, dim), np.float32),
        "K": rng.standard_normal((batch, kv_heads, kv_len, dim), np.float32),
        "V": rng.standard_normal((batch, kv_heads, kv_len, v_dim), np.float32),
    }
    attributes = {"is_causal": int(rng.integers(2)), "qk_matmul_output_mode": int(rng.integers(1, 4))}
    outputs = ["Y", "qk_matmul_output"]
    cache = rng.choice(["none", "past", "nonpad"])
    total = kv_len + past if cache == "past" else kv_len
    if rng.random() < 0.6:
        arrays["attn_mask"] = draw_mask(rng, (batch, heads, q_len, total), rng.random() < 0.5)
    if cache == "past":
        arrays["past_key"] = rng.standard_normal((batch, kv_heads, past, dim), np.float32)
        arrays["past_value"] = rng.standard_normal((batch, kv_heads, past, v_dim), np.float32)
        outputs[1:1] = ["present_key", "present_value"]
    if cache == "nonpad":
        arrays["nonpad_kv_seqlen"] = rng.integers(0, kv_len + 1, batch)
    if rng.random() < 0.5:
        attributes |= {"left_window_size": int(rng.integers(-1, 5)), "right_window_size": int(rng.integers(-1, 5))}
    if rng.random() < 0.4:
        attributes["softcap"] = float(rng.uniform(0.5, 3))
    if rng.random() < 0.4:
        attributes["scale"] = float(rng.uniform(0.1, 2))
    if rng.random() < 0.4:
        attributes |= {"q_num_heads": heads, "kv_num_heads": kv_heads}
        for name in ("Q", "K", "V"):
            array = arrays[name].transpose(0, 2, 1, 3)
            arrays[name] = np.ascontiguousarray(array).reshape(*array.shape[:2], -1)
    return arrays, outputs, attributes


def by_reference(arrays, outputs, attributes, scores_shape):
    """ONNX's own evaluator, by name."""
    if "attn_mask" in arrays:  # whole: ONNX 1.23.2 takes a mask's queries for all there are, unless there is a window
        shape = (*scores_shape[:3], arrays["attn_mask"].shape[-1])
        arrays = arrays | {"attn_mask": np.broadcast_to(arrays["attn_mask"], shape)}
    results = ReferenceEvaluator(attention_model(arrays, outputs, **attributes)).run(None, arrays)
    return dict(zip(outputs, results, strict=True))
