"""One run at a time, and nothing left of it: neither of this one, nor of one that was killed.

Whatever a run starts has its mark in its environment, or is the child of what has, or, where tests clear the
environment and the parent is gone, has the run's temporary directory in its arguments. The file of the lock says what the run was that has it, or was the last to.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import signal
import tempfile
import time

from labkit.console import LabError
from labkit.lab import alone
from labkit.settings import RUN as LAB_RUN
from labkit.vm import Machine

LOCK = pathlib.Path("/run/lxmesh-tests.lock")
MARK = "LXMESH_TESTS"
_PREFIX = "lxmesh-tests."
# What keeps packages from starting services while it is there (policy-rc.d(8)).
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# Made by the tests of LXMesh, for as long as they install packages.\nexit 101\n"


class Busy(Exception):
    """Another run has the lock; the text says which."""


@dataclasses.dataclass(frozen=True)
class Run:
    mark: str
    temporary: str  # its directory for whatever tests make
    process: int
    tree: str
    since: str


@contextlib.contextmanager
def only_run(tree):
    """The only run of this computer: yields the Run, and what an earlier one had left, as texts."""
    with open(LOCK, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(_who(_read(lock))) from None
        earlier = _read(lock)
        left = _clear_away(earlier) if earlier else []
        left += _forget_policy() + _forget_directories() + _forget_dead_lab()
        now = time.strftime("%H:%M:%S")
        temporary = tempfile.mkdtemp(prefix=_PREFIX)
        # others than root get to their files there: agents and dnsmasq have users of their own
        os.chmod(temporary, 0o711)
        run = Run(f"{os.getpid()}-{pathlib.Path(temporary).suffix[1:]}", temporary, os.getpid(), str(tree), now)
        lock.truncate(0)
        json.dump(dataclasses.asdict(run), lock)
        lock.flush()
        os.environ[MARK] = run.mark
        os.environ["TMPDIR"] = temporary
        tempfile.tempdir = None
        try:
            yield run, left
        finally:
            _clear_away(run)
            _forget_policy()
            lock.truncate(0)


def _read(lock):
    lock.seek(0)
    try:
        return Run(**json.load(lock))
    except (ValueError, TypeError):
        return None


def _who(run):
    return f"process {run.process}, in {run.tree}, since {run.since}" if run else "it has just begun"


def _clear_away(run):
    """Ends what a run started, and removes what it made; what there was, as texts."""
    left = [f"process {pid}: {words}" for pid, words in _end_processes(run)]
    if pathlib.Path(run.temporary).exists():
        shutil.rmtree(run.temporary, ignore_errors=True)
        left.append(run.temporary)
    return left


def _end_processes(run):
    """Kills every process of the run but this one: [(pid, command line)]."""
    ended = []
    deadline = time.monotonic() + 20
    # more than once: one that is being ended may have started another
    while found := _processes(run):
        for pid, words in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if (pid, words) not in ended:
                ended.append((pid, words))
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return ended


def _processes(run):
    """Those with the run's marks, and what they have started."""
    mark, temporary = f"{MARK}={run.mark}".encode(), run.temporary.encode()
    lines, children, found = {}, {}, set()
    for directory in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            pid, words = int(directory.name), (directory / "cmdline").read_bytes()
            parent = int((directory / "stat").read_bytes().rpartition(b")")[2].split()[1])
            # Somebody may look at a file of the run: only what has lost its parent is known by its arguments.
            marked = mark in (directory / "environ").read_bytes().split(b"\0") or temporary in words and _adopts(parent)
        except OSError:  # it has ended meanwhile
            continue
        # one that has ended and is not waited for has no command line
        if words and pid != os.getpid():
            lines[pid] = words.replace(b"\0", b" ").decode(errors="replace").strip()[:120]
            children.setdefault(parent, []).append(pid)
            if marked:
                found.add(pid)
    if run.process == os.getpid():
        found.update(children.get(run.process, []))
    waiting = list(found)
    while waiting:
        more = [pid for pid in children.get(waiting.pop(), []) if pid not in found]
        found.update(more)
        waiting += more
    return [(pid, lines[pid]) for pid in sorted(found)]


def _forget_policy():
    with contextlib.suppress(OSError):
        if POLICY.read_text() == POLICY_TEXT:
            POLICY.unlink()
            return [str(POLICY)]
    return []


def _adopts(pid):
    """A process that takes those over whose parent has ended: the first one, or a service manager."""
    try:
        return pid == 1 or pathlib.Path(f"/proc/{pid}/comm").read_bytes() == b"systemd\n"
    except OSError:
        return False


def _forget_directories():
    """Removes what runs made of which nothing else is known, as after a reboot."""
    left = [path for path in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*") if path.is_dir() and path.stat().st_uid == 0]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return list(map(str, left))


def _forget_dead_lab():
    """Removes the state of a lab whose machine is gone, unless somebody works on it."""
    machine = Machine()
    with contextlib.suppress(LabError), alone():
        if LAB_RUN.exists() and not (LAB_RUN / "native").exists() and machine.pid() is None:
            machine.stop()
            return [f"the state of a lab that is gone: {LAB_RUN}"]
    return []
