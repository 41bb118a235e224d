"""The Rust tests: each program that cargo makes of them is run, and what it says is read.

A test counts as passed only if its program says so. Whatever else happens, a panic, a death of the whole
program, an end that does not come, leaves tests without that word; those are run once more, by name.
"""

import json
import re
import subprocess

from labkit.report import FAILED, PASSED, REPEATED
from labkit.settings import REPOSITORY
from testkit import programs

CARGO = ["cargo", "test", "--locked", "--features", "test-hooks"]
# Ends a program that hangs; it measures nothing.
LIMIT_S = 1800

_RESULT = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (\w+)")
_PANIC = re.compile(r"^thread '.*' (?:\(\d+\) )?panicked at ")


def run(report, group, names, at_once=None):
    """Builds and runs test programs, each named as `selection` takes it; so many of a program's tests at once, or as many
    as there are cores."""
    programs.say(f"{group}: compiling the tests")
    executables = _build([word for name in names for word in selection(name)])
    for name in names:
        if name not in executables:
            # one that does not compile keeps cargo from compiling others
            executables |= _build(selection(name))
        if name not in executables:
            report.add(group, name, FAILED, "does not compile")
            continue
        programs.say(f"{group}: {name}")
        run_program(report, group, name, executables[name], at_once=at_once)


def selection(name):
    """Cargo's arguments for one program: NAME is an integration test's, `lib NAME` and `bin NAME` have unit tests."""
    kind, _, target = name.rpartition(" ")
    return {"lib": ["--lib"], "bin": ["--bin", target], "": ["--test", target]}[kind]


def _build(words):
    """{name: path} of the programs that cargo made; without some, if one cannot be compiled."""
    command = [*CARGO, "--no-run", "--message-format", "json-render-diagnostics", *words]
    done = subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    found = {}
    for line in filter(lambda line: line.startswith("{"), done.stdout.splitlines()):
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            target = message["target"]
            kind = target["kind"][0]
            found[target["name"] if kind == "test" else f"{kind} {target['name']}"] = message["executable"]
    return found


def run_program(report, group, name, executable, limit_s=LIMIT_S, at_once=None):
    """Runs all tests of one program, and once more, as many as there are cores at once, those that did not pass."""
    environment = {"CARGO_MANIFEST_DIR": str(REPOSITORY)}
    first_time = {**environment, **({"RUST_TEST_THREADS": str(at_once)} if at_once else {})}
    listed = subprocess.run([executable, "--list", "--format", "terse"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    tests = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]
    if listed.returncode != 0:
        report.add(group, name, FAILED, f"its tests cannot be listed: status {listed.returncode}")
        return
    if not tests:
        report.add(group, name, FAILED, "has no tests")
        return
    status, lines = programs.shown([executable], limit_s, **first_time)
    suspects = without_success(tests, status, lines)
    for test in tests:
        if test not in suspects:
            report.add(group, f"{name}: {test}", PASSED)
    if not suspects:
        return
    first = reasons(lines, status)
    programs.say(f"{group}: {name}: {len(suspects)} once more")
    status, lines = programs.shown([executable, "--exact", *suspects], limit_s, **environment)
    still = without_success(suspects, status, lines)
    second = reasons(lines, status)
    for test in suspects:
        if test in still:
            report.add(group, f"{name}: {test}", FAILED, second(test))
        else:
            report.add(group, f"{name}: {test}", REPEATED, first(test))


def without_success(tests, status, lines):
    """Those of the tests of which the program did not say that they passed; all, if it said so and ended badly."""
    passed = {found.group(1) for line in lines if (found := _RESULT.match(line)) and found.group(2) == "ok"}
    ended = re.search(r"(?m)^test result: ok\. (\d+) passed; 0 failed; 0 ignored;", "\n".join(lines))
    # a line of a test's child may have got into one of these; the sum is still the program's word
    if status == 0 and ended and int(ended.group(1)) == len(tests):
        return []
    return [test for test in tests if test not in passed] or (tests if status != 0 else [])


def reasons(lines, status):
    """A function from a test's name to the beginning of what it panicked with."""
    found, test = {}, None
    for number, line in enumerate(lines):
        if begun := re.match(r"^---- (\S+) stdout ----$", line):
            test = begun.group(1)
        elif _PANIC.match(line) and test and test not in found:
            place = line.partition("panicked at ")[2]
            found[test] = " ".join([place, *lines[number + 1:number + 2]])
    if lines and lines[-1].startswith("no end in "):
        missing = f"no result: {lines[-1]}"
    elif status < 0:
        missing = f"no result: the program ended by signal {-status}"
    else:
        missing = f"no result, or ignored: the program ended with status {status}"
    return lambda name: found.get(name, missing)
