"""Times of calls that take turns, so that what disturbs one disturbs the others too."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

SAMPLE_SECONDS = 0.01  # at least


class Times(NamedTuple):
    minimum: float
    median: float


class Runner:
    """Calls that go in a circle."""

    def __init__(self, calls: list[Callable]) -> None:
        self.calls = itertools.cycle(calls)
        self.repetitions = 1
        self.samples: list[float] = []

    def sample(self) -> float:
        calls = list(itertools.islice(self.calls, self.repetitions))
        start = perf_counter()
        for call in calls:
            call()
        return (perf_counter() - start) / self.repetitions

    def calibrate(self) -> None:
        self.sample()
        self.repetitions = max(1, round(SAMPLE_SECONDS / self.sample()))


def take_turns(runners: dict[str, Runner], rounds: int) -> dict[str, Times]:
    for runner in runners.values():
        runner.calibrate()
    for _ in range(rounds):
        for runner in runners.values():
            runner.samples.append(runner.sample())
    return {name: Times(min(r.samples), statistics.median(r.samples)) for name, r in runners.items()}


class Limits(NamedTuple):
    flops: float  # multiply-adds on registers, one thread
    dram: float  # a plain read, bytes/s, one thread
    dram_bytes: float  # what that read went through


def limits(bench: Path, isa: str) -> Limits:
    """What bench/ measures as the limits of one core."""
    command = [bench, f"--benchmark_filter=peak/{isa}$|read/{isa}/DRAM", "--benchmark_format=json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak, read = json.loads(printed)["benchmarks"]
    size = float(read["name"].split(".")[-1].removesuffix("KiB")) * 1024
    return Limits(peak["GFLOP/s"] * 1e9 / peak["%peak"] * 100, read["GB/s"] * 1e9 / read["%read"] * 100, size)
