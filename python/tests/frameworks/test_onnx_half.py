"""ONNX Attention in f16 and bf16."""

from __future__ import annotations

import mha
import mha.onnx
import ml_dtypes
import numpy as np
import products
import pytest
from onnx import TensorProto, helper
from onnx_models import attention_model, by_reference, draw_case, make_model

CAST = {"Q", "K", "V", "past_key", "past_value"}
SHAPE = {"scale", "q_num_heads", "kv_num_heads"}  # attributes on which raw scores depend
ROUNDING = {np.float16: 2.0**-11, ml_dtypes.bfloat16: 2.0**-8}


def half_model(arrays, outputs, dtype, **attributes):
    """A graph of f32 that casts to dtype around Attention, as converters write it."""
    half = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inner = attention_model(arrays, outputs, **attributes).graph.node[0]
    casts = [helper.make_node("Cast", [name], [f"half_{name}"], to=half) for name in arrays if name in CAST]
    inner.input[:] = [f"half_{name}" if name in CAST else name for name in inner.input]
    inner.output[:] = [f"half_{name}" if name else "" for name in inner.output]
    back = [helper.make_node("Cast", [f"half_{name}"], [name], to=TensorProto.FLOAT) for name in outputs]
    return make_model([*casts, inner, *back], arrays, outputs)


def errors_of_products(arrays, attributes, wanted, dtype):
    """Of outputs by name, where bf16 is multiplied."""
    parts = products.parts(mha.cpu_info()["isa"], arrays["Q"].shape[-2], dtype)
    if parts == 0:
        return {}
    shape = wanted["qk_matmul_output"].shape
    scores = by_reference(
        {name: abs(array) for name, array in arrays.items() if name != "attn_mask"},
        ["qk_matmul_output"],
        {name: attributes[name] for name in attributes.keys() & SHAPE} | {"qk_matmul_output_mode": 0},
        shape,
    )["qk_matmul_output"]
    positive = {name: abs(array) if name in ("V", "past_value") else array for name, array in arrays.items()}
    sizes = by_reference(positive, ["Y"], attributes, shape)["Y"]
    error = np.expm1(products.weight_error(parts, scores.max()))  # of the sum of weights, which is 1
    errors = {"Y": error * (sizes + abs(wanted["Y"])) / (1 - error)}
    if attributes["qk_matmul_output_mode"] == 3:
        errors["qk_matmul_output"] = 2 * error * wanted["qk_matmul_output"] / (1 - error)
    return errors


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("seed", range(40))
def test_half_precision(seed, dtype):
    """As exact as the evaluator in f32 of the same numbers, and rounded once."""
    arrays, outputs, attributes = draw_case(np.random.default_rng(seed))
    arrays |= {name: arrays[name].astype(dtype).astype(np.float32) for name in arrays.keys() & CAST}
    got = mha.onnx.run_model(half_model(arrays, outputs, dtype, **attributes), arrays)
    wanted = by_reference(arrays, outputs, attributes, got["qk_matmul_output"].shape)
    errors, relative = errors_of_products(arrays, attributes, wanted, dtype), ROUNDING[dtype]
    for name in outputs:
        allowed = (1e-5 + errors.get(name, 0.0)) * (1 + relative) + relative * abs(wanted[name])
        finite = np.isfinite(wanted[name])  # scores of excluded keys are -inf
        np.testing.assert_array_equal(got[name][~finite], wanted[name][~finite], err_msg=name)
        assert (abs(got[name][finite] - wanted[name][finite]) <= allowed[finite]).all(), name
