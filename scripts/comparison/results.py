"""What was measured of a case, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from comparison.cases import Case
from comparison.measure import Times

# Names of times.
PEAK, READ = "multiply-adds on registers", "read"
TWO_THREADS, PLAIN, FROM_C, HIGHEST = "2 threads", "plain", "from C", "highest"


@dataclass
class Row:
    """Times of runs that took turns."""

    case: Case
    isa: str
    capped: bool  # this CPU has better than isa
    threads: int
    libraries: dict[str, Times]  # libmha and its peers
    variants: dict[str, Times]  # of libmha
    limits: dict[str, Times]  # what the same work takes one core if nothing else does
    unable: dict[str, str]
    peak: float = 0  # flop/s of one core, the best that the whole run saw

    @property
    def seconds(self) -> float:
        return self.variants.get(FROM_C, self.libraries["libmha"]).minimum

    @property
    def of_peak(self) -> float:
        """Of the peak that took turns with the case, for as long at a time: of what the machine gave just then."""
        return self.limits[PEAK].minimum / self.seconds / self.threads

    @property
    def of_best_peak(self) -> float:
        return self.case.flops / self.seconds / self.threads / self.peak

    @property
    def of_read(self) -> float | None:
        return self.limits[READ].minimum / self.seconds / self.threads if READ in self.limits else None

    @property
    def two_threads(self) -> float | None:
        """As fast as one, so many times."""
        if TWO_THREADS not in self.variants:
            return None
        return self.libraries["libmha"].minimum / self.variants[TWO_THREADS].minimum

    @property
    def of_plain(self) -> float | None:
        """Of the rate without what makes the case special."""
        if PLAIN not in self.variants:
            return None
        work = self.case.flops / self.case.plain.flops
        return work * self.variants[PLAIN].minimum / self.libraries["libmha"].minimum

    @property
    def of_highest(self) -> float | None:
        """At the case's precision it is so many times as fast as at the highest."""
        if HIGHEST not in self.variants:
            return None
        return self.variants[HIGHEST].minimum / self.libraries["libmha"].minimum

    @property
    def beyond_work(self) -> float:
        """Seconds beyond what the arithmetic takes at the peak."""
        return self.seconds - self.case.flops / self.peak

    def speedup(self, peer: str) -> float | None:
        """libmha is so many times as fast."""
        if peer not in self.libraries:
            return None
        return self.libraries[peer].minimum / self.libraries["libmha"].minimum

    @property
    def least_speedup(self) -> float | None:
        """Over the fastest peer."""
        return min((self.speedup(peer) for peer in self.libraries if peer != "libmha"), default=None)

    @property
    def figures(self) -> dict[str, float | None]:
        names = ("of_peak", "of_best_peak", "of_read", "two_threads", "of_plain", "of_highest", "least_speedup")
        return {name: getattr(self, name) for name in names}


@dataclass
class Memory:
    """Workspace."""

    isa: str
    head_dim: int
    q_len: int
    workers: int
    worker_bytes: dict[int, int]  # by kv_len

    @property
    def mebibytes(self) -> float:
        return max(self.worker_bytes.values()) / 2**20

    @property
    def growth(self) -> float:
        """With the longest kv_len, as many times as with the shortest."""
        return self.worker_bytes[max(self.worker_bytes)] / self.worker_bytes[min(self.worker_bytes)]


Result = Row | Memory
