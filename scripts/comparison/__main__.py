"""Compare libmha with its peers and with the limits of one core."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path

import mha

from comparison.cases import CASES, HALF, PREFILL
from comparison.peers import PEERS, Libmha
from comparison.report import Report
from comparison.results import Result, Row
from comparison.run import measure


BF16_ISAS = ("avx512bf16", "amx", "neonbf16")  # what is f32 they leave to others


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare", description=__doc__)
    isas = [isa for isa, here in mha.cpu_info()["isas"].items() if here]
    parser.add_argument("--isa", choices=isas, help="only this; avx2 caps the peers too, but for ONNX Runtime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=40, help="of a case, in which all take turns")
    parser.add_argument("--seconds", type=float, default=6, help="for the rounds of a case; 10 are run in any case")
    parser.add_argument("--instruments", type=Path, required=True, help="libinstruments.so, built with -Dbench=true")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="compare.json and compare.png")
    return parser.parse_args()


def host() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    packages = {library.package: library.name for library in reversed([Libmha, *PEERS])}
    installed = {package.metadata["Name"]: package.version.split("+")[0] for package in metadata.distributions()}
    return {name: installed[package] for package, name in reversed(packages.items()) if package in installed}


def results(arguments: argparse.Namespace) -> Iterator[Result]:
    """All cases on the best instruction set, those of f32 on the best that is not of bf16, and prefill on AVX2 where there
    is better."""
    cases = [case for case in CASES if arguments.only in str(case)]
    if arguments.isa:
        yield from measure(arguments, arguments.isa, False, cases)
        return
    floats = [isa for isa, here in mha.cpu_info()["isas"].items() if here and isa not in BF16_ISAS][-1]
    yield from measure(arguments, floats, False, [case for case in cases if case not in HALF])
    yield from measure(arguments, mha.cpu_info()["isa"], False, [case for case in cases if case in HALF])
    if floats == "avx512":
        yield from measure(arguments, "avx2", True, [case for case in cases if case in PREFILL])


def main() -> None:
    arguments = parse_arguments()
    report = Report(host(), date.today().isoformat(), arguments.threads, versions(), [peer.name for peer in PEERS])
    try:
        for result in results(arguments):
            report.add(result)
            if isinstance(result, Row):
                print(*report.cells(result), sep="; ", file=sys.stderr, flush=True)
    finally:  # what there is, if the run is broken off
        if report.rows:
            report.save(arguments.out)
            print(report.markdown(), end="")


if __name__ == "__main__":
    main()
