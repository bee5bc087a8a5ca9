"""What libmha should reach, and whether a run did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from comparison.cases import CALL, PREFILL, Attention, Case, Layer, Linear
from comparison.results import Memory, Result, Row

Results = Callable[[Result], bool]  # which of them


@dataclass(frozen=True)
class Target:
    """A figure of each of some results."""

    of: Results
    figure: Callable[[Result], float | None]
    unit: str
    least: float = 0
    most: float = float("inf")
    optional: bool = False  # there may be no such result

    def figures(self, results: list[Result]) -> list[float]:
        return sorted(figure for r in results if self.of(r) and (figure := self.figure(r)) is not None)

    def met(self, figures: list[float]) -> bool:
        return all(self.least <= figure <= self.most for figure in figures)

    def reached(self, figures: list[float]) -> str:
        """Their range, bold where it misses."""
        form = "{:.1f}" if self.scale == 100 else "{:.2f}"
        ends = dict.fromkeys(form.format(self.scale * figure) for figure in (figures[0], figures[-1]))
        text = "–".join(ends) + self.unit
        return text if self.met(figures) else f"**{text}**"

    @property
    def wanted(self) -> str:
        sign, bound = ("≥", self.least) if self.least else ("≤", self.most)
        return f"{sign} {self.scale * bound:g}{self.unit}"

    @property
    def scale(self) -> int:
        return 100 if self.unit.startswith("%") else 1


class Verdict(NamedTuple):
    work: str
    reached: str
    wanted: str
    met: str


@dataclass(frozen=True)
class Goal:
    work: str
    targets: list[Target]
    joint: str = "; "

    def verdict(self, results: list[Result]) -> Verdict:
        pairs = [(target, target.figures(results)) for target in self.targets]
        reached = "; ".join(target.reached(figures) for target, figures in pairs if figures)
        wanted = self.joint.join(target.wanted for target in self.targets)
        if not reached or any(not figures and not target.optional for target, figures in pairs):
            return Verdict(self.work, reached, wanted, "not measured")
        met = all(target.met(figures) for target, figures in pairs)
        return Verdict(self.work, reached, wanted, "yes" if met else "no")


def rows(
    kind: type, test: Callable[[Case], bool] = lambda case: True, isa: str | None = None, dtype: str = "f32"
) -> Results:
    """Cases of a kind and a dtype, on an instruction set or on the best one."""

    def matches(result: Result) -> bool:
        if not isinstance(result, Row) or not isinstance(result.case, kind) or result.case.dtype != dtype:
            return False
        if not test(result.case):
            return False
        return result.isa == isa if isa else not result.capped

    return matches


def prefill(head_dim: int, isa: str) -> Results:
    return rows(Attention, lambda case: case in PREFILL and not case.plain and case.head_dim == head_dim, isa)


def amx(q_len: int, causal: bool = False) -> Results:
    return rows(Attention, lambda case: case.q_len == q_len and case.causal == causal, "amx", "bf16")


def at_precision(precision: str) -> Results:
    return rows(Attention, lambda case: case.precision == precision, "amx")


def half_decode(dtype: str, cold: bool) -> Results:
    return rows(Attention, lambda case: case.decode and case.cold == cold, None, dtype)


def causal(q_len: int) -> Results:
    return rows(Attention, lambda case: case.causal and case.q_len == q_len)


def decode(test: Callable[[Attention], bool]) -> Results:
    return rows(Attention, lambda case: case.decode and case != CALL and test(case))


def any_prefill(result: Result) -> bool:
    return isinstance(result, Row) and result.case in PREFILL


def any_bthd(result: Result) -> bool:
    return any_prefill(result) and result.case.bthd


def any_memory(result: Result) -> bool:
    return isinstance(result, Memory)


def of_peak(of: Results, least: float) -> Target:
    return Target(of, attrgetter("of_peak"), "% of FMA peak", least)


def of_read(of: Results, least: float) -> Target:
    return Target(of, attrgetter("of_read"), "% of read bandwidth", least)


def times_pytorch(of: Results, least: float) -> Target:
    return Target(of, partial(Row.speedup, peer="PyTorch"), "x PyTorch", least)


def times_fastest(of: Results, least: float) -> Target:
    return Target(of, attrgetter("least_speedup"), "x the fastest peer", least)


def of_highest(precision: str, least: float) -> Target:
    return Target(at_precision(precision), attrgetter("of_highest"), f"x of highest at {precision}", least)


def roof(of: Results, read: float, peak: float) -> list[Target]:
    """Either share; of a case the one is shown that comes nearer to what is wanted."""

    def reads(result: Result) -> bool:
        return of(result) and result.of_read / read >= result.of_peak / peak

    def computes(result: Result) -> bool:
        return of(result) and not reads(result)

    return [replace(of_read(reads, read), optional=True), replace(of_peak(computes, peak), optional=True)]


SHORT = rows(Attention, lambda case: 1 < case.q_len < 512)
SHORTEST = rows(Attention, lambda case: case.q_len == 32)
MANY_ROWS = rows(Linear, lambda case: not case.cold)
FEW_ROWS = rows(Linear, lambda case: case.cold)
FROM_DRAM, FROM_L3 = decode(lambda case: case.cold), decode(lambda case: case.cached and case.read_bytes >= 2**20)
FROM_L2 = decode(lambda case: case.cached and case.read_bytes < 2**20)
SHARED_FROM_DRAM = decode(lambda case: case.cold and case.kv_heads == 8)
REPEATED = decode(lambda case: case.cached and case.kv_len == 4096)

GOALS = [
    Goal("prefill, D=64, AVX-512", [of_peak(prefill(64, "avx512"), 0.76), times_pytorch(prefill(64, "avx512"), 1.35)]),
    Goal("prefill, D=128, AVX-512", [of_peak(prefill(128, "avx512"), 0.8)]),
    Goal("prefill, D=64, AVX2", [of_peak(prefill(64, "avx2"), 0.72)]),
    Goal("prefill, D=128, AVX2", [of_peak(prefill(128, "avx2"), 0.76)]),
    Goal("prefill of [B,T,H,D]", [Target(any_bthd, attrgetter("of_plain"), "% of [B,H,T,D]'s rate", 0.97)]),
    Goal(
        "causal, T=2,048",
        [
            Target(causal(2048), attrgetter("of_plain"), "% of the rate that is not causal", 0.92),
            times_pytorch(causal(2048), 1.6),
        ],
    ),
    Goal(
        "causal, T=512",
        [
            Target(causal(512), attrgetter("of_plain"), "% of the rate that is not causal", 0.8),
            times_pytorch(causal(512), 2),
        ],
    ),
    Goal("causal, 32:8 heads, D=128", [times_pytorch(causal(1024), 1.7)]),
    Goal("short, T=32 to 128", [times_fastest(SHORT, 1.5)]),
    Goal("short, T=32", [times_fastest(SHORTEST, 2)]),
    Goal("decode out of DRAM", roof(FROM_DRAM, 0.92, 0.6), " or "),
    Goal("decode out of DRAM, 32:8 heads", [times_pytorch(SHARED_FROM_DRAM, 2)]),
    Goal("decode out of L3", roof(FROM_L3, 0.9, 0.6), " or "),
    Goal("decode out of L2", roof(FROM_L2, 0.7, 0.6), " or "),
    Goal("decode repeated, 32:8 heads, 4,096 keys", [times_pytorch(REPEATED, 3.5)]),
    Goal("projections, 128 to 2,048 rows", [of_peak(MANY_ROWS, 0.82), times_pytorch(MANY_ROWS, 1.1)]),
    Goal("projections, 1 to 4 rows, out of DRAM", [of_read(FEW_ROWS, 0.92)]),
    Goal("whole layer", [of_peak(rows(Layer), 0.78), times_fastest(rows(Layer), 1.2)]),
    Goal("two threads, every prefill", [Target(any_prefill, attrgetter("two_threads"), "x one thread", 1.93)]),
    Goal(
        "call from C, one query, 16 keys",
        [Target(rows(Attention, lambda case: case == CALL), lambda row: 1e6 * row.beyond_work, " µs", most=1)],
    ),
    Goal("bf16, AMX, D=64, T=512", [times_pytorch(amx(512), 2.2)]),
    Goal("bf16, AMX, D=64, T=2,048", [times_pytorch(amx(2048), 2.5)]),
    Goal("bf16, AMX, D=128, T=1,024 and 4,096", [times_pytorch(amx(1024), 2.8), times_pytorch(amx(4096), 2.8)]),
    Goal("bf16, AMX, causal, T=512", [times_pytorch(amx(512, True), 3)]),
    Goal("bf16, AMX, T=32 to 128", [times_pytorch(amx(32), 1.5), times_pytorch(amx(64), 1.5), times_pytorch(amx(128), 1.5)]),
    Goal("f16, AMX, T=512", [times_pytorch(rows(Attention, lambda c: c.prefill, "amx", "f16"), 1.3)]),
    Goal("f32, AMX, precision high and medium, D=64", [of_highest("high", 1.6), of_highest("medium", 3.5)]),
    Goal("decode out of DRAM, bf16 and f16", [of_read(half_decode(dtype, True), 0.92) for dtype in ("bf16", "f16")]),
    Goal("decode repeated, 32:8 heads, bf16", [times_pytorch(half_decode("bf16", False), 2.5)]),
    Goal("projections, bf16, AMX", [times_pytorch(rows(Linear, lambda case: not case.cold, "amx", "bf16"), 1.05)]),
    Goal("whole layer, bf16, AMX", [times_pytorch(rows(Layer, isa="amx", dtype="bf16"), 1.35)]),
    Goal(
        "workspace up to head_dim 256",
        [
            Target(any_memory, attrgetter("mebibytes"), " MiB a worker", most=1),
            Target(any_memory, attrgetter("growth"), "x at 262,144 keys of that at 4,096", most=1),
        ],
    ),
]
