"""Results of single tests, read from what Meson, cmocka and pytest leave behind."""

import dataclasses
import json
import re
import xml.etree.ElementTree

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

CMOCKA_CASE = re.compile(r"^\[ +(OK|FAILED|SKIPPED) +\] (\S+)$", re.MULTILINE)
CMOCKA_OUTCOME = {"OK": PASSED, "FAILED": FAILED, "SKIPPED": SKIPPED}
MESON_OUTCOME = {"OK": PASSED, "EXPECTEDFAIL": PASSED, "SKIP": SKIPPED}
ISAS = re.compile(r"^# isas exercised: (.*); skipped: (.*)$", re.MULTILINE)


@dataclasses.dataclass
class Result:
    name: str
    outcome: str
    detail: str = ""


@dataclasses.dataclass
class Isas:
    """Instruction sets whose kernels ran, and those the CPU lacks."""

    exercised: set = dataclasses.field(default_factory=set)
    lacking: set = dataclasses.field(default_factory=set)

    def add(self, other):
        self.exercised |= other.exercised
        self.lacking |= other.lacking


def check(name, holds, detail=""):
    return Result(name, PASSED if holds else FAILED, "" if holds else detail)


def of_meson(log):
    """Results and instruction sets in a testlog.json.  A program's cmocka cases count one by one; a program without any
    counts as one, and one that failed without a failed case (a crash, a time-out) as one failure more."""
    results, isas = [], Isas()
    for line in log.read_text().splitlines():
        program = json.loads(line)
        output = program.get("stdout") or ""
        cases = [
            Result(f"{program['name']}: {case}", CMOCKA_OUTCOME[outcome], output)
            for outcome, case in CMOCKA_CASE.findall(output)
        ]
        outcome = MESON_OUTCOME.get(program["result"], FAILED)
        if not cases or (outcome == FAILED and not any(case.outcome == FAILED for case in cases)):
            text = f"{program['result']}\n{output}\n{program.get('stderr') or ''}"
            cases.append(Result(program["name"], outcome, text))
        results += cases
        for exercised, lacking in ISAS.findall(output):
            isas.add(Isas(set(exercised.split()) - {"none"}, set(lacking.split()) - {"none"}))
    return results, isas


def of_pytest(log):
    results = []
    for case in xml.etree.ElementTree.parse(log).iter("testcase"):
        children = {child.tag: child for child in case}
        bad = children.get("failure", children.get("error"))
        outcome = FAILED if bad is not None else SKIPPED if "skipped" in children else PASSED
        detail = "" if bad is None else bad.text or ""
        results.append(Result(f"{case.get('classname')}.{case.get('name')}", outcome, detail))
    return results
