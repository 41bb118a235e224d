"""Runs commands: before everything else's eyes, or beside it with their output in a file."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from labkit.settings import REPOSITORY


def say(text):
    print(f"\n== {text} ({time.strftime('%H:%M:%S')})", flush=True)


def shown(command, limit_s=None, **environment):
    """Runs it and prints what it says as it comes; (exit status, its lines).

    After `limit_s` seconds, and if this is interrupted, it and what it started in its session is killed.
    """
    process = subprocess.Popen(
        [str(word) for word in command], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True, env={**os.environ, **environment},
    )
    late = []
    timer = threading.Timer(limit_s, lambda: (late.append(True), _kill_group(process))) if limit_s else None
    lines = []
    try:
        if timer:
            timer.start()
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line.rstrip("\n"))
        process.wait()
    finally:
        if timer:
            timer.cancel()
        if process.poll() is None:
            _kill_group(process)
            process.wait()
        process.stdout.close()
    if late:
        lines.append(f"no end in {limit_s} s: killed")
        print(lines[-1], flush=True)
    return process.returncode, lines


def _kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Beside:
    """A command that goes on beside the rest, only as far as that leaves the processor idle if `idle`."""

    def __init__(self, command, output, idle=False):
        self._output = pathlib.Path(output)
        self._begun = time.monotonic()
        self.minutes = None
        words = [*(["chrt", "--idle", "0"] if idle else []), *map(str, command)]
        with open(self._output, "w") as file:
            self._process = subprocess.Popen(
                words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        # the time it took, and not the time until somebody asks
        self._watch = threading.Thread(target=self._wait, daemon=True)
        self._watch.start()

    def _wait(self):
        self._process.wait()
        self.minutes = (time.monotonic() - self._begun) / 60

    def stop(self):
        """Ends it and what it started in its session."""
        if self._process.poll() is None:
            _kill_group(self._process)
        self._watch.join()

    def end(self):
        """Waits for its end, and shows what it printed; (exit status, its lines)."""
        self._watch.join()
        text = self._output.read_text(errors="replace")
        print(text, end="", flush=True)
        return self._process.returncode, text.splitlines()
