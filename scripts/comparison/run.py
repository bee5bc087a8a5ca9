"""Runs the cases on libmha and its peers."""

from __future__ import annotations

import argparse

import mha
import numpy as np

from comparison import measure
from comparison.cases import CASES, Attention, Case
from comparison.peers import PEERS, Unable
from comparison.report import Report, Row


def load_peers(report: Report) -> list:
    peers = []
    for peer in PEERS:
        try:
            peers.append(peer())
            report.peer(peer.name, peers[-1].version)
        except ImportError as error:
            report.peer(peer.name, f"missing: {error}")
    return peers


def prepare(case: Case, peers: list, threads: int, dram_bytes: float, close: float) -> tuple[dict, dict]:
    """Runners by name, and why others have none.  All compute the same."""
    arrays = case.arrays(dram_bytes) if isinstance(case, Attention) else case.arrays()
    runners, unable, wanted = {}, {}, None
    for peer in peers:
        try:
            function = peer.attention if isinstance(case, Attention) else peer.layer
            calls = function(case, arrays, threads)
        except Unable as error:
            unable[peer.name] = str(error)
            continue
        got = np.asarray(calls[0]())
        wanted = got.copy() if wanted is None else wanted
        if not np.allclose(got, wanted, rtol=close, atol=close):
            raise SystemExit(f"{peer.name} computes something else: {case}, off by {np.abs(got - wanted).max():.1e}")
        runners[peer.name] = measure.Runner(calls)
    return runners, unable


def compare(arguments: argparse.Namespace, report: Report, close: float) -> None:
    peers = load_peers(report)
    limits = measure.limits(arguments.bench, arguments.isa or mha.cpu_info()["isa"]) if arguments.bench else None
    dram_bytes = limits.dram_bytes if limits else 1 << 30
    report.begin(limits)
    for threads in arguments.threads:
        for case in CASES:
            if arguments.only not in str(case):
                continue
            runners, unable = prepare(case, peers, threads, dram_bytes, close)
            report.add(Row(case, threads, measure.take_turns(runners, arguments.rounds), unable))
