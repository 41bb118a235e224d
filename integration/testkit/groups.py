"""Which tests there are, and how each group runs."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
import tomllib
import traceback

from labkit import requirements
from labkit.lab import Lab
from labkit.platforms import DEFAULT, PLATFORMS
from labkit.platforms import named as platform_named
from labkit.report import FAILED, PASSED, REPEATED
from labkit.scenarios import run as scenarios
from labkit.settings import REPOSITORY
from testkit import programs, remains, rust, turns

# group: what it has. `long` is run by name only, as are single scenarios (`integration/lab test NAME`).
GROUPS = {
    "unit": "format, lints, documents, plans from tables, properties, golden files, the NixOS module",
    "crates": "their licences, sources and maintenance (cargo deny)",
    "netns": "every kernel object, the agent as a process, FRR and networkd as readers, in network namespaces "
             "on the running kernel",
    "lab": "whole hosts with LXD, FRR, dnsmasq, strongSwan and networkd in a VM",
    "long": "by name only: the lab's long scenarios, a real guest, the tutorial, and the package in fresh Debian systems",
    "platforms": "by name only: all usual scenarios on those platforms, or on each; goes on where it was ended",
}
USUAL = ("unit", "crates", "netns", "lab")
# What a usual run has of one of the other platforms, by turns; of a cluster, some of its own scenarios besides.
OF_OTHERS = ("reach", "services", "repair-fdb", "repair-neighbours", "repair-ports", "repair-set-elements", "repair-rules", "repair-dhcp")
OF_CLUSTERS = ("cluster-listing", "cluster-move", "cluster-member-renamed")

PACKAGES = (
    "gcc libc6-dev iproute2 nftables conntrack dnsmasq-base frr frr-pythontools iputils-ping systemd dbus libcap2-bin procps "
    "charon-systemd strongswan-swanctl strongswan-pki libstrongswan-standard-plugins nix-bin"
).split()

# The one version that deny.toml is written for.
CARGO_DENY = "0.18.3"

# Rust tests that need nothing of the kernel, and what boots a machine. Every other test program of Cargo.toml is of `netns`.
_UNIT = re.compile(r"layering|host_.*|gen_golden|gen_write|gen_cli|gen_plan|gen_apply")
_LONG = "guest"
# They mostly wait, for the kernel, FRR and an agent: so many per core run at once.
_WAITING = 2
_LIBRARY = ("lib lxmesh", "bin lxmesh", "bin lxmesh-gen")
_PACKAGE_PARTS = ("build", "repeat", "lint", "install", "autopkgtest", "native")


class Runner:
    """Runs groups one after the other, whatever becomes of each; `minutes` says how long each took."""

    def __init__(self, report, run, named=()):
        self.report = report
        self.run = run
        self.minutes = {}
        # those of the group `platforms`
        self._platforms = [platform_named(name) for name in named] or PLATFORMS

    @contextlib.contextmanager
    def timed(self, what):
        begun = time.monotonic()
        try:
            yield
        finally:
            self.minutes[what] = self.minutes.get(what, 0) + (time.monotonic() - begun) / 60

    def output(self, name):
        return os.path.join(self.run.temporary, name)

    def check(self, group, name, command, repeat=True, **environment):
        """One command that is a test; its lines if it passed. What reads nothing but the tree is not repeated."""
        programs.say(f"{group}: {name}")
        status, lines = programs.shown(command, **environment)
        if status == 0:
            self.report.add(group, name, PASSED)
            return lines
        reason = _last(lines, status)
        if repeat:
            programs.say(f"{group}: {name}: once more")
            status, lines = programs.shown(command, **environment)
            if status == 0:
                self.report.add(group, name, REPEATED, reason)
                return lines
            reason = _last(lines, status)
        self.report.add(group, name, FAILED, reason)
        return None

    def attempt(self, group):
        """Runs a group; a mistake in here costs that group only, and is told."""
        try:
            group()
        except Exception:
            traceback.print_exc()
            self.report.add(group.__name__, "runs to its end", FAILED, traceback.format_exc().splitlines()[-1])

    # -- the groups ------------------------------------------------------------------------------

    def unit(self):
        with self.timed("unit"):
            self.check("unit", "format", ["cargo", "fmt", "--check"], repeat=False)
            lints = ["cargo", "clippy", "--locked", "--features", "test-hooks", "--all-targets", "--", "-D", "warnings"]
            self.check("unit", "lints", lints, repeat=False)
            self.check("unit", "documents", ["integration/docs-test"], repeat=False)
            self.check("unit", "the tutorial can be read", ["integration/tutorial", "--list"], repeat=False)
            self.check("unit", "the test runner", ["python3", "-m", "testkit.selftest"])
            tests = _tests(unit=True)
            rust.run(self.report, "unit", [*_LIBRARY, *tests])
            target = os.environ.get("CARGO_TARGET_DIR", "target")
            self.check("unit", "the NixOS module", ["integration/nix-test"], LXMESH_GEN=f"{target}/debug/lxmesh-gen")

    def netns(self):
        with self.timed("netns"):
            rust.run(self.report, "netns", _tests(unit=False), at_once=_WAITING * (os.cpu_count() or 1))

    def crates(self):
        with self.timed("crates"):
            self.check("crates", "cargo deny", CRATES)

    def lab(self):
        with self.timed("lab"):
            was_up = Lab().is_up()
            try:
                if deb := self._package("lab"):
                    if self.check("lab", "its machine and hosts start", START_LAB) is not None:
                        self.scenarios(deb)
                        return
                self._not_run("no lab")
            finally:
                if not was_up:
                    self.lab_down()

    def scenarios(self, deb, which=(), platform=DEFAULT):
        """The lab's scenarios with this package, in the lab that is up."""
        programs.say(f"{platform.group}: scenarios")
        reason = self._some_scenarios(deb, which, platform)
        if missing := self._without_result(which, platform):
            programs.say(f"{platform.group}: scenarios without a result once more")
            first = len(self.report.results)
            last = self._some_scenarios(deb, missing, platform)
            # a name stands for those that begin with it, too, and they may have a result already
            self.report.results[first:] = [one for one in self.report.results[first:] if one.name in {*missing, "preparation", "ends in order"}]
            self.report.repeated_since(first, f"no result the first time: {reason}")
            self._not_run(f"no result: {last}", which, platform)

    def _some_scenarios(self, deb, names, platform):
        """Runs them; the last thing that was said. What each came to is in the report."""
        handle, results = tempfile.mkstemp(dir=self.run.temporary)
        os.close(handle)
        os.unlink(results)
        before = self.report.failed
        status, lines = programs.shown(["integration/lab", "test", *names, "--results", results, "--deb", deb,
                                         "--platform", platform.name])
        self.report.read(results)
        reason = _last(lines, status)
        if status != 0 and self.report.failed == before and not self._without_result(names, platform):
            self.report.add(platform.group, "ends in order", FAILED, reason)
        return reason

    def _without_result(self, which, platform=DEFAULT):
        known = {result.name for result in self.report.results if result.group == platform.group}
        return [one.name for one in scenarios.chosen(list(which), platform) if one.name not in known]

    def _not_run(self, reason, which=(), platform=DEFAULT):
        """Scenarios of which nothing is known have failed."""
        for name in self._without_result(which, platform):
            self.report.add(platform.group, name, FAILED, reason)

    def _package(self, group):
        lines = self.check(group, "its package is built", BUILD_PACKAGE)
        return lines[-1] if lines else None

    def lab_down(self):
        programs.shown(["integration/lab", "down"])

    def platforms(self):
        """All usual scenarios on the named platforms, or on each: those that have not passed yet with this package."""
        if not (deb := self._package("platforms")):
            return
        for platform in self._platforms:
            with self.timed(platform.name):
                record = turns.Record(platform, deb)
                missing = record.missing()
                print(f"{platform.name}: {record.line()}; to be run: {', '.join(missing) or 'none'}", flush=True)
                if missing and self.check(platform.group, "its machine and hosts start", _start(platform)) is not None:
                    try:
                        command = ["integration/lab", "test", *missing, "--results", record.part, "--deb", deb, "--platform", platform.name]
                        status, lines = programs.shown(command)
                        record.take_in()
                        if status != 0 and not record.missing():
                            self.report.add(platform.group, "ends in order", FAILED, _last(lines, status))
                    finally:
                        self.lab_down()
                for name in record.missing():
                    self.report.add(platform.group, name, FAILED, record.reason(name))
                self.report.results += record.passed()
                print(f"{platform.name}: {record.line()}", flush=True)

    def other_platform(self, deb):
        """What a usual run has of another platform than the lab's own."""
        platform = turns.next_platform()
        which = [*OF_OTHERS, *(OF_CLUSTERS if platform.clustered else ())]
        with self.timed(platform.name):
            if self.check(platform.group, "its machine and hosts start", _start(platform)) is not None:
                self.scenarios(deb, which, platform)
            else:
                self._not_run("no lab", which, platform)

    def long(self):
        with self.timed("long"):
            deb = self._package("long")
            if deb and self.check("long", "the lab's machine and hosts start", START_LAB) is not None:
                try:
                    self.scenarios(deb, [scenarios.LONG])
                finally:
                    self.lab_down()
            else:
                self._not_run("no lab", [scenarios.LONG])
            self.check("long", "a real guest", ["integration/guest"])
            self.check("long", "the tutorial", ["integration/tutorial", *(["--deb", deb] if deb else [])])
            for part in _PACKAGE_PARTS:
                self.check("long", f"package-test {part}", ["integration/package-test", part])

    def usual(self):
        """All the usual groups. What mostly waits (the lab's machine and hosts starting) and what can wait (cargo
        deny, if it has to be built; the package for the lab) goes on beside the rest."""
        was_up = Lab().is_up()
        if was_up:
            print("the lab that is up is used, and stays up", flush=True)
        beside = {
            "lab": programs.Beside(START_LAB, self.output("lab")),
            "crates": programs.Beside(CRATES, self.output("crates"), idle=True),
        }
        try:
            self._usual(beside, was_up)
        except BaseException:
            for one in beside.values():
                one.stop()
            raise
        finally:
            if not was_up:
                self.lab_down()

    def _usual(self, beside, was_up):
        self.attempt(self.unit)
        beside["package"] = programs.Beside(BUILD_PACKAGE, self.output("package"), idle=True)
        self.attempt(self.netns)
        with self.timed("waiting for the package and the lab's start"):
            deb = self._ended("lab", "its package is built", beside["package"], BUILD_PACKAGE)
            up = self._ended("lab", "its machine and hosts start", beside["lab"], START_LAB)
        with self.timed("lab"):
            if deb is not None and up is not None:
                self.scenarios(deb[-1])
            else:
                self._not_run("no lab")
        if was_up:
            print(f"a lab was up before: nothing is run on {turns.next_platform().name}", flush=True)
        else:
            self.lab_down()
            if deb is not None:
                self.other_platform(deb[-1])
        self._ended("crates", "cargo deny", beside["crates"], CRATES)
        for name, one in beside.items():
            self.minutes[f"{name} (beside others)"] = one.minutes

    def _ended(self, group, name, beside, again):
        """What was begun beside the rest has ended: its lines if it passed, the second time with the command `again`."""
        programs.say(f"{group}: {name}")
        status, lines = beside.end()
        if status == 0:
            self.report.add(group, name, PASSED)
            return lines
        reason = _last(lines, status)
        programs.say(f"{group}: {name}: once more")
        status, lines = programs.shown(again)
        self.report.add(group, name, REPEATED if status == 0 else FAILED, reason if status == 0 else _last(lines, status))
        return lines if status == 0 else None


BUILD_PACKAGE = ["debian/build"]


def _start(platform):
    return ["integration/lab", "up", "--no-product", "--platform", platform.name]


START_LAB = _start(DEFAULT)
# The advisory database is not on the package registries; it is read where it can be had.
CRATES = ["sh", "-euc", f"""\
if ! cargo deny --version 2> /dev/null | grep -q {CARGO_DENY}; then
    made=${{CARGO_TARGET_DIR:-target}}/cargo-deny
    cargo install --quiet --locked --debug --target-dir "$made" cargo-deny --version {CARGO_DENY}
    rm -r "$made"
fi
cargo deny --all-features check -A duplicate licenses bans sources
"""]


def install_packages():
    """What the tests need and this machine lacks. Nothing of it starts a service here."""
    missing = [name for name in PACKAGES if not _installed(name)]
    if not missing:
        return
    made = not remains.POLICY.exists()
    if made:
        remains.POLICY.write_text(remains.POLICY_TEXT)
        remains.POLICY.chmod(0o755)
    try:
        requirements.install(missing)
    finally:
        if made:
            remains.POLICY.unlink()


def _installed(name):
    said = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", name], capture_output=True, text=True).stdout
    return said.endswith("ok installed")


def _tests(unit):
    """The test programs of Cargo.toml that are of `unit`, or of `netns`."""
    names = [test["name"] for test in tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["test"]]
    return [name for name in names if name != _LONG and bool(_UNIT.fullmatch(name)) == unit]


def _last(lines, status):
    """The last thing that it said, as the reason of its failure."""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else f"status {status}"
