"""mha.onnx: ONNX's own tests of its operator Attention, graphs around it, and what is refused."""

from __future__ import annotations

import itertools

import mha
import mha.onnx
import ml_dtypes
import numpy as np
import onnx
import pytest
from mha import _mha
from onnx import TensorProto, helper
from onnx.backend.test import BackendTest
from onnx.reference import ReferenceEvaluator
from onnx_models import attention_model, by_reference, draw_case, make_model

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


@pytest.mark.parametrize("seed", range(60))
def test_reference(seed):
    arrays, outputs, attributes = draw_case(np.random.default_rng(seed))
    got = mha.onnx.run_model(attention_model(arrays, outputs, **attributes), arrays)
    wanted = by_reference(arrays, outputs, attributes, got["qk_matmul_output"].shape)
    for name in outputs:
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-5, err_msg=name)


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
