"""Measures cases in a process of its own: what caps libraries to an instruction set holds for a whole process."""

from __future__ import annotations

import gc
import multiprocessing
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np

from comparison.cases import HALF, Arrays, Attention, Case, Linear
from comparison.instruments import Instruments
from comparison.measure import Runner, take_turns, timed
from comparison.peers import PEERS, Libmha, Unable
from comparison.results import FROM_C, HIGHEST, PEAK, PLAIN, READ, TWO_THREADS, Memory, Result, Row

CAPS = {
    "avx2": {
        "MHA_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
}
CLOSE = {"f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}  # how far apart outputs of the same work may be
LESS = "f32 at its highest precision alone is compared"

Runners = dict[str, Runner]


class Laboratory:
    """All that is measured on one instruction set."""

    def __init__(self, arguments: Namespace, isa: str, capped: bool) -> None:
        self.arguments, self.isa, self.capped = arguments, isa, capped
        self.instruments = Instruments(arguments.instruments, isa)
        self.libmha = Libmha(arguments.threads, self.instruments)
        self.peers, self.missing = [], {}
        for peer in PEERS:
            try:
                self.peers.append(peer(arguments.threads))
            except ImportError as error:
                self.missing[peer.name] = f"missing: {error}"

    def libraries(self, case: Case, arrays: list[Arrays]) -> tuple[Runners, dict[str, str]]:
        """Runners by name, and why others have none.  All compute the same."""
        runners, unable, wanted = {}, dict(self.missing), None
        for library in [self.libmha, *self.peers]:
            try:
                if library is not self.libmha and getattr(case, "precision", "highest") != "highest":
                    raise Unable(LESS)
                calls = getattr(library, case.kind)(case, arrays)
            except Unable as error:
                unable[library.name] = str(error)
                continue
            got = np.asarray(calls[0]()).astype(np.float32)
            wanted, close = got if wanted is None else wanted, CLOSE[case.dtype]
            if not np.allclose(got, wanted, rtol=close, atol=close):
                raise SystemExit(
                    f"{library.name} computes something else: {case}, off by {np.abs(got - wanted).max():.1e}"
                )
            runners[library.name] = Runner([timed(call) for call in calls])
        return runners, unable

    def variants(self, case: Case, arrays: list[Arrays]) -> Runners:
        """Of libmha's call."""
        runners = {}
        if not isinstance(case, Attention) or self.arguments.threads > 1:
            return runners
        if case.prefill and case not in HALF and len(os.sched_getaffinity(0)) > 1:
            calls = Libmha(2, self.instruments).attention(case, arrays)
            runners[TWO_THREADS] = Runner([timed(call) for call in calls])
        if case.precision != "highest":
            calls = self.libmha.attention(replace(case, precision="highest"), arrays)
            runners[HIGHEST] = Runner([timed(call) for call in calls])
        if case.plain:
            calls = self.libmha.attention(case.plain, case.plain.arrays(self.instruments.dram_bytes))
            runners[PLAIN] = Runner([timed(call) for call in calls])
        if case.cached:
            out = case.tensor(case.q_heads, case.q_len)
            runners[FROM_C] = Runner([self.instruments.attention(case, *arrays[0], out)])
        return runners

    def limits(self, case: Case, arrays: list[Arrays]) -> Runners:
        runners = {PEAK: Runner([self.instruments.multiply_add(case)])}
        if case.read_bytes:
            runners[READ] = Runner([self.instruments.read(*case.streamed(copy)) for copy in arrays])
        return runners

    def row(self, case: Case) -> Row:
        arrays = case.arrays(self.instruments.dram_bytes)
        limits, variants = self.limits(case, arrays), self.variants(case, arrays)
        libraries, unable = self.libraries(case, arrays)
        times = take_turns(limits | libraries | variants, self.arguments.rounds, self.arguments.seconds)
        parts = ({name: times[name] for name in runners} for runners in (libraries, variants, limits))
        return Row(case, self.isa, self.capped, self.arguments.threads, *parts, unable)

    def memory(self) -> Iterator[Memory]:
        for head_dim in (64, 80, 128, 256):
            for q_len, workers in ((1, 1), (64, 1), (2048, 1), (2048, 8)):
                cases = (Attention(1, 32, 8, q_len, kv_len, head_dim) for kv_len in (4096, 262144))
                sizes = {case.kv_len: self.instruments.worker_bytes(case, workers) for case in cases}
                yield Memory(self.isa, head_dim, q_len, workers, sizes)

    def results(self, cases: list[Case]) -> Iterator[Result]:
        for case in cases:
            yield self.row(case)
            gc.collect()  # sessions and gigabytes of arrays
        if not self.capped:
            yield from self.memory()


def child(sender: Connection, arguments: Namespace, isa: str, capped: bool, cases: list[Case]) -> None:
    os.environ.update(CAPS.get(isa, {"MHA_ISA": isa}))
    for result in Laboratory(arguments, isa, capped).results(cases):
        sender.send(result)


def measure(arguments: Namespace, isa: str, capped: bool, cases: list[Case]) -> Iterator[Result]:
    """As a child process measures them."""
    if arguments.threads > 1:
        cases = [case for case in cases if not isinstance(case, Linear)]  # Libmha.linear has one
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender, arguments, isa, capped, cases))
    process.start()
    sender.close()
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        process.join()
    if process.exitcode != 0:
        raise SystemExit(f"comparison: {isa}: exit status {process.exitcode}")
