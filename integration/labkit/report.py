"""What tests came to: each passed, passed when it was repeated, or failed. `closing` is how a run ends."""

import dataclasses
import json
import pathlib

PASSED, REPEATED, FAILED = "passed", "repeated", "failed"
# Of a reason, this much is told again at the end.
_REASON_LENGTH = 200


@dataclasses.dataclass(frozen=True)
class Result:
    group: str
    name: str
    verdict: str
    reason: str = ""  # of the first failure, or the last

    def line(self):
        reason = next((line.strip() for line in self.reason.splitlines() if line.strip()), "")
        if len(reason) > _REASON_LENGTH:
            reason = reason[:_REASON_LENGTH] + " …"
        return f"  {self.group}: {self.name}" + (f": {reason}" if reason else "")


class Report:
    """With a path, every result is written there at once: for another process, which `read`s it."""

    def __init__(self, path=None):
        self.results = []
        self._path = path

    def add(self, group, name, verdict, reason=""):
        self.results.append(Result(group, name, verdict, reason))
        if self._path:
            new = pathlib.Path(f"{self._path}.new")
            new.write_text(json.dumps([dataclasses.asdict(result) for result in self.results]))
            new.rename(self._path)

    def read(self, path):
        """Adds what another one wrote; nothing if it had nothing to write."""
        try:
            text = pathlib.Path(path).read_text()
        except FileNotFoundError:
            return
        self.results += [Result(**fields) for fields in json.loads(text)]

    def of(self, *verdicts):
        return [result for result in self.results if result.verdict in verdicts]

    def repeated_since(self, first, reason):
        """What passed from the result number `first` on had been tried before."""
        self.results[first:] = [
            dataclasses.replace(result, verdict=REPEATED, reason=reason) if result.verdict == PASSED else result
            for result in self.results[first:]
        ]

    @property
    def failed(self):
        return len(self.of(FAILED))

    def closing(self):
        """The lists of what failed and of what was repeated, and the last line: N passed, N failed."""
        lines = []
        for verdict, heading in ((REPEATED, "failed once, passed when repeated:"), (FAILED, "failed:")):
            if found := self.of(verdict):
                lines += [heading, *(result.line() for result in found)]
        return "\n".join([*lines, f"{len(self.of(PASSED, REPEATED))} passed, {self.failed} failed"])
