"""mha.onnx: ONNX's own tests of its operator Attention, graphs around it, and what is refused."""

from __future__ import annotations

import itertools

import mha
import mha.onnx
import ml_dtypes
import numpy as np
import onnx
import products
import pytest
from mha import _mha
from onnx import TensorProto, helper
from onnx.backend.test import BackendTest
from onnx.reference import ReferenceEvaluator

# ---- ONNX's own tests ---------------------------------------------------------------------------------------------

N_CASES = 93  # of ONNX 1.23.2


def attention_tests(backend_test):
    """A class of those tests of operator Attention that are not graphs of simpler operators, on the CPU."""
    tests = backend_test.test_cases["OnnxBackendNodeModelTest"]
    for name in [name for name in vars(tests) if name.startswith("test_")]:
        if not name.startswith("test_attention_") or not name.endswith("_cpu") or "_expanded" in name:
            delattr(tests, name)
    return tests


OnnxBackendNodeModelTest = attention_tests(BackendTest(mha.onnx.Backend, __name__))


def test_all_cases_are_there():
    assert sum(name.startswith("test_") for name in vars(OnnxBackendNodeModelTest)) == N_CASES


# ---- models -------------------------------------------------------------------------------------------------------

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


@pytest.fixture
def arrays(rng):
    return {
        "Q": rng.standard_normal((2, 4, 5, 8), np.float32),
        "K": rng.standard_normal((2, 2, 7, 8), np.float32),
        "V": rng.standard_normal((2, 2, 7, 6), np.float32),
    }


def test_forms_of_model_and_inputs(arrays, tmp_path):
    model = attention_model(arrays, is_causal=1)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    expected = mha.attention(*arrays.values(), causal=True)
    for form, inputs in itertools.product(
        (model, model.SerializeToString(), path, str(path)), (arrays, list(arrays.values()))
    ):
        outputs = mha.onnx.run_model(form, inputs)
        np.testing.assert_array_equal(outputs[0], expected)
        assert outputs["Y"] is outputs[0]


@pytest.mark.parametrize("opset", [23, 24, 25])
def test_opsets(arrays, opset):
    (y,) = mha.onnx.run_model(attention_model(arrays, opset=opset, is_causal=1), arrays)
    np.testing.assert_array_equal(y, mha.attention(*arrays.values(), causal=True))


def test_context_and_threads(arrays, context):
    (y,) = mha.onnx.run_model(attention_model(arrays), arrays, context=context, threads=2)
    np.testing.assert_array_equal(y, mha.attention(*arrays.values(), context=context))


# ---- against the reference ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", range(60))
def test_reference(seed):
    arrays, outputs, attributes = draw_case(np.random.default_rng(seed))
    got = mha.onnx.run_model(attention_model(arrays, outputs, **attributes), arrays)
    wanted = by_reference(arrays, outputs, attributes, got["qk_matmul_output"].shape)
    for name in outputs:
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-5, err_msg=name)


# ---- half precision -------------------------------------------------------------------------------------------------

CAST = {"Q", "K", "V", "past_key", "past_value"}
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
    """Of outputs by name, where weights of softmax are rounded to bf16."""
    if not products.are_bf16(mha.cpu_info()["isa"], arrays["Q"].shape[-2], np.dtype(dtype)):
        return {}
    positive = {name: abs(array) if name in ("V", "past_value") else array for name, array in arrays.items()}
    sizes = by_reference(positive, ["Y"], attributes, wanted["qk_matmul_output"].shape)["Y"]
    error = np.expm1(products.WEIGHT)  # of the sum of weights, which is 1
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


# ---- graphs ---------------------------------------------------------------------------------------------------------


def test_casts_around(arrays):
    """Inputs of f16, attention in f32, an output of bf16."""
    halves = {name.lower(): array.astype(np.float16) for name, array in arrays.items()}
    nodes = [helper.make_node("Cast", [name.lower()], [name], to=TensorProto.FLOAT) for name in arrays]
    nodes += [helper.make_node("Attention", list(arrays), ["Y"])]
    nodes += [helper.make_node("Cast", ["Y"], ["y"], to=TensorProto.BFLOAT16)]
    (y,) = mha.onnx.run_model(make_model(nodes, halves, {"y": ml_dtypes.bfloat16}), halves)
    expected = mha.attention(*(half.astype(np.float32) for half in halves.values()))
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y, expected.astype(ml_dtypes.bfloat16))


def test_movers_around(rng):
    """Packed projections, split, one of them unused; keys stored as [dim, tokens]; a result in another shape."""
    qv = rng.standard_normal((2, 6, 12), np.float32)
    k_t = rng.standard_normal((2, 4, 6), np.float32)
    nodes = [
        helper.make_node("Split", ["qv"], ["q", "", "v"], axis=2, num_outputs=3),
        helper.make_node("Transpose", ["k_t"], ["k"], perm=[0, 2, 1]),
        helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2),
        helper.make_node("Reshape", ["y", "shape"], ["flat"]),
        helper.make_node("Identity", ["flat"], ["out"]),
    ]
    model = make_model(nodes, {"qv": qv, "k_t": k_t}, ["out"], initializers=[("shape", np.array([12, 4]))])
    (out,) = mha.onnx.run_model(model, [qv, k_t])
    (expected,) = ReferenceEvaluator(model).run(None, {"qv": qv, "k_t": k_t})
    np.testing.assert_allclose(out, expected, rtol=0, atol=4e-6)


def test_initializers(arrays):
    """Those that are no inputs, and those that are an input's default."""
    node = helper.make_node("Attention", ["Q", "K", "V"], ["Y"])
    constant = [(name, arrays[name]) for name in ("K", "V")]
    queries = {"Q": arrays["Q"]}
    model = make_model([node], queries | {"V": arrays["V"]}, ["Y"], initializers=constant)
    for inputs in (queries, [arrays["Q"]]):
        np.testing.assert_array_equal(mha.onnx.run_model(model, inputs)["Y"], mha.attention(*arrays.values()))
    other = -arrays["V"]
    result = mha.onnx.run_model(model, queries | {"V": other})["Y"]
    np.testing.assert_array_equal(result, mha.attention(arrays["Q"], arrays["K"], other))


def test_outputs_left_out(arrays):
    """An output without a name is not what an input without a name reads."""
    first = helper.make_node("Attention", ["Q", "K", "V"], ["a", "", "", "weights"], qk_matmul_output_mode=3)
    second = helper.make_node("Attention", ["Q", "K", "V", "", "K", "V"], ["b"])
    a, weights, b = mha.onnx.run_model(make_model([first, second], arrays, ["a", "weights", "b"]), arrays)
    twice = [np.concatenate((arrays[name], arrays[name]), axis=2) for name in ("K", "V")]
    out, expected = mha.attention(*arrays.values(), return_weights=True)
    np.testing.assert_array_equal(a, out)
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_array_equal(b, mha.attention(arrays["Q"], *twice))


def test_present_without_past(arrays):
    model = attention_model(arrays, ("Y", "present_key", "present_value"))
    outputs = mha.onnx.run_model(model, arrays)
    np.testing.assert_array_equal(outputs["present_key"], arrays["K"])
    np.testing.assert_array_equal(outputs["present_value"], arrays["V"])


@pytest.mark.parametrize("n_dimensions", [3, 4])
def test_no_copies(rng, monkeypatch, n_dimensions):
    """The library reads the arrays that were passed, and writes the one that is returned."""
    shape = (2, 5, 4, 8) if n_dimensions == 4 else (2, 5, 32)
    arrays = {name: rng.standard_normal(shape, np.float32) for name in ("Q", "K", "V")}
    attributes = {} if n_dimensions == 4 else {"q_num_heads": 4, "kv_num_heads": 4}
    calls = []

    def spy(context, q, k, v, options, return_lse, scores_mode, bthd, out, threads):
        calls.append((q, k, v, out))
        return real(context, q, k, v, options, return_lse, scores_mode, bthd, out, threads)

    real = _mha.attention
    monkeypatch.setattr(_mha, "attention", spy)
    (y,) = mha.onnx.run_model(attention_model(arrays, **attributes), arrays)
    ((*operands, out),) = calls
    assert all(np.shares_memory(a, b) for a, b in zip(operands, arrays.values(), strict=True))
    assert np.shares_memory(out, y)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float64])
def test_masks_of_other_types(arrays, dtype):
    """Numbers are added, whatever their type."""
    mask = np.arange(7).astype(dtype)
    (y,) = mha.onnx.run_model(attention_model(arrays | {"attn_mask": mask}), arrays | {"attn_mask": mask})
    np.testing.assert_array_equal(y, mha.attention(*arrays.values(), mask=mask.astype(np.float32)))


# ---- the interface of backends ----------------------------------------------------------------------------------------


def test_backend(arrays):
    model = attention_model(arrays)
    expected = mha.attention(*arrays.values())
    prepared = mha.onnx.Backend.prepare(model, "CPU")
    for _ in range(2):
        np.testing.assert_array_equal(prepared.run(list(arrays.values()))[0], expected)
    np.testing.assert_array_equal(mha.onnx.Backend.run_model(model, list(arrays.values()))[0], expected)
    assert mha.onnx.Backend.supports_device("CPU")
    assert not mha.onnx.Backend.supports_device("CUDA")
    with pytest.raises(ValueError, match="device is 'CUDA', expected 'CPU'"):
        mha.onnx.Backend.prepare(model, "CUDA")
    with pytest.raises(ValueError, match="device is 'CUDA', expected 'CPU'"):
        mha.onnx.Backend.run_node(model.graph.node[0], arrays, "CUDA")


def test_run_node(arrays):
    past = {"past_key": arrays["K"], "past_value": arrays["V"]}
    node = helper.make_node("Attention", ["Q", "K", "V", "", "past_key", "past_value"], ["Y", "present_key"])
    twice = [np.concatenate((arrays[name], arrays[name]), axis=2) for name in ("K", "V")]
    for inputs in (arrays | past, [*arrays.values(), *past.values()]):
        y, present_key = mha.onnx.Backend.run_node(node, inputs, opset_version=24)
        np.testing.assert_array_equal(y, mha.attention(arrays["Q"], *twice))
        np.testing.assert_array_equal(present_key, twice[0])


# ---- what is refused --------------------------------------------------------------------------------------------------


def flat(arrays):
    return {name: array.transpose(0, 2, 1, 3).reshape(2, array.shape[2], -1) for name, array in arrays.items()}


def with_past(arrays):
    return arrays | {"past_key": arrays["K"], "past_value": arrays["V"]}


WRONG_NODES = [
    (lambda a: flat(a), {}, ValueError, "q_num_heads is None, expected to divide the 32 columns of Q"),
    (lambda a: flat(a), {"q_num_heads": 5}, ValueError, "q_num_heads is 5, expected to divide the 32 columns of Q"),
    (lambda a: flat(a), {"q_num_heads": 4}, ValueError, "kv_num_heads is None, expected to divide the 16 columns of K"),
    (lambda a: a, {"q_num_heads": 3}, ValueError, "q_num_heads is 3, expected the 4 heads of Q"),
    (lambda a: a, {"softmax_precision": 2}, ValueError, "softmax_precision is 2, expected one of"),
    (lambda a: a, {"left_window_size": -2}, ValueError, "window_left is -2, expected"),
    (lambda a: a, {"softcap": -1.0}, ValueError, "softcap is -1, expected"),
    (lambda a: a | {"past_key": a["K"]}, {}, ValueError, "only one of past_key and past_value is given"),
    (lambda a: a | {"Q": a["Q"][0, 0]}, {}, ValueError, "Q has 2 dimensions, expected 3 or 4"),
    (lambda a: a | {"V": a["V"][:, :, 1:]}, {}, ValueError, r"v has shape \(2, 2, 6, 6\), expected \(2, 2, 7, \*\)"),
    (lambda a: {name: x.astype(np.float64) for name, x in a.items()}, {}, TypeError, "q has dtype float64, expected"),
    (
        lambda a: with_past(a) | {"nonpad_kv_seqlen": np.array([1, 2])},
        {},
        ValueError,
        "past_key and nonpad_kv_seqlen are both given",
    ),
    (
        lambda a: a | {"nonpad_kv_seqlen": np.array([1, 8])},
        {},
        ValueError,
        r"kv_lens\[1\] is 8, expected 0 to kv_len, 7",
    ),
    (lambda a: a | {"attn_mask": np.ones((3, 7), bool)}, {}, ValueError, r"mask has shape \(3, 7\), expected \(5, 7\)"),
]


@pytest.mark.parametrize(
    ("change", "attributes", "error", "message"), WRONG_NODES, ids=[row[-1] for row in WRONG_NODES]
)
def test_wrong_nodes(arrays, change, attributes, error, message):
    inputs = change(arrays)
    with pytest.raises(error, match=rf"^node 'attend' \(operator Attention, output Y\): {message}"):
        mha.onnx.run_model(attention_model(inputs, **attributes), inputs)


def test_wrong_scores_mode(arrays):
    model = attention_model(arrays, ("Y", "qk_matmul_output"), qk_matmul_output_mode=4)
    with pytest.raises(ValueError, match="scores_mode is 4, expected"):
        mha.onnx.run_model(model, arrays)


def test_unknown_operators(arrays):
    nodes = [
        helper.make_node("MatMul", ["Q", "weight"], ["q"], name="project"),
        helper.make_node("Attention", ["q", "K", "V"], ["Y"]),
    ]
    model = make_model(nodes, arrays, ["Y"], initializers=[("weight", np.eye(8, dtype=np.float32))])
    with pytest.raises(NotImplementedError, match=r"^node 'project' \(operator MatMul, output q\) is not run here"):
        mha.onnx.run_model(model, arrays)
    foreign = helper.make_node("Attention", ["Q"], ["Y"], domain="com.example")
    model = make_model([foreign], {"Q": arrays["Q"]}, ["Y"])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(
        NotImplementedError, match=r"^node \(operator com.example.Attention, output Y\) is not run here"
    ):
        mha.onnx.run_model(model, arrays)


def test_newer_versions(arrays, monkeypatch):
    monkeypatch.setattr(mha.onnx, "_NEWEST", 24)
    with pytest.raises(NotImplementedError, match="^node 'attend' .* is of version 25, expected at most 24$"):
        mha.onnx.run_model(attention_model(arrays), arrays)


def test_wrong_inputs(arrays):
    model = attention_model(arrays)
    q, k, _ = arrays.values()
    with pytest.raises(ValueError, match="^inputs are 2, expected 3: Q, K, V$"):
        mha.onnx.run_model(model, [q, k])
    with pytest.raises(ValueError, match="^inputs lack K, V$"):
        mha.onnx.run_model(model, {"Q": q})
    with pytest.raises(ValueError, match="^inputs have mask, expected only Q, K, V$"):
        mha.onnx.run_model(model, arrays | {"mask": q})
    with pytest.raises(TypeError, match="^input Q has dtype float16, expected float32$"):
        mha.onnx.run_model(model, arrays | {"Q": q.astype(np.float16)})
    with pytest.raises(onnx.checker.ValidationError):
        mha.onnx.run_model(attention_model(arrays, nothing=1), arrays)
