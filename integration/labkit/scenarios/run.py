"""Runs the scenarios, one line each, with the evidence of each failure."""

import time
import traceback

from labkit import platforms
from labkit.console import LabError
from labkit.report import FAILED, PASSED, REPEATED, Report
from labkit.scenarios.registry import Failure, all_scenarios
from labkit.scenarios.scene import Scene

_JOURNAL_LINES = 40
LONG = "long"
# All but those that run only when they are named.
WHOLE = "whole"


def chosen(names, platform=platforms.DEFAULT):
    """The scenarios of those names, or of themes (a name's beginning); without names those of every run; with
    the name `long` all others, with `whole` those of every run and the seldom ones. Of all these, those that fit the platform."""
    known = [one for one in all_scenarios() if one.fits(platform)]
    if not names:
        return [one for one in known if one.usual and not one.seldom]
    if names == [LONG]:
        return [one for one in known if not one.usual or one.seldom]
    if names == [WHOLE]:
        return [one for one in known if one.usual]
    picked = []
    for name in names:
        found = [one for one in known if one.name == name]
        found = found or [one for one in known if one.usual and (one.name.startswith(name + "-") or _theme(one) == name)]
        if not found:
            raise LabError(f"no scenario {name!r} on {platform.name}; `integration/lab test --list` names them")
        picked += found
    return [one for one in known if one in picked]


def listing():
    """[(name, what it shows)] in the order of the run."""
    def text(one):
        when = " (only by name)" if not one.usual else " (not in every run)" if one.seldom else ""
        return one.text + when + (f" (needs {one.needs})" if one.needs else "")

    return [(one.name, text(one)) for one in all_scenarios()]


def _theme(one):
    return one.run.__module__.rpartition(".")[2]


def run(lab, scenarios, results=None):
    """Runs them all; returns the Report, which is in the file `results`, too."""
    begun = time.monotonic()
    report = Report(results)
    group = lab.platform.group
    scene = Scene(lab)
    error, took = _attempt(scene, lambda: scene.prepare())
    if error:
        _tell(scene, "preparation", "FAIL", took, error)
        first = error
        error, took = _attempt(scene, lambda: scene.prepare())
        if not error:
            report.add(group, "preparation", REPEATED, first)
    if error:
        # without what all build on, none of them can run
        _tell(scene, "preparation", "FAILED TWICE", took, error)
        for one in scenarios:
            report.add(group, one.name, FAILED, f"not run: preparation: {error}")
        scenarios = []
    else:
        print(f"  .. prepared in {took:.1f} s", flush=True)
    suspects = []
    for index, one in enumerate(scenarios):
        scene.notes.clear()
        last_of_theme = scenarios[index + 1:index + 2] == [] or _theme(scenarios[index + 1]) != _theme(one)
        error, took = _attempt(scene, lambda: _one(scene, one, last_of_theme))
        if error:
            suspects.append((one, error))
            _tell(scene, one.name, "FAIL", took, error)
            _restore(scene)
        else:
            report.add(group, one.name, PASSED)
            _tell(scene, one.name, "ok", took)
    # An emulated machine that others make slow loses a packet now and then. What fails is tried
    # once more, in plain sight; what fails twice has failed.
    for one, first in suspects:
        scene.notes.clear()
        error, took = _attempt(scene, lambda: _one(scene, one, True))
        if error:
            report.add(group, one.name, FAILED, error)
            _tell(scene, one.name, "FAILED TWICE", took, error)
            _restore(scene)
        else:
            report.add(group, one.name, REPEATED, first)
            _tell(scene, one.name, "ok at the second try", took)
    error, took = _attempt(scene, scene.finish)
    if error:
        print(f"  .. not everything could be removed afterwards: {error}", flush=True)
    print(f"  .. {time.monotonic() - begun:.0f} s in all", flush=True)
    return report


def _one(scene, one, last_of_theme):
    one.run(scene)
    if last_of_theme:
        scene.end_theme()
    # after every test the hosts are in step, and a pass would do nothing
    scene.calm()


def _attempt(scene, action):
    """Runs it; returns (text of what went wrong or None, seconds)."""
    begun = time.monotonic()
    try:
        if not scene.cursors:
            scene.mark_journals()
        action()
        error = None
    except (Failure, LabError) as problem:
        error = f"{problem}\n{_where(problem)}"
    except Exception:
        error = traceback.format_exc()
    return error, time.monotonic() - begun


def _where(problem):
    """The lines of the test that failed."""
    frames = traceback.extract_tb(problem.__traceback__)
    return "\n".join(f"  at {frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.line}" for frame in frames[2:5])


def _tell(scene, name, verdict, took, error=None):
    print(f"{verdict:4} {name}  {took:.1f} s", flush=True)
    for note in scene.notes:
        print(f"       {note}", flush=True)
    if error:
        print("     " + error.rstrip().replace("\n", "\n     "), flush=True)
        for host in scene.sups:
            print(f"     -- {host.name}: agent's journal", flush=True)
            try:
                text = scene.journal(host, _JOURNAL_LINES)
            except LabError as problem:
                text = str(problem)
            print("       " + text.rstrip().replace("\n", "\n       "), flush=True)
    scene.cursors.clear()


def _restore(scene):
    """Makes the hosts fit for the next test; if that fails too, the next test will say so."""
    try:
        scene.tidy()
        scene.end_theme()
        for guest in scene.everyone:
            scene.dressed(guest)
        scene.calm()
    except Exception as problem:
        print(f"     -- the hosts did not recover: {problem!r}", flush=True)
