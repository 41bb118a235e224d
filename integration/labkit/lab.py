"""The lab as tests and the command line see it: `Lab().host("sup1").run([...])`."""

import concurrent.futures
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import sys

from labkit import image, platforms
from labkit.console import LabError, say, step
from labkit.native import Native
from labkit.remote import Host, Place
from labkit.settings import INSIDE, REPOSITORY, RUN, FleetPlan
from labkit.vm import Machine

FLEET_FILE = RUN / "fleet.json"
# Held by the one command that starts, changes or stops the lab, and by whoever wants several in a row to
# find the same lab. It outlives the lab's directory.
LOCK_FILE = RUN.with_name(RUN.name + ".lock")
# In the environment of what the holder starts: the first line of the file.
LOCK_HELD = "LXMESH_LAB_HELD"


@contextlib.contextmanager
def alone():
    """There is one lab on a computer, and one command at a time that changes it; what that one starts may, too."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root")
    with open(LOCK_FILE, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            token, _, holder = lock.read().partition("\n")
            if not token or os.environ.get(LOCK_HELD) != token:
                raise LabError(f"another command works on the lab of this computer: {holder or 'it has just begun'}; "
                               "wait for its end") from None
            yield
            return
        token = secrets.token_hex(8)
        lock.truncate(0)
        lock.write(f"{token}\nprocess {os.getpid()}, {shlex.join(map(os.path.basename, sys.argv))}, in {REPOSITORY}")
        lock.flush()
        os.environ[LOCK_HELD] = token
        try:
            yield
        finally:
            del os.environ[LOCK_HELD]
            lock.truncate(0)


class Lab:
    """The running lab, or the one to be started. Hosts are in `hosts`, by name order."""

    def __init__(self, plan=None, platform=platforms.DEFAULT):
        recorded = _recorded()
        self.native = bool(recorded and recorded["native"])
        self.platform = platforms.named(recorded.get("platform", platforms.DEFAULT.name)) if recorded else platform
        self.plan = FleetPlan(**recorded["plan"]) if recorded else (plan or FleetPlan())
        self._make_places()

    def _make_places(self):
        self.machine = Native() if self.native else Machine()
        self.hosts = [Host(host_plan, self._transport, self.platform) for host_plan in self.plan.hosts]
        # the machine around the hosts: kernel-wide settings, the underlay bridge
        self.outside = Place("lab machine", self._transport, [])

    @property
    def supervisors(self):
        return [host for host in self.hosts if host.role == "supervisor"]

    @property
    def reflectors(self):
        return [host for host in self.hosts if host.role == "reflector"]

    def host(self, name):
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r} in this lab; there are {', '.join(h.name for h in self.hosts)}")

    def is_up(self):
        return _recorded() is not None and self.machine.pid() is not None

    def is_of_this_tree(self):
        """The image that it runs is the one that this tree would make."""
        return _recorded().get("image") == image.directory(self.platform).name

    def each(self, hosts, action):
        """Runs action(host) for all hosts at the same time; {name: result}. All errors are told."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
            futures = {host.name: pool.submit(action, host) for host in hosts}
        errors = [f"{future.exception()}" for future in futures.values() if future.exception()]
        if len(errors) == 1:
            raise next(f.exception() for f in futures.values() if f.exception())
        if errors:
            raise LabError("\n".join(errors))
        return {name: future.result() for name, future in futures.items()}

    # -- life ----------------------------------------------------------------------------

    def refuse_if_impossible(self, native):
        """Says why a lab without a machine cannot be started here, before anything is changed."""
        if native and not self.is_up():
            Native().check()
        elif native and not self.native:
            raise LabError("the lab is up in its machine; `integration/lab down` first")

    def start(self, native=False):
        """Machine, hosts, LXD or Incus: everything but the product. Reuses what is up already."""
        if not self.is_up():
            if self.machine.pid() is not None:
                say("a machine is left of a start that did not come to its end; stopping it")
                self.machine.stop()
            self.native = native
            self._make_places()
            base = image.ensure(self.platform)
            self.machine.start(base)
            RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
            FLEET_FILE.write_text(json.dumps({
                "native": native,
                "image": base.directory.name,
                "platform": self.platform.name,
                "plan": {"supervisors": self.plan.supervisors, "reflectors": self.plan.reflectors},
            }))
        self.start_hosts()
        self.start_managers()

    def start_hosts(self):
        names = [f"{host.name}={host.address}" for host in self.hosts]
        with step(f"starting hosts {' '.join(host.name for host in self.hosts)}"):
            self.outside.run([f"{INSIDE}/lab-hosts", *names], timeout=60 + 60 * len(names))
        with step("checking the underlay between them"):
            # one round through everybody proves the bridge; BGP proves the rest
            for host, other in zip(self.hosts, self.hosts[1:] + self.hosts[:1]):
                host.wait_for(f"ping -q -c 1 -W 1 {other.address}", timeout=20)

    def start_managers(self):
        manager = self.platform.manager.name
        with step(f"starting {manager} on the supervisors and importing the container image"):
            if not self.platform.clustered:
                self.each(self.supervisors, lambda host: host.start_manager())
                return
            first, *others = self.supervisors
            first.start_manager()
            # one after the other: each changes who the cluster is
            for host in others:
                host.start_manager(joins=first)

    def stop(self, keep_logs=False):
        """Ends everything. With `keep_logs` the machine's console is copied to the cache first."""
        if keep_logs:
            self.machine.save_console()
        self.machine.stop()

    def _transport(self, words, terminal=False):
        if self.native:
            return words
        return [*self.machine.ssh_command(terminal), shlex.join(words)]


def _recorded():
    try:
        return json.loads(FLEET_FILE.read_text())
    except (OSError, ValueError):
        return None
