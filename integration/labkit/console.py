"""What the lab says while it works: one line per step, with the time it took."""

import contextlib
import sys
import time


class LabError(Exception):
    """Something the lab attempted failed; the text is for a person, and says where to look."""


@contextlib.contextmanager
def step(text):
    """Announces a step, then how long it took. Yields a function that adds a remark."""
    remarks = []
    started = time.monotonic()
    print(f"lab: {text} ...", file=sys.stderr, flush=True)
    try:
        yield remarks.append
    except BaseException:
        took = time.monotonic() - started
        print(f"lab: {text} FAILED after {took:.1f} s", file=sys.stderr, flush=True)
        raise
    took = time.monotonic() - started
    remark = f" ({', '.join(remarks)})" if remarks else ""
    print(f"lab: {text}: {took:.1f} s{remark}", file=sys.stderr, flush=True)


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def table(rows):
    """Left-aligned columns; the first row is the heading."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        lines.append("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
    return "\n".join(lines)
