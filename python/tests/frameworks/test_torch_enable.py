"""mha.torch.enable: when PyTorch's function runs on libmha, and when it does not."""

from __future__ import annotations

import threading

import mha.torch
import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

PYTORCHS = functional.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)
    yield
    assert functional.scaled_dot_product_attention is PYTORCHS


@pytest.fixture
def calls(monkeypatch):
    """The keyword arguments of each call that reaches mha.torch.scaled_dot_product_attention."""
    seen = []

    def recorded(*args, **kwargs):
        seen.append(args)
        return mha.torch.scaled_dot_product_attention(*args, **kwargs)

    monkeypatch.setattr("mha.torch._enable.scaled_dot_product_attention", recorded)
    return seen


def randn(*shape, **options):
    return torch.randn(shape, **options)


# Arguments, and whether ours applies.
CASES = {
    "plain": ({}, True),
    "causal, scale": ({"is_causal": True, "scale": 0.4}, True),
    "grouped": ({"query": randn(2, 8, 5, 8), "enable_gqa": True}, True),
    "mask": ({"attn_mask": torch.rand(5, 7) < 0.8}, True),
    "mask of floats": ({"attn_mask": randn(5, 7)}, True),
    "double": ({n: randn(2, 4, 7, 8, dtype=torch.float64) for n in ("query", "key", "value")}, False),
    "grad": ({"query": randn(2, 4, 5, 8, requires_grad=True)}, False),
    "mask with grad": ({"attn_mask": randn(5, 7, requires_grad=True)}, False),
    "no heads": ({n: randn(2, 0, 7, 8) for n in ("query", "key", "value")}, False),
    "no head_dim": ({n: randn(2, 4, 7, 0) for n in ("query", "key")}, False),
    "no v_head_dim": ({"value": randn(2, 4, 7, 0)}, False),
    "no batch of three dimensions": ({n: randn(0, 7, 8) for n in ("query", "key", "value")}, False),
    "dropout": ({"dropout_p": 1e-9}, False),
    "nested": ({n: torch.nested.nested_tensor([randn(4, 7, 8)] * 2) for n in ("query", "key", "value")}, False),
    "another device": ({n: randn(2, 4, 7, 8, device="meta") for n in ("query", "key", "value")}, False),
}


@pytest.mark.parametrize("changes, applies", CASES.values(), ids=CASES)
def test_applies(changes, applies, calls):
    arguments = {"query": randn(2, 4, 5, 8), "key": randn(2, 4, 7, 8), "value": randn(2, 4, 7, 8)} | changes
    with mha.torch.enable():
        out = functional.scaled_dot_product_attention(**arguments)
    assert len(calls) == applies
    if out.device.type == "cpu" and not out.is_nested:
        torch.testing.assert_close(out, PYTORCHS(**arguments))


def test_modules_use_it(calls):
    attention = torch.nn.MultiheadAttention(16, 4).eval()
    x = randn(5, 2, 16)
    with torch.no_grad():
        expected = attention(x, x, x, need_weights=False)[0]
        with mha.torch.enable():
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                out = attention(x, x, x, need_weights=False)[0]
            finally:
                torch.backends.mha.set_fastpath_enabled(True)
    assert len(calls) == 1
    torch.testing.assert_close(out, expected)


def test_nesting_and_exceptions(calls):
    q = randn(1, 1, 4, 4)
    with pytest.raises(ZeroDivisionError), mha.torch.enable():
        with mha.torch.enable():
            pass
        functional.scaled_dot_product_attention(q, q, q)
        raise ZeroDivisionError
    functional.scaled_dot_product_attention(q, q, q)
    assert len(calls) == 1


def test_blocks_of_several_threads_may_end_in_any_order(calls):
    """Whoever leaves last restores PyTorch's function."""
    q = randn(1, 1, 4, 4)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with mha.torch.enable():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with mha.torch.enable():
        thread.start()
        assert entered.wait(10)
    functional.scaled_dot_product_attention(q, q, q)
    assert len(calls) == 1
    leave.set()
    thread.join()
    functional.scaled_dot_product_attention(q, q, q)
    assert len(calls) == 1


def test_another_replacement_stays(calls):
    """One that was made inside the block and calls what it found there: it then reaches PyTorch's function."""
    q = randn(1, 1, 4, 4)

    def theirs(*args):
        return found(*args)

    try:
        with mha.torch.enable():
            found = functional.scaled_dot_product_attention
            functional.scaled_dot_product_attention = theirs
        assert functional.scaled_dot_product_attention is theirs
        torch.testing.assert_close(theirs(q, q, q), PYTORCHS(q, q, q))
        assert calls == []
    finally:
        functional.scaled_dot_product_attention = PYTORCHS


@torch.inference_mode()
def test_compile_inside():
    """What is compiled inside the block keeps to libmha."""
    torch._dynamo.reset()
    q = randn(1, 2, 4, 8)
    graphs = []

    def backend(graph, inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    def model(q):
        return functional.scaled_dot_product_attention(q, q, q)

    with mha.torch.enable():
        out = torch.compile(model, fullgraph=True, backend=backend)(q)
    torch.testing.assert_close(out, PYTORCHS(q, q, q))
    assert "mha.attention" in graphs[0]


def test_forward_mode_is_left_to_pytorch(calls):
    q = randn(1, 2, 4, 8)
    with sdpa_kernel(SDPBackend.MATH):  # the one that has it
        expected = torch.func.jvp(lambda x: PYTORCHS(x, x, x), (q,), (q,))
        with mha.torch.enable():
            out = torch.func.jvp(lambda x: functional.scaled_dot_product_attention(x, x, x), (q,), (q,))
    assert calls == []
    torch.testing.assert_close(out, expected)
