"""Tests of what runs the tests: `python3 -m testkit.selftest`."""

import contextlib
import io
import multiprocessing
import os
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

from labkit import lab, platforms
from labkit.console import LabError
from labkit.report import FAILED, PASSED, REPEATED, Report
from labkit.scenarios import run as scenarios
from testkit import groups, machine, programs, remains, rust, turns

# Stands for a test program: names and lines as Rust's own harness has them.
_PROGRAM = """\
#!/bin/sh
cd {directory}
case "$1" in
--list) printf '%s: test\\n' a::good a::{name}; exit ;;
--exact) try=second; echo "$*" > exact; case "$*" in *a::good*) echo 'test a::good ... ok' ;; esac ;;
*) try=first; echo 'test a::good ... ok' ;;
esac
{body}
"""
_FAILS = """\
echo 'test a::{name} ... FAILED'
printf '\\nfailures:\\n\\n---- a::{name} stdout ----\\n\\n'
echo "thread 'a::{name}' (77) panicked at a.rs:7:9:"
echo "assertion failed on the $try try"
printf 'failures:\\n    a::{name}\\n\\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\\n'
exit 101
"""
_PASSES = """\
echo 'test a::{name} ... ok'
[ $try = second ] && count=1 || count=2
echo "test result: ok. $count passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
exit 0
"""


class Rust(unittest.TestCase):
    def results(self, body, name="other", limit_s=60, good=PASSED, **options):
        """What the report has of `a::NAME`, and what was asked for the second time."""
        with tempfile.TemporaryDirectory() as directory:
            program = pathlib.Path(directory, "program")
            program.write_text(_PROGRAM.format(directory=directory, name=name, body=body.format(name=name)))
            program.chmod(0o755)
            report = Report()
            with contextlib.redirect_stdout(io.StringIO()):
                rust.run_program(report, "unit", "p", str(program), limit_s, **options)
            exact = pathlib.Path(directory, "exact")
            asked = exact.read_text().split()[1:] if exact.exists() else None
        found = {result.name: result for result in report.results}
        self.assertEqual(set(found), {"p: a::good", f"p: a::{name}"})
        self.assertEqual(found["p: a::good"].verdict, good)
        return found[f"p: a::{name}"], asked

    def test_what_passes_is_not_repeated(self):
        result, asked = self.results(_PASSES)
        self.assertEqual((result.verdict, asked), (PASSED, None))

    def test_what_fails_twice_has_failed_with_the_last_reason(self):
        result, asked = self.results(_FAILS)
        self.assertEqual((result.verdict, asked), (FAILED, ["a::other"]))
        self.assertEqual(result.reason, "a.rs:7:9: assertion failed on the second try")

    def test_what_passes_the_second_time_is_said_to_be_repeated(self):
        result, asked = self.results("if [ $try = first ]; then\n" + _FAILS + "fi\n" + _PASSES)
        self.assertEqual((result.verdict, asked), (REPEATED, ["a::other"]))
        self.assertEqual(result.reason, "a.rs:7:9: assertion failed on the first try")

    def test_so_many_at_once_the_first_time_only(self):
        result, _ = self.results('if [ "$RUST_TEST_THREADS" = 7 ]; then\n' + _FAILS + "fi\n" + _PASSES, at_once=7)
        self.assertEqual(result.verdict, REPEATED)
        self.assertIn("on the first try", result.reason)

    def test_a_program_that_dies_costs_the_tests_without_a_result(self):
        result, asked = self.results("kill -9 $$")
        self.assertEqual((result.verdict, asked), (FAILED, ["a::other"]))
        self.assertIn("signal 9", result.reason)

    def test_a_program_that_dies_after_its_last_test_has_not_passed(self):
        result, asked = self.results(_PASSES.replace("exit 0", "kill -9 $$"), good=FAILED)
        self.assertEqual((result.verdict, asked), (FAILED, ["a::good", "a::other"]))

    def test_a_program_without_tests_has_failed(self):
        report = Report()
        rust.run_program(report, "unit", "p", "/bin/true")
        self.assertEqual([(result.name, result.reason) for result in report.results], [("p", "has no tests")])

    def test_what_is_left_of_a_program_is_not_waited_for(self):
        begun = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            status, lines = programs.shown(["sh", "-c", "sleep 1000 & echo said; exit 3"])
        self.assertEqual((status, lines), (3, ["said"]))
        self.assertLess(time.monotonic() - begun, 500)

    def test_a_program_that_does_not_end_is_ended(self):
        result, _ = self.results("if [ $try = first ]; then sleep 1000; fi\n" + _PASSES, limit_s=1)
        self.assertEqual(result.verdict, REPEATED)
        self.assertIn("no end in 1 s", result.reason)

    def test_what_is_ignored_has_not_passed(self):
        body = "echo 'test a::{name} ... ignored'\necho 'test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured'\n"
        result, _ = self.results(body)
        self.assertEqual(result.verdict, FAILED)

    def test_a_line_that_a_child_wrote_into_costs_nothing(self):
        body = "echo 'noise test a::{name} ... ok'\necho 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'\n"
        result, _ = self.results(body)
        self.assertEqual(result.verdict, PASSED)

    def test_every_test_program_is_of_one_group(self):
        unit, netns = groups._tests(unit=True), groups._tests(unit=False)
        self.assertIn("layering", unit)
        self.assertIn("agent", netns)
        known = re.findall(r'(?m)^\[\[test\]\]\nname = "(\w+)"', (groups.REPOSITORY / "Cargo.toml").read_text())
        self.assertEqual(sorted([*unit, *netns, "guest"]), sorted(known))


class Closing(unittest.TestCase):
    def test_what_failed_and_what_was_repeated_is_listed_and_counted(self):
        report = Report()
        report.add("unit", "one", PASSED)
        report.add("lab", "two", REPEATED, "a ping was lost\nat two.py:7")
        report.add("netns", "three", FAILED, "x" * 1000)
        lines = report.closing().splitlines()
        self.assertEqual(lines[:3], ["failed once, passed when repeated:", "  lab: two: a ping was lost", "failed:"])
        self.assertTrue(lines[3].startswith("  netns: three: xxx") and len(lines[3]) < 250, lines[3])
        self.assertEqual(lines[4:], ["2 passed, 1 failed"])

    def test_another_process_reads_it(self):
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/results"
            Report(path).add("lab", "one", PASSED)
            report = Report()
            report.read(path)
            report.read(f"{directory}/nothing")
        self.assertEqual([(result.name, result.verdict) for result in report.results], [("one", PASSED)])


class Groups(unittest.TestCase):
    def setUp(self):
        self.runner = groups.Runner(Report(), remains.Run("mark", tempfile.gettempdir(), 0, "", ""))

    def check(self, script, **options):
        with contextlib.redirect_stdout(io.StringIO()):
            self.runner.check("unit", "it", ["sh", "-c", script], **options)
        return [(result.verdict, result.reason) for result in self.runner.report.results]

    def test_a_check_that_fails_says_its_last_line(self):
        self.assertEqual(self.check("echo first; echo last; exit 1"), [(FAILED, "last")])

    def test_a_check_may_be_repeated(self):
        with tempfile.TemporaryDirectory() as directory:
            script = f"[ -e {directory}/there ] || {{ touch {directory}/there; echo not yet; exit 1; }}"
            self.assertEqual(self.check(script, repeat=True), [(REPEATED, "not yet")])

    def test_scenarios_without_a_result_have_failed(self):
        self.runner.report.add("lab", "attacks", PASSED)
        self.runner._not_run("no lab")
        found = {result.name: result.verdict for result in self.runner.report.results}
        self.assertEqual((found["attacks"], found["ipsec-key"]), (PASSED, FAILED))
        self.assertEqual(len(found), len(self.runner.report.results))

    def test_scenarios_without_a_result_are_run_once_more(self):
        asked = []

        def shown(command):
            asked.append(command[2:command.index("--results")])
            report = Report(command[command.index("--results") + 1])
            report.add("lab", "ipsec-key-ipv6", PASSED)
            if len(asked) == 1:
                return -9, ["lost"]
            for name in asked[1]:
                report.add("lab", name, FAILED if name == "attacks" else PASSED, "really")
            return 1, ["1 failed"]

        self.addCleanup(setattr, programs, "shown", programs.shown)
        programs.shown = shown
        with contextlib.redirect_stdout(io.StringIO()):
            self.runner.scenarios("a.deb")
        results = {result.name: result for result in self.runner.report.results}
        self.assertEqual(len(results), len(self.runner.report.results))
        self.assertEqual(asked[0], [])
        self.assertNotIn("ipsec-key-ipv6", asked[1])
        self.assertEqual(results["ipsec-key-ipv6"].verdict, PASSED)
        self.assertEqual((results["reach"].verdict, results["reach"].reason), (REPEATED, "no result the first time: lost"))
        self.assertEqual((results["attacks"].verdict, results["attacks"].reason), (FAILED, "really"))

    def test_a_mistake_costs_one_group(self):
        def broken():
            raise ValueError("a mistake")

        with contextlib.redirect_stderr(io.StringIO()):
            self.runner.attempt(broken)
        self.assertEqual(self.runner.report.results[0].reason, "ValueError: a mistake")


class Turns(unittest.TestCase):
    """Scenarios on platforms, over several runs."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.deb = self.directory / "a.deb"
        self.deb.write_text("one")
        self.platform = platforms.named("debian-13-incus")

    def record(self):
        return turns.Record(self.platform, self.deb, self.directory)

    def test_what_has_passed_is_not_run_again_and_what_failed_is(self):
        record = self.record()
        self.assertEqual(record.missing(), [one.name for one in scenarios.chosen([scenarios.WHOLE], self.platform)])
        report = Report(record.part)
        report.add("x", "reach", PASSED)
        report.add("x", "mtu", REPEATED, "once")
        report.add("x", "services", FAILED, "why")
        # killed here: the next one takes in what there is
        again = self.record()
        self.assertNotIn("reach", again.missing())
        self.assertNotIn("mtu", again.missing())
        self.assertIn("services", again.missing())
        self.assertEqual(again.reason("services"), "why")
        self.assertEqual([result.name for result in again.passed()], ["reach", "mtu"])
        self.assertRegex(again.line(), "^2 of ")
        self.assertFalse(record.part.exists())

    def test_another_package_begins_anew(self):
        record = self.record()
        Report(record.part).add("x", "reach", PASSED)
        record.take_in()
        self.assertNotIn("reach", self.record().missing())
        self.deb.write_text("two")
        self.assertIn("reach", self.record().missing())

    def test_every_scenario_is_in_every_run_or_in_the_long_one(self):
        every, long, known = ([one.name for one in scenarios.chosen(names)] for names in ([], [scenarios.LONG], [scenarios.WHOLE]))
        self.assertEqual(sorted([*every, *long]), sorted({*every, *long, *known}))
        self.assertIn("apply-network", every)
        self.assertIn("apply-killed", long)

    def test_a_name_picks_one_scenario_and_a_theme_those_of_usual_runs(self):
        def picked(name):
            return [one.name for one in scenarios.chosen([name])]

        self.assertEqual(picked("closed-restarts"), ["closed-restarts"])
        self.assertEqual(picked("closed-restarts-100"), ["closed-restarts-100"])
        self.assertIn("closed-restarts", picked("closed"))
        self.assertNotIn("closed-restarts-100", picked("closed"))
        self.assertRaises(LabError, picked, "ipsec-k")
        self.assertIn("reflector-stopped", picked("frr"))

    def test_scenarios_are_for_the_platforms_that_they_fit(self):
        alone, clustered = ({one.name for one in scenarios.chosen([], platforms.named(name))}
                            for name in ("debian-13-lxd", "debian-13-incus"))
        self.assertEqual(clustered - alone, {name for name in clustered if name.startswith("cluster-")})
        self.assertEqual(alone - clustered, {"move"})
        self.assertTrue(clustered - alone)
        with self.assertRaises(LabError):
            scenarios.chosen(["cluster"], platforms.DEFAULT)


# After that many seconds what a test waits for will not come.
HANGS_S = 60


# What the run of the tests starts and does not end: a shell with a child, and two others.
LEFT = ["sh", "sleep", "sleep", "sleep"]


def _programs(run):
    return sorted(words.split()[0] for _, words in remains._processes(run))


def _hold_lock(path, held, go):
    remains.LOCK = pathlib.Path(path)
    with remains.only_run("/another/tree") as (run, _):
        # one with the mark, one without an environment, one that has left the session; nobody waits for what they say
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["sleep", "1000"], **quiet)
        subprocess.Popen(["sh", "-c", "sleep 1000; :", run.temporary], env={"PATH": os.environ["PATH"]}, **quiet)
        subprocess.Popen(["setsid", "--fork", "sleep", "1000"], **quiet)
        pathlib.Path(run.temporary, "file").touch()
        # until the last of them is what it is to be
        deadline = time.monotonic() + HANGS_S
        while _programs(run) != LEFT and time.monotonic() < deadline:
            time.sleep(0.1)
        held.send(run)
        go.wait()


class Remains(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        for name, value in (("LOCK", pathlib.Path(self.directory.name, "lock")), ("_forget_dead_lab", lambda: [])):
            before = getattr(remains, name)
            setattr(remains, name, value)
            self.addCleanup(setattr, remains, name, before)
        for name in (remains.MARK, "TMPDIR"):
            before = os.environ.get(name)
            self.addCleanup(lambda name=name, before=before: os.environ.pop(name, None) if before is None
                            else os.environ.__setitem__(name, before))
        # a run that goes on has its directory in the usual place
        os.environ["TMPDIR"] = self.directory.name
        tempfile.tempdir = None
        self.addCleanup(setattr, tempfile, "tempdir", None)

    def other_run(self):
        held, end = multiprocessing.Pipe(duplex=False)
        go = multiprocessing.Event()
        process = multiprocessing.Process(target=_hold_lock, args=(remains.LOCK, end, go))
        process.start()
        self.addCleanup(process.kill)
        self.assertTrue(held.poll(HANGS_S), "the other run has not begun")
        return process, held.recv(), go

    def test_a_second_run_is_refused_while_the_first_goes_on(self):
        process, run, go = self.other_run()
        with self.assertRaisesRegex(remains.Busy, f"process {process.pid}, in /another/tree, since "):
            with remains.only_run("/a/tree"):
                self.fail("two runs at once")
        go.set()
        process.join()
        self.assertEqual(remains._processes(run), [])
        with remains.only_run("/a/tree") as (_, left):
            self.assertEqual(left, [])

    def test_what_a_killed_run_left_is_cleared_away(self):
        process, run, _ = self.other_run()
        process.kill()
        process.join()
        self.assertEqual(_programs(run), LEFT)
        unknown = pathlib.Path(self.directory.name, "lxmesh-tests.unknown")
        unknown.mkdir()
        with remains.only_run("/a/tree") as (mine, left):
            self.assertEqual(remains._processes(run), [])
            for path in (run.temporary, str(unknown)):
                self.assertFalse(os.path.exists(path))
                self.assertIn(path, left)
            self.assertEqual(os.environ["TMPDIR"], mine.temporary)
        self.assertFalse(os.path.exists(mine.temporary))


class OneLab(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        before = lab.LOCK_FILE
        lab.LOCK_FILE = pathlib.Path(directory.name, "lock")
        self.addCleanup(setattr, lab, "LOCK_FILE", before)
        held = os.environ.pop(lab.LOCK_HELD, None)
        if held:  # this runs below a run that has the lab
            self.addCleanup(os.environ.__setitem__, lab.LOCK_HELD, held)

    def try_in_another(self):
        """What another process says that wants to change the lab."""
        def want(answer):
            try:
                with lab.alone():
                    answer.send("alone")
            except LabError as error:
                answer.send(str(error))

        answer, end = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=want, args=(end,))
        process.start()
        process.join()
        return answer.recv()

    def test_what_the_holder_starts_may_change_the_lab_and_nobody_else(self):
        self.assertEqual(self.try_in_another(), "alone")
        with lab.alone():
            self.assertEqual(self.try_in_another(), "alone")
            token = os.environ.pop(lab.LOCK_HELD)
            self.assertRegex(self.try_in_another(), f"another command works on the lab .*process {os.getpid()}, ")
            os.environ[lab.LOCK_HELD] = token
        self.assertEqual(self.try_in_another(), "alone")


class Refusals(unittest.TestCase):
    def test_two_lines_say_what_the_machine_is(self):
        lines = machine.Machine().lines().splitlines()
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[0], r"\d cores, \d+ MiB of memory .*Linux")
        self.assertRegex(lines[1], r"KVM: .*GiB for the lab$")

    def test_too_little_memory_and_disk_are_told_with_figures(self):
        small = machine.Machine()
        small.available = 4000
        before = machine.Lab.is_up, machine._free_gib
        machine.Lab.is_up, machine._free_gib = (lambda _: False), (lambda _: 2)
        self.addCleanup(lambda: (setattr(machine.Lab, "is_up", before[0]), setattr(machine, "_free_gib", before[1])))
        told = " ".join(small.lacks(["lab"]))
        self.assertIn("6144 MiB of memory, and 4000 MiB are available", told)
        self.assertRegex(told, r"\d+ GiB of disk are needed, and 2 GiB are free")
        self.assertNotIn("memory", " ".join(small.lacks(["unit"])))


class Beside(unittest.TestCase):
    def test_it_is_shown_when_it_has_ended(self):
        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()) as shown:
            beside = programs.Beside(["sh", "-c", "echo said; exit 3"], f"{directory}/output")
            self.assertEqual(beside.end(), (3, ["said"]))
        self.assertEqual(shown.getvalue(), "said\n")
        self.assertGreater(beside.minutes, 0)


if __name__ == "__main__":
    unittest.main()
