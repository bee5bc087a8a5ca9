"""Runs programs, and Meson in particular, with their output in build/logs."""

import json
import os
import pathlib
import re
import shutil
import subprocess

from pipeline.results import FAILED, PASSED, Result, of_meson

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
LONGEST = 1800  # seconds that a program may take: one that hangs fails

GCC = {"CC": "gcc", "CXX": "g++"}
CLANG = {"CC": "clang-19", "CXX": "clang++-19"}


class Broken(Exception):
    """A program that had to succeed did not."""

    def __init__(self, what, output):
        super().__init__(what)
        self.output = output


def try_run(command, log, env=None, cwd=ROOT):
    """Runs a command, appends what it prints to the log, and returns (exit status, output)."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired as expired:
        printed = (expired.stdout or b"").decode(errors="replace")
        raise Broken(f"{command[0]}: no end after {LONGEST} s", printed) from None
    LOGS.mkdir(parents=True, exist_ok=True)
    with open(LOGS / f"{log}.log", "a") as file:
        file.write(f"$ {' '.join(map(str, command))}\n{done.stdout}\n")
    return done.returncode, done.stdout


def run(command, log, env=None, cwd=ROOT):
    status, output = try_run(command, log, env, cwd)
    if status != 0:
        raise Broken(f"{' '.join(map(str, command))}: exit status {status}", output)
    return output


def readme_example(language):
    """The source of the README's example in a language."""
    return re.search(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]


def configure(name, options, env, source=ROOT):
    """Sets up build/<name>, afresh if the options are not those it was set up with."""
    directory = BUILD / name
    wanted = json.dumps([options, env, str(source)])
    stamp = directory / "configured"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        run(["meson", "setup", directory, source, *options], name, env)
        stamp.write_text(wanted)
    return directory


def compile_only(name, options, env=GCC):
    """Builds with warnings as errors; the build is a result of its own."""
    directory = configure(name, ["--werror", *options], env)
    run(["meson", "compile", "-C", directory], name)
    return directory, Result(f"{name}: builds without a warning", PASSED)


def run_tests(directory, name, arguments=(), env=None):
    """Runs Meson's tests; returns results and instruction sets."""
    command = ["meson", "test", "-C", directory, "--no-rebuild", "--logbase", name, *arguments]
    status, output = try_run(command, name, {"CMOCKA_MESSAGE_OUTPUT": "STDOUT"} | (env or {}))
    log = re.search(r"^Full log written to (.+)\.txt$", output, re.MULTILINE)
    if not log:
        raise Broken("meson test ran nothing", output)
    results, isas = of_meson(pathlib.Path(log[1] + ".json"))
    if status != 0 and not any(result.outcome == FAILED for result in results):
        raise Broken(f"meson test: exit status {status}", output)
    return results, isas
