"""Runs stages, prints a line for each and the sum."""

import argparse
import collections
import sys
import time

from pipeline.build import LOGS, Broken
from pipeline.results import FAILED, PASSED, SKIPPED, Isas, Result
from pipeline.stages import LIGHT_STAGES, QUICK_STAGES, STAGES

SHOWN_LINES = 12  # of what a failed test printed


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/test", description="Runs the tests of libmha.")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK_STAGES)}, with fewer cases")
    extent.add_argument("--all", action="store_true", help="also those that need PyTorch, Transformers and ONNX")
    parser.add_argument("--list", action="store_true", help="print the stages and what they do")
    parser.add_argument("stages", nargs="*", metavar="stage", help="only these")
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}, expected some of {', '.join(STAGES)}")
    return arguments


def chosen(arguments):
    return arguments.stages or (QUICK_STAGES if arguments.quick else STAGES if arguments.all else LIGHT_STAGES)


def run_stage(name, quick):
    (LOGS / f"{name}.log").unlink(missing_ok=True)
    try:
        return STAGES[name](quick)
    except Broken as broken:
        return [Result(f"{name}: {broken}", FAILED, broken.output)], Isas()


def print_failure(result):
    lines = result.detail.strip().splitlines()
    print(f"  FAILED {result.name}")
    if len(lines) > SHOWN_LINES:
        print(f"    ... {len(lines) - SHOWN_LINES} lines more in build/logs")
    for line in lines[-SHOWN_LINES:]:
        print(f"    {line}")


def count(results):
    counts = collections.Counter(result.outcome for result in results)
    return ", ".join(f"{counts[outcome]:4} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))


def main():
    arguments = parse_arguments()
    if arguments.list:
        for name, stage in STAGES.items():
            print(f"{name:12} {stage.__doc__}")
        return 0

    LOGS.mkdir(parents=True, exist_ok=True)
    results, isas = [], Isas()
    for name in chosen(arguments):
        start = time.monotonic()
        print(f"{name:12}", end="", flush=True)
        stage_results, stage_isas = run_stage(name, arguments.quick)
        print(f"{count(stage_results)} {time.monotonic() - start:6.0f} s", flush=True)
        for result in stage_results:
            if result.outcome == FAILED:
                print_failure(result)
        results += stage_results
        isas.add(stage_isas)

    print(f"instruction sets exercised: {' '.join(sorted(isas.exercised)) or 'none'}")
    if isas.lacking - isas.exercised:
        print(f"skipped, because this CPU lacks them: {' '.join(sorted(isas.lacking - isas.exercised))}")
    print(" ".join(count(results).split()))
    return 1 if any(result.outcome == FAILED for result in results) else 0


sys.exit(main())
