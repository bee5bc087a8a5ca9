"""The results as Markdown and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comparison.cases import CALL
from comparison.goals import GOALS
from comparison.measure import Times
from comparison.picture import draw
from comparison.results import PEAK, READ, Memory, Result, Row

DASH = "–"
NOTES = """
- GB/s: K and V, or the weights, each byte once.
- The limit is one core's: as many multiply-adds on registers (FMA), or a read of the same arrays from 16 places at a time
  (read), in turn with the case, since a shared machine gives more at one time than at another.
- Weights: libmha's are packed beforehand, and ONNX Runtime's if it does so; PyTorch takes them as they are in each call.
- Under peers: how many times as fast libmha is. All ratios are of the best run of each; runs take turns.
- PyTorch otherwise: nn.MultiheadAttention; in decode, the heads that share keys as rows of one head.
- Two threads: as fast as one, so many times. Of plain: of the rate of the same shape in [B,H,T,D] and not causal.
- avx2 on a CPU that has better: the peers are held to AVX2 as well, but for ONNX Runtime, which cannot be.
- From C: linear, and the rates and shares of decode out of caches. All else is called from Python.
""".strip()


def cell(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)


def table(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *lines])


@dataclass
class Report:
    host: str
    date: str
    threads: int
    versions: dict[str, str]
    peers: list[str]
    results: list[Result] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [result for result in self.results if isinstance(result, Row)]

    def add(self, result: Result) -> None:
        self.results.append(result)
        for row in self.rows:  # the peak is that of the whole run
            alike = (other for other in self.rows if (other.isa, other.case.dtype) == (row.isa, row.case.dtype))
            row.peak = max(other.case.flops / other.limits[PEAK].minimum for other in alike)

    def introduction(self) -> str:
        peaks = {row.isa: row.peak for row in self.rows if row.case.dtype == "f32"}
        limits = [f"at best {peak / 1e9:.0f} GFLOP/s on registers with {isa}" for isa, peak in peaks.items()]
        reads = (
            row.case.read_bytes / row.limits[READ].minimum for row in self.rows if getattr(row.case, "cold", False)
        )
        limits += [f"{read / 1e9:.1f} GB/s from DRAM" for read in sorted(reads)[-1:]]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.host}, {self.date}, {threads}: {versions}. One core: {', '.join(limits)}."

    def cells(self, row: Row) -> list[str]:
        peers = [cell(row.speedup(name), "{:.2f}") for name in self.peers]
        variants = [cell(row.two_threads, "{:.2f}"), cell(row.of_plain, "{:.0%}")]
        return [row.isa, str(row.case), rate(row), share(row), *peers, *variants]

    def markdown(self) -> str:
        heads = ["ISA", "case", "libmha", "of the limit", *self.peers, "two threads", "of plain"]
        cases = table(heads, [self.cells(row) for row in self.rows])
        reasons = sorted({(name, why) for row in self.rows for name, why in row.unable.items()})
        unable = [f"{name}: {', '.join(why for n, why in reasons if n == name)}" for name in dict(reasons)]
        goals = table(["goal", "reached", "wanted", ""], [list(goal.verdict(self.results)) for goal in GOALS])
        return "\n\n".join([self.introduction(), cases, f"{NOTES}\n- {DASH}: {'; '.join(unable)}.", goals]) + "\n"

    def save(self, path: Path) -> None:
        """path.json and path.png"""
        content = {"host": self.host, "date": self.date, "threads": self.threads, "versions": self.versions}
        content["rows"] = [as_json(row) for row in self.rows]
        content["memory"] = [asdict(result) for result in self.results if isinstance(result, Memory)]
        content["goals"] = [goal.verdict(self.results)._asdict() for goal in GOALS]
        path.with_suffix(".json").write_text(json.dumps(content, indent=1))
        draw(self.rows, self.peers, path.with_suffix(".png"))


def rate(row: Row) -> str:
    if row.case == CALL:
        return f"{1e6 * row.seconds:.2f} µs"
    if row.case.read_bytes:
        return f"{row.case.read_bytes / row.seconds / 1e9:.1f} GB/s"
    return f"{row.case.flops / row.seconds / 1e9:.0f} GFLOP/s"


def share(row: Row) -> str:
    """Of the limit that is nearer."""
    if row.case == CALL:
        return DASH
    if row.of_read is not None and row.of_read > row.of_peak:
        return f"{row.of_read:.0%} read"
    return f"{row.of_peak:.0%} FMA"


def as_json(row: Row) -> dict:
    def seconds(times: dict[str, Times]) -> dict:
        return {name: t._asdict() for name, t in times.items()}

    return {
        "case": str(row.case),
        "isa": row.isa,
        "threads": row.threads,
        "flop": row.case.flops,
        "read_bytes": row.case.read_bytes,
        "peak": row.peak,
        "seconds": {
            "libraries": seconds(row.libraries),
            "variants": seconds(row.variants),
            "limits": seconds(row.limits),
        },
        "unable": row.unable,
        "figures": row.figures,
    }
