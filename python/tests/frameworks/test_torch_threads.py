"""Threads of libmha beside those of PyTorch.  In processes of their own, whose threads can be counted."""

from __future__ import annotations

import subprocess
import sys

import mha.torch
import pytest
import torch

PRELUDE = """
import os, torch, mha, mha.torch
torch.set_grad_enabled(False)
q = torch.randn(1, 16, 64, 32)
matrix = torch.randn(512, 512)
threads = lambda: len(os.listdir("/proc/self/task"))
"""

SCRIPTS = {
    "as many as PyTorch uses": """
torch.set_num_threads(5)
before = threads()
mha.torch.scaled_dot_product_attention(q, q, q)
assert threads() == before + 4, (before, threads())
""",
    "as many as a call asks for": """
torch.set_num_threads(1)
before = threads()
mha.torch.attention(q, q, q, threads=3)
assert threads() == before + 2, (before, threads())
""",
    "one": """
torch.set_num_threads(1)
before = threads()
mha.torch.scaled_dot_product_attention(q, q, q)
assert threads() == before, (before, threads())
""",
    "no OpenMP of its own": """
runtimes = {line.split("/")[-1] for line in open("/proc/self/maps") if "omp" in line.split("/")[-1]}
assert len(runtimes) == 1, runtimes
""",
    "a forked child": """
torch.set_num_threads(2)
matrix @ matrix
expected = mha.torch.scaled_dot_product_attention(q, q, q)
child = os.fork()
if child == 0:
    ok = torch.equal(mha.torch.scaled_dot_product_attention(q, q, q), expected) and threads() == 2
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(mha.torch.scaled_dot_product_attention(q, q, q), expected)
""",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_threads(script):
    command = [sys.executable, "-c", PRELUDE + script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr


def test_result_does_not_depend_on_them():
    torch.manual_seed(3)
    q = torch.randn(2, 4, 100, 32)
    one = mha.torch.attention(q, q, q, threads=1)
    for threads in (2, 3):
        assert torch.equal(mha.torch.attention(q, q, q, threads=threads), one)
