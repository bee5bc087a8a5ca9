"""The results as a picture: shares of the limit, and times as fast as the peers."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from comparison.results import Row

FMA, READ = "tab:gray", "tab:olive"


def draw_shares(axes: Axes, rows: list[Row]) -> None:
    for name, color, shares in (
        ("of multiply-adds on registers", FMA, [row.of_peak for row in rows]),
        ("of a read", READ, [row.of_read for row in rows]),
    ):
        points = [(y, share) for y, share in enumerate(shares) if share is not None]
        height = 0.8 if color == FMA else 0.3
        axes.barh(*zip(*points) if points else ([], []), height, color=color, label=name)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_xlabel("share of one core's limit")


def draw_speedups(axes: Axes, rows: list[Row], peers: list[str]) -> None:
    for i, name in enumerate(peers):
        points = [(row.speedup(name), y) for y, row in enumerate(rows) if name in row.libraries]
        if points:
            axes.scatter(*zip(*points), label=name, marker="osD^"[i % 4], zorder=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel("how many times as fast as a peer")


def draw(rows: list[Row], peers: list[str], path: Path) -> None:
    figure, (shares, speedups) = plt.subplots(
        1, 2, figsize=(13, 1.8 + 0.3 * len(rows)), sharey=True, layout="constrained", width_ratios=[2, 3]
    )
    draw_shares(shares, rows)
    draw_speedups(speedups, rows, peers)
    shares.set_yticks(range(len(rows)), [f"{row.case}  ({row.isa})" for row in rows], fontsize=8)
    shares.invert_yaxis()
    shares.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (shares, speedups):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
