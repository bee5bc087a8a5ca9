"""Threads: how many, whose, and what Python does meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import mha
import numpy as np
import pytest


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_result_does_not_depend_on_them(rng, threads, context):
    q = rng.standard_normal((2, 4, 100, 32), np.float32)
    k, v = rng.standard_normal((2, 2, 2, 600, 32), np.float32)
    for rows in (slice(None), slice(1)):  # many queries, and one
        expected = mha.attention(q[:, :, rows], k, v, threads=1, context=context)
        actual = mha.attention(q[:, :, rows], k, v, threads=threads, context=context)
        np.testing.assert_array_equal(actual, expected)


def test_default(qkv):
    before = mha.get_num_threads()
    assert before == len(os.sched_getaffinity(0))
    try:
        mha.set_num_threads(3)
        assert mha.get_num_threads() == 3
        mha.attention(*qkv)
    finally:
        mha.set_num_threads(before)


@pytest.mark.parametrize(
    "threads, error", [(0, ValueError), (-1, ValueError), (4097, ValueError), (2**70, ValueError), (1.0, TypeError)]
)
def test_bad_default(threads, error):
    with pytest.raises(error):
        mha.set_num_threads(threads)


def test_they_are_used(rng):
    """A pool appears with the first call that asks for its number of threads, and is used again."""
    q = rng.standard_normal((1, 16, 64, 32), np.float32)
    threads = [len(os.listdir("/proc/self/task"))]
    for _ in range(2):
        mha.attention(q, q, q, threads=7)
        threads.append(len(os.listdir("/proc/self/task")))
    assert threads[1] == threads[0] + 6 and threads[2] == threads[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_callers(rng, threads):
    """Each has a workspace of its own, and the pool is shared.  Scalar kernels, so that calls last and overlap."""
    context = mha.Context(isa="scalar")
    problems = [rng.standard_normal((3, 1, 4, n, 32), np.float32) for n in range(100, 116)]
    expected = [mha.attention(*p, causal=True, threads=1, context=context) for p in problems]
    with ThreadPoolExecutor(8) as callers:
        for _ in range(4):
            actual = callers.map(lambda p: mha.attention(*p, causal=True, threads=threads, context=context), problems)
            for a, e in zip(actual, expected):
                np.testing.assert_array_equal(a, e)


def slow_problem():
    """Long enough to be interrupted: some tenths of a second of scalar code."""
    x = np.ones((1, 1, 1024, 64), np.float32)
    return lambda: mha.attention(x, x, x, threads=1, context=mha.Context(isa="scalar"))


def test_gil_is_released():
    """Python runs in this thread while another is inside the library."""
    call = slow_problem()
    done = threading.Event()
    entered = threading.Event()

    def worker():
        entered.set()
        call()
        done.set()

    steps = 0
    thread = threading.Thread(target=worker)
    thread.start()
    entered.wait()
    while not done.wait(0.001):
        steps += 1
    thread.join()
    assert steps > 10


DAEMONS = """
import threading, time, mha, numpy as np
x = np.ones((1, 4, 64, 32), np.float32)
layer = mha.Layer(*np.ones((4, 32, 32), np.float32), q_heads=4)
inside = threading.Barrier(7)

def start(call):
    def work():
        inside.wait()
        while True:
            call()
    threading.Thread(target=work, daemon=True).start()

for threads in (1, 1, 2):
    start(lambda: mha.attention(x, x, x, threads=threads))
    start(lambda: layer(x[0], threads=threads))
inside.wait()
time.sleep(0.1)
"""


@pytest.mark.parametrize("repetition", range(5))
def test_exit_while_daemon_threads_compute(repetition):
    """Python ends them when they ask for the GIL, which must not end the process."""
    run = subprocess.run([sys.executable, "-c", DAEMONS], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def in_child(work):
    """Run `work` in a forked child; return what it exits with."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001 - pytest must not go on in the child
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(rng):
    """The parent's pool does not exist in the child, which makes its own; and so on."""
    q = rng.standard_normal((1, 8, 64, 32), np.float32)
    expected = mha.attention(q, q, q, threads=2)

    def agrees():
        return np.array_equal(mha.attention(q, q, q, threads=2), expected)

    assert in_child(agrees) == 0
    assert in_child(lambda: agrees() and in_child(agrees) == 0) == 0
    assert agrees()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_another_thread_computes(rng):
    q = rng.standard_normal((1, 8, 64, 32), np.float32)
    expected = mha.attention(q, q, q, threads=2)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            mha.attention(q, q, q, threads=2)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: np.array_equal(mha.attention(q, q, q, threads=2), expected)) == 0
    finally:
        stop.set()
        thread.join()
