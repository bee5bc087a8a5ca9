"""Compare libmha with its peers."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from datetime import date
from pathlib import Path

# What caps the peers, before they are imported.
CAPS = {
    "avx2": {"MHA_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"MHA_ISA": "avx512"},
}  # fmt: skip
CLOSE = 1e-4  # how far apart outputs of the same work may be


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare", description=__doc__)
    parser.add_argument("--isa", choices=CAPS, help="cap all of them (ONNX Runtime cannot be)")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bench", type=Path, help="built with -Dbench=true; for percentages of this machine's limits")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="compare.json and compare.png")
    return parser.parse_args()


def host() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    arguments = parse_arguments()
    os.environ.update(CAPS.get(arguments.isa, {}))
    warnings.simplefilter("ignore")
    from comparison.report import Report
    from comparison.run import compare

    report = Report(host(), date.today().isoformat(), arguments.isa)
    compare(arguments, report, CLOSE)
    report.save(arguments.out)


if __name__ == "__main__":
    main()
