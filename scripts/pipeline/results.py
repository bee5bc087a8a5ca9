"""Results of single tests, read from what Meson, cmocka and pytest leave behind."""

import dataclasses
import json
import re
import xml.etree.ElementTree

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

CMOCKA_CASE = re.compile(r"^\[ +(OK|FAILED|SKIPPED) +\] (\S+)$", re.MULTILINE)
CMOCKA_REASON = re.compile(r"(.*?(?:\[   LINE   \] --- |Test failed with exception: )[^\n]*)\n", re.DOTALL)
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


def cmocka_cases(program, output, errors):
    """Results of the cases in a program's output.  cmocka reports elsewhere why cases failed, in their order."""
    outcomes = [(case, CMOCKA_OUTCOME[word]) for word, case in CMOCKA_CASE.findall(output)]
    reasons = CMOCKA_REASON.findall(errors)
    n_failed = sum(outcome == FAILED for _, outcome in outcomes)
    reason = iter(reasons if len(reasons) == n_failed else ["\n".join(reasons)] * n_failed)
    return [
        Result(f"{program}: {case}", outcome, next(reason) if outcome == FAILED else "") for case, outcome in outcomes
    ]


def of_meson(log):
    """Results and instruction sets in a testlog.json.  A program's cmocka cases count one by one; a program without any,
    and one that failed without a failed case (a crash, a time-out), as one failure more, unless it skipped itself."""
    results, isas = [], Isas()
    for line in log.read_text().splitlines():
        program = json.loads(line)
        output, errors = program.get("stdout") or "", program.get("stderr") or ""
        cases = cmocka_cases(program["name"], output, errors)
        outcome = MESON_OUTCOME.get(program["result"], FAILED)
        if outcome == SKIPPED:
            cases.append(Result(program["name"], SKIPPED))
        elif not cases or (outcome == FAILED and not any(case.outcome == FAILED for case in cases)):
            cases.append(Result(program["name"], FAILED, f"{output}\n{errors}\n{program['result']}"))
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
