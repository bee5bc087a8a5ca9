"""The results as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from comparison.cases import Attention, Case
from comparison.measure import Limits, Times


@dataclass
class Row:
    case: Case
    threads: int
    times: dict[str, Times]
    unable: dict[str, str]

    @property
    def decode(self) -> bool:
        return isinstance(self.case, Attention) and self.case.q_len == 1

    def ratio(self, peer: str) -> float:
        """How much faster libmha is."""
        return self.times[peer].minimum / self.times["libmha"].minimum


class Report:
    """Prints rows as they come."""

    def __init__(self, host: str, date: str, isa: str | None) -> None:
        self.host, self.date, self.isa = host, date, isa
        self.peers: dict[str, str] = {}
        self.rows: list[Row] = []
        self.limits: Limits | None = None

    def peer(self, name: str, version: str) -> None:
        self.peers[name] = version

    def begin(self, limits: Limits | None) -> None:
        self.limits = limits
        versions = ", ".join(f"{name} {version}" for name, version in self.peers.items())
        print(f"{self.host}, {self.date}{f', capped to {self.isa}' if self.isa else ''}: {versions}.")
        if limits:
            print(f"One core: {limits.flops / 1e9:.0f} GFLOP/s on registers, {limits.dram / 1e9:.1f} GB/s from DRAM.")
        names = [name for name in self.peers if name != "libmha"]
        print(f"\n| case | threads | libmha | of the limit | {' | '.join(f'x {name}' for name in names)} |")
        print(f"|---|---|---|---|{'---|' * len(names)}", flush=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        cells = [self.cell(row, name) for name in self.peers if name != "libmha"]
        print(f"| {row.case} | {row.threads} | {self.rate(row)} | {self.share(row)} | {' | '.join(cells)} |", flush=True)

    def cell(self, row: Row, name: str) -> str:
        return f"{row.ratio(name):.2f}" if name in row.times else "–"

    def rate(self, row: Row) -> str:
        seconds = row.times["libmha"].minimum
        if row.decode:
            return f"{row.case.kv_bytes / seconds / 1e9:.1f} GB/s"
        return f"{row.case.flops / seconds / 1e9:.0f} GFLOP/s"

    def share(self, row: Row) -> str:
        if self.limits is None or (row.decode and not row.case.cold):
            return ""
        seconds = row.times["libmha"].minimum
        if row.decode:  # whichever binds
            read = row.case.kv_bytes / seconds / self.limits.dram
            return f"{max(read, row.case.flops / seconds / self.limits.flops):.0%}"
        return f"{row.case.flops / seconds / self.limits.flops / row.threads:.0%}"

    def save(self, path: Path) -> None:
        rows = [
            {
                "case": str(row.case),
                "threads": row.threads,
                "seconds": {name: times._asdict() for name, times in row.times.items()},
                "unable": row.unable,
            }
            for row in self.rows
        ]
        limits = self.limits._asdict() if self.limits else None
        content = {"host": self.host, "date": self.date, "isa": self.isa, "peers": self.peers, "limits": limits}
        path.with_suffix(".json").write_text(json.dumps(content | {"rows": rows}, indent=1))
        self.draw(path.with_suffix(".png"))
        for name, why in sorted({(name, why) for row in self.rows for name, why in row.unable.items()}):
            print(f"\n{name} –: {why}", end="")
        print()

    def draw(self, path: Path) -> None:
        names = [name for name in self.peers if name != "libmha"]
        figure, axes = plt.subplots(figsize=(9, 1.2 + 0.34 * len(self.rows)), layout="constrained")
        for i, name in enumerate(names):
            points = [(row.ratio(name), y) for y, row in enumerate(self.rows) if name in row.times]
            if points:
                axes.scatter(*zip(*points), label=name, marker="osD^"[i % 4], zorder=3)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(range(len(self.rows)), [f"{row.case}, {row.threads} thr." for row in self.rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}x")
        axes.grid(axis="both", alpha=0.3)
        axes.set_xlabel("how many times as fast libmha is")
        axes.legend(loc="lower right", fontsize=8)
        figure.savefig(path, dpi=150)
