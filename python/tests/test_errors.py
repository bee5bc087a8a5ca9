"""Bad arguments raise one sentence that says which, and write nothing."""

from __future__ import annotations

import subprocess
import sys

import mha
import numpy as np
import pytest

F32 = np.float32


def call(**changes):
    arguments = {
        "q": np.ones((2, 4, 6, 8), F32),
        "k": np.ones((2, 2, 7, 8), F32),
        "v": np.ones((2, 2, 7, 5), F32),
        "out": np.full((2, 4, 6, 5), 9, F32),
    }
    return mha.attention(**(arguments | changes))


SHARED = np.ones((2, 4, 6, 8), F32)
ODD = np.ones((2, 4, 6, 8), [("byte", "u1"), ("float", "f4")])["float"]

VALUE_ERRORS = {
    "q of three axes": ({"q": np.ones((4, 6, 8), F32)}, r"q has shape \(4, 6, 8\), expected \(\*, \*, \*, \*\)"),
    "k of another batch": ({"k": np.ones((1, 2, 7, 8), F32)}, r"k has shape \(1, 2, 7, 8\), expected \(2, \*, \*, 8\)"),
    "k of another width": ({"k": np.ones((2, 2, 7, 9), F32)}, r"k has shape .* expected \(2, \*, \*, 8\)"),
    "v of another length": ({"v": np.ones((2, 2, 6, 5), F32)}, r"v has shape .* expected \(2, 2, 7, \*\)"),
    "v of no width": ({"v": np.ones((2, 2, 7, 0), F32), "out": None}, "v has a last dimension of 0"),
    "q of no width": ({"q": np.ones((2, 4, 6, 0), F32), "k": np.ones((2, 2, 7, 0), F32)}, "head_dim is 0"),
    "heads that do not share": ({"q": np.ones((2, 3, 6, 8), F32), "out": None}, "q_heads is 3, expected .* kv_heads"),
    "no kv_heads": ({"k": np.ones((2, 0, 7, 8), F32), "v": np.ones((2, 0, 7, 5), F32)}, "kv_heads is 0"),
    "q not contiguous": ({"q": np.ones((2, 4, 6, 16), F32)[..., ::2]}, "q has stride 2 in its last dimension"),
    "q reversed": ({"q": np.ones((2, 4, 6, 8), F32)[..., ::-1]}, "q has stride -1 in its last dimension"),
    "q broadcast along dim": ({"q": np.broadcast_to(F32(1), (2, 4, 6, 8))}, "q has stride 0 in its last dimension"),
    "out of another shape": ({"out": np.ones((2, 4, 6, 8), F32)}, r"out has shape .* expected \(2, 4, 6, 5\)"),
    "out broadcast": ({"out": np.broadcast_to(np.ones(5, F32), (2, 4, 6, 5))}, "out is read-only"),
    "out overlaps q": ({"q": SHARED, "v": np.ones((2, 2, 7, 8), F32), "out": SHARED}, "out.* q"),
    "mask too long": ({"mask": np.ones(8, bool)}, r"mask has shape \(8,\), expected \(7,\)"),
    "mask of five axes": ({"mask": np.ones((1, 1, 1, 1, 7), bool)}, "mask has shape"),
    "kv_lens of another batch": ({"kv_lens": [7]}, r"kv_lens has shape \(1,\), expected \(2,\)"),
    "kv_lens of two axes": ({"kv_lens": [[7], [7]]}, r"kv_lens has shape \(2, 1\), expected \(2,\)"),
    "kv_lens too large": ({"kv_lens": [7, 8]}, r"kv_lens\[1\] is 8, expected 0 to kv_len, 7"),
    "kv_lens negative": ({"kv_lens": [-1, 7]}, r"kv_lens\[0\] is -1"),
    "offsets of another batch": ({"q_offset": [1, 2, 3]}, r"q_offset has shape \(3,\), expected \(2,\)"),
    "kv_lens of no axis": ({"kv_lens": 3}, r"kv_lens has shape \(\), expected \(2,\)"),
    "kv_lens of 71 bits": ({"kv_lens": [3, 2**70]}, rf"kv_lens\[1\] is {2**70}, expected -{2**63} to {2**63 - 1}"),
    "kv_lens of 64 bits": ({"kv_lens": np.array([3, 2**64 - 3], np.uint64)}, rf"kv_lens\[1\] is {2**64 - 3}"),
    "kv_lens that round to floats": ({"kv_lens": [2**63, -1]}, rf"kv_lens\[0\] is {2**63}"),
    "offset of 64 bits": ({"q_offset": 2**63}, rf"q_offset is {2**63}, expected -{2**63} to {2**63 - 1}"),
    "offsets of 64 bits": ({"q_offset": np.array([2**64 - 3, 0], np.uint64)}, rf"q_offset\[0\] is {2**64 - 3}"),
    "window of 71 bits": ({"window": (2**70, 0)}, rf"window_left is {2**70}, expected"),
    "right window of 71 bits": ({"window": (0, -(2**70))}, rf"window_right is -{2**70}, expected"),
    "odd stride": ({"q": ODD}, "q has a stride of 5 bytes, expected a multiple of its element's 4"),
    "odd stride in out": ({"out": ODD[..., :5]}, "out has a stride of 5 bytes"),
    "scale of 1001 digits": ({"scale": 10**1000}, "scale is 10*, expected a finite"),
    "scale nan": ({"scale": float("nan")}, "scale is nan, expected a finite"),
    "scale inf": ({"scale": float("inf")}, "scale is inf, expected a finite"),
    "scale -inf": ({"scale": -float("inf")}, "scale is -inf, expected a finite"),
    "scale too large for a float": ({"scale": -1e300}, "scale is -inf, expected a finite"),
    "window": ({"window": (-2, 0)}, "window_left is -2, expected -1"),
    "no threads": ({"threads": 0}, "threads is 0, expected 1 to"),
    "layout": ({"layout": "hbtd"}, "layout is 'hbtd'"),
}


@pytest.mark.parametrize("changes, sentence", VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_value_errors(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(**changes)


TYPE_ERRORS = {
    "q is a list": ({"q": [[[[1.0]]]]}, "q is of type list, expected an array"),
    "k is None": ({"k": None}, "k is of type NoneType, expected an array"),
    "q in double": ({"q": np.ones((2, 4, 6, 8))}, "q has dtype float64, expected float32"),
    "v of integers": ({"v": np.ones((2, 2, 7, 5), np.int32)}, "v has dtype int32, expected float32"),
    "q of booleans": ({"q": np.ones((2, 4, 6, 8), bool)}, "q has dtype bool, expected float32"),
    "q of the other byte order": ({"q": np.ones((2, 4, 6, 8), ">f4")}, "q has dtype >f4, expected float32"),
    "q of objects": ({"q": np.ones((2, 4, 6, 8), object)}, "q has dtype object, expected float32"),
    "mask of the other byte order": ({"mask": np.ones((6, 7), ">f4")}, "mask has dtype >f4, expected bool, float32"),
    "out in double": ({"out": np.ones((2, 4, 6, 5))}, "out has dtype float64, expected float32"),
    "mask of integers": ({"mask": np.ones((6, 7), np.int64)}, "mask has dtype int64, expected bool, float32"),
    "mask in double": ({"mask": np.ones((6, 7))}, "mask has dtype float64, expected bool, float32"),
    "kv_lens of floats": ({"kv_lens": [1.5, 2.0]}, r"kv_lens\[0\] is of type float, expected an integer"),
    "kv_lens in double": ({"kv_lens": np.ones(2)}, "kv_lens has dtype float64, expected integers"),
    "offset is a float": ({"q_offset": 1.5}, "q_offset is of type float, expected an integer"),
    "offsets in double": ({"q_offset": np.ones(2)}, "q_offset has dtype float64, expected integers"),
    "window of a float": ({"window": (0, 1.5)}, "window_right is of type float, expected an integer"),
    "scale is text": ({"scale": "1"}, "scale is of type str, expected a number"),
    "window of one side": ({"window": (3,)}, r"window is \(3,\), expected a pair"),
    "threads is a float": ({"threads": 1.5}, "threads is of type float, expected an integer"),
    "context": ({"context": "avx2"}, "context is of type str, expected mha.Context"),
}


@pytest.mark.parametrize("changes, sentence", TYPE_ERRORS.values(), ids=TYPE_ERRORS)
def test_type_errors(changes, sentence):
    with pytest.raises(TypeError, match=sentence):
        call(**changes)


@pytest.mark.parametrize("changes", [{"kv_lens": [7, 8]}, {"scale": float("nan")}, {"mask": np.ones(8, bool)}])
def test_nothing_is_written(changes):
    out = np.full((2, 4, 6, 5), 9, F32)
    with pytest.raises(ValueError):
        call(out=out, **changes)
    assert (out == 9).all()


def test_zero_stride_in_out():
    out = np.lib.stride_tricks.as_strided(np.ones(5, F32), (2, 4, 6, 5), (0, 0, 0, 4))
    with pytest.raises(ValueError, match="out.*stride"):
        call(out=out)


def test_unknown_isa():
    with pytest.raises(ValueError, match='isa is "sse9", expected one of scalar'):
        mha.Context(isa="sse9")


def test_isa_that_this_machine_lacks():
    missing = [isa for isa, supported in mha.cpu_info()["isas"].items() if not supported]
    if not missing:
        pytest.skip("this machine has every instruction set of this build")
    with pytest.raises(ValueError, match=missing[0]):
        mha.Context(isa=missing[0])


def test_unknown_exp():
    with pytest.raises(ValueError, match="exp is 'libm', expected 'auto', 'sleef' or 'fused'"):
        mha.Context(exp="libm")


def test_unknown_precision():
    with pytest.raises(ValueError, match="precision is 'low', expected 'highest', 'high' or 'medium'"):
        mha.Context(precision="low")


@pytest.mark.parametrize("name, error", [("scalar", ""), ("sse9", "MHA_ISA.*sse9")])
def test_environment(name, error, monkeypatch):
    monkeypatch.setenv("MHA_ISA", name)
    script = "import mha; print(mha.cpu_info()['isa'])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if error:
        assert run.returncode != 0 and "ValueError" in run.stderr and "sse9" in run.stderr
    else:
        assert run.stdout.strip() == name
