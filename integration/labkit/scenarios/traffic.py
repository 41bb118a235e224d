"""Pings every 100 ms in the background, and what became of them."""

import dataclasses
import re

from labkit.console import LabError

_REPLY = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=", re.M)
_SENT = re.compile(r"^(\d+) packets transmitted", re.M)


@dataclasses.dataclass(frozen=True)
class PingResult:
    flow: str
    sent: int
    lost: int
    gap_s: float  # longest time between two replies
    missing: str  # which, as ranges of sequence numbers

    def __str__(self):
        which = f" ({self.missing})" if self.lost else ""
        return f"{self.flow} lost {self.lost} of {self.sent}{which}, longest gap {self.gap_s:.1f} s"


class Pings:
    """One `ping -i 0.1` per flow (source guest, target address)."""

    def __init__(self, flows):
        self._flows = [(f"{source.label}→{target}", source, target) for source, target in flows]
        # without -O a late reply counts as a reply, which is what losing none means
        self._running = [source.place.net.start(["ping", "-n", "-D", "-i", "0.1", target]) for _, source, target in self._flows]
        self._heads = [""] * len(flows)

    def started(self):
        """Returns when every flow has had its first reply."""
        for index, background in enumerate(self._running):
            for line in background.lines():
                self._heads[index] += line
                if _REPLY.search(line):
                    break
            else:
                raise LabError(f"ping {self._flows[index][0]} ended: {self._heads[index]}")

    def stop(self):
        results = []
        for (flow, _, _), background, head in zip(self._flows, self._running, self._heads):
            results.append(_judge(flow, head + background.stop()))
        return results


def _judge(flow, text):
    replies = {int(sequence): float(when) for when, sequence in _REPLY.findall(text)}
    sent = int(found.group(1)) if (found := _SENT.search(text)) else 0
    # What comes before the first reply says how long it took to begin.
    first = min(replies, default=1)
    missing = sorted(set(range(first, sent + 1)) - set(replies))
    # The last one may have been on its way when ping was told to stop.
    if missing and missing == [sent]:
        missing, sent = [], sent - 1
    times = sorted(replies.values())
    gap = max((later - earlier for earlier, later in zip(times, times[1:])), default=0.0)
    return PingResult(flow, sent, len(missing), gap, _ranges(missing))


def _ranges(numbers):
    """1, 2, 3, 7 as "1-3 7"."""
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
