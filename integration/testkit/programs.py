"""Runs commands: in sight, or beside it with their output in a file."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from labkit.settings import REPOSITORY

# What has ended may have left something to read; more than that is somebody else's.
_GRACE_S = 5


def say(text):
    print(f"\n== {text} ({time.strftime('%H:%M:%S')})", flush=True)


def shown(command, limit_s=None, **environment):
    """Runs it and prints what it says as it comes; (exit status, its lines).

    After `limit_s` seconds, and if this is interrupted, it and what else is in its session is killed; so is what
    is left of its session when it has ended and somebody there still holds its output.
    """
    process = subprocess.Popen(
        [str(word) for word in command], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True, env={**os.environ, **environment},
    )
    lines = []
    reader = threading.Thread(target=_show, args=(process.stdout, lines), daemon=True)
    reader.start()
    late = False
    try:
        process.wait(limit_s)
        reader.join(_GRACE_S)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        if process.poll() is None or reader.is_alive():
            _end_session(process.pid)
            process.wait()
            reader.join(_GRACE_S)
    lines = list(lines)
    if late:
        lines.append(f"no end in {limit_s} s: killed")
        print(lines[-1], flush=True)
    return process.returncode, lines


def _show(output, lines):
    with output:
        for line in output:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line.rstrip("\n"))


def _end_session(leader):
    """Kills all processes of a session that was made here: as long as one is in it, its number is nobody else's."""
    for directory in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # after the name, which may have anything in it: state, parent, group, session (proc_pid_stat(5))
            if int((directory / "stat").read_bytes().rpartition(b")")[2].split()[3]) == leader:
                os.kill(int(directory.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile
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
            _end_session(self._process.pid)
        self._watch.join()

    def end(self):
        """Waits for its end, and shows what it printed; (exit status, its lines)."""
        self._watch.join()
        text = self._output.read_text(errors="replace")
        print(text, end="", flush=True)
        return self._process.returncode, text.splitlines()
