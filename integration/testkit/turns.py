"""Scenarios on several platforms: whose turn it is, and what has passed on each so far."""

import hashlib
import json
import pathlib
import subprocess
import time

from labkit import image, platforms
from labkit.report import PASSED, REPEATED, Report, Result
from labkit.scenarios import run as scenarios
from labkit.settings import REPOSITORY, cache_directory

_DAY_S = 24 * 60 * 60


def next_platform():
    """Of the platforms beside the lab's own, one after the other by the day of the last commit."""
    others = platforms.PLATFORMS[1:]
    second = _git("show", "--no-patch", "--format=%ct", "HEAD")
    return others[int(second or 0) // _DAY_S % len(others)]


class Record:
    """What has passed on a platform with one package, over several runs. Another package or image begins anew."""

    def __init__(self, platform, deb, directory=None):
        directory = directory or cache_directory()
        self.platform = platform
        self.path = directory / f"platform-{platform.name}.json"
        # where the run that goes on writes, so that one that is killed loses nothing
        self.part = directory / f"platform-{platform.name}.part.json"
        self.package = hashlib.sha256(pathlib.Path(deb).read_bytes()).hexdigest()
        self.image = image.directory(platform).name
        self.results = {}
        kept = _read(self.path)
        if (kept.get("package"), kept.get("image")) == (self.package, self.image):
            self.results = kept.get("results", {})
        else:
            self.part.unlink(missing_ok=True)
        self.take_in()

    def take_in(self):
        """What the run that went on has come to."""
        report = Report()
        report.read(self.part)
        now = {"commit": _git("describe", "--always", "--dirty", "--abbrev=12"), "date": time.strftime("%Y-%m-%d")}
        for result in report.results:
            self.results[result.name] = {"verdict": result.verdict, "reason": result.reason, **now}
        self.part.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"package": self.package, "image": self.image, "results": self.results}, indent=1))
        new.rename(self.path)

    def _wanted(self):
        return [one.name for one in scenarios.chosen([scenarios.WHOLE], self.platform)]

    def _has_passed(self, name):
        return self.results.get(name, {}).get("verdict") in (PASSED, REPEATED)

    def missing(self):
        """The names of those that have not passed yet, in order."""
        return [name for name in self._wanted() if not self._has_passed(name)]

    def passed(self):
        return [Result(self.platform.group, name, self.results[name]["verdict"], self.results[name]["reason"])
                for name in self._wanted() if self._has_passed(name)]

    def reason(self, name):
        return self.results.get(name, {}).get("reason") or "no result"

    def line(self):
        """How many have passed, on which commits and days, with which package."""
        passed = [self.results[name] for name in self._wanted() if self._has_passed(name)]
        commits = sorted({one["commit"] for one in passed})
        days = sorted({one["date"] for one in passed})
        return (f"{len(passed)} of {len(self._wanted())} scenarios have passed (commits {' '.join(commits) or 'none'}; "
                f"{' to '.join(days[:1] + days[1:][-1:]) or 'never'}; package {self.package[:12]})")


def _read(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _git(*words):
    done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True)
    return done.stdout.strip()
