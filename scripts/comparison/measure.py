"""Times of calls that take turns, so that what disturbs one disturbs the others too."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

SAMPLE_SECONDS = 0.007  # at least
LEAST_ROUNDS = 10

Timed = Callable[[int], float]  # runs so often and returns the seconds that took


def timed(call: Callable) -> Timed:
    def run(times: int) -> float:
        start = perf_counter()
        for _ in range(times):
            call()
        return perf_counter() - start

    return run


class Times(NamedTuple):
    """Seconds of one call."""

    minimum: float
    median: float


class Runner:
    """Calls that go in a circle."""

    def __init__(self, calls: list[Timed]) -> None:
        self.calls, self.circle = calls, itertools.cycle(calls)
        self.repetitions = 1
        self.samples: list[float] = []

    def start_at(self, part: float) -> None:
        """Of the circle, so that no runner finds in a cache what another one has just read."""
        first = int(part * len(self.calls))
        self.circle = itertools.cycle(self.calls[first:] + self.calls[:first])

    def seconds(self, times: int) -> float:
        """Of one call, the mean of so many."""
        if len(self.calls) == 1:
            return self.calls[0](times) / times
        return sum(call(1) for call in itertools.islice(self.circle, times)) / times

    def calibrate(self) -> None:
        self.repetitions = max(1, round(SAMPLE_SECONDS / min(self.seconds(1) for _ in range(2))))

    def sample(self) -> None:
        if self.repetitions > 1:
            self.seconds(1)  # what the others took out of the caches comes back
        self.samples.append(self.seconds(self.repetitions))


def take_turns(runners: dict[str, Runner], rounds: int, seconds: float) -> dict[str, Times]:
    """So many rounds, or as many as fit, but at least 10 of them."""
    order = list(runners.values())
    for i, runner in enumerate(order):
        runner.start_at(i / len(order))
        runner.calibrate()
    shuffle = random.Random(1).shuffle
    end = perf_counter() + seconds
    for done in range(rounds):
        if done >= LEAST_ROUNDS and perf_counter() > end:
            break
        shuffle(order)  # so that none always comes after the same one
        for runner in order:
            runner.sample()
    return {name: Times(min(r.samples), statistics.median(r.samples)) for name, r in runners.items()}
