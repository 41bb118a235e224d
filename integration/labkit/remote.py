"""Running commands on the lab's hosts and in their containers.

Every command goes over one shared ssh connection and enters the target's namespaces
directly, which costs tens of milliseconds where a transient unit costs a second.
"""

import contextlib
import json
import shlex
import subprocess
import threading
import time

from labkit.console import LabError
from labkit.settings import INSIDE

DEFAULT_TIMEOUT_S = 120


class CommandFailed(LabError):
    """A command on a host ended with a status other than 0."""

    def __init__(self, where, command, result):
        self.result = result
        super().__init__(
            f"{where}: {shlex.join(command)}: exit status {result.returncode}\n{result.stdout}{result.stderr}".rstrip()
        )


class Place:
    """Somewhere commands run.

    `enter` gets to the host from the lab machine, `enter_further` from the host to its
    container. What limits or stops a command runs between the two, with the host's tools.
    """

    def __init__(self, name, transport, enter, enter_further=()):
        self.name = name
        self._transport = transport
        self._enter = list(enter)
        self._enter_further = list(enter_further)

    def _line(self, command, wrapper=(), terminal=False):
        words = [*self._enter, *wrapper, *self._enter_further, *command]
        return self._transport([str(word) for word in words], terminal)

    def __repr__(self):
        return f"<{self.name}>"

    def run(self, command, check=True, timeout=DEFAULT_TIMEOUT_S, input=None):
        """Runs a command to its end; returns a CompletedProcess with text output.

        Raises CommandFailed if `check` and the status is not 0, and LabError after `timeout`
        seconds; the command is then killed at its end too.
        """
        line = self._line(command, ["timeout", "-k", "3", timeout])
        standard_input = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        binary = isinstance(input, bytes)
        try:
            result = subprocess.run(line, capture_output=True, timeout=timeout + 15, text=not binary, **standard_input)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: no end of {shlex.join(map(str, command))} in {timeout} s") from None
        if binary:
            result.stdout = result.stdout.decode(errors="replace")
            result.stderr = result.stderr.decode(errors="replace")
        if result.returncode == 124:
            raise LabError(f"{self.name}: no end of {shlex.join(map(str, command))} in {timeout} s\n"
                           f"{result.stdout}{result.stderr}")
        if result.returncode == 255 and not result.stdout:
            raise LabError(f"{self.name}: no connection to the lab machine\n{result.stderr}")
        if check and result.returncode != 0:
            raise CommandFailed(self.name, [str(word) for word in command], result)
        return result

    def sh(self, script, check=True, timeout=DEFAULT_TIMEOUT_S):
        """Runs a shell script; returns its standard output without the last line end."""
        return self.run(["sh", "-c", script], check=check, timeout=timeout).stdout.rstrip("\n")

    def json(self, command, **options):
        """Runs a command that prints JSON; returns the value."""
        return json.loads(self.run(command, **options).stdout or "null")

    def start(self, command):
        """Starts a command in the background; see Background."""
        return Background(self.name, command, self._line(command, [f"{INSIDE}/until-eof"]))

    @contextlib.contextmanager
    def running(self, command):
        """`with host.running([...]) as command:` stops it at the end of the block."""
        background = self.start(command)
        try:
            yield background
        finally:
            background.stop()

    def wait_for(self, script, timeout=30, interval=0.3):
        """Repeats a shell script until it succeeds; returns its output."""
        deadline = time.monotonic() + timeout
        while True:
            result = self.run(["sh", "-c", script], check=False, timeout=max(timeout, 5))
            if result.returncode == 0:
                return result.stdout.rstrip("\n")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: still failing after {timeout} s: {script}\n"
                               f"{result.stdout}{result.stderr}".rstrip())
            time.sleep(interval)

    def interact(self, command):
        """Hands this process's terminal to a command; returns its exit status."""
        return subprocess.run(self._line(command, terminal=True)).returncode


class Background:
    """A command that runs until stopped. Its output is collected meanwhile."""

    def __init__(self, where, command, line):
        self._where = where
        self._command = command
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = None

    def running(self):
        return self._process.poll() is None

    def lines(self):
        """The lines it prints, as they come."""
        return iter(self._process.stdout.readline, "")

    def stop(self, timeout=15):
        """Ends it by SIGINT (then SIGTERM); returns all that it printed and was not read."""
        if self.output is None:
            late = []
            killer = threading.Timer(timeout, lambda: (late.append(True), self._process.kill()))
            killer.start()
            # closing its standard input is the sign to stop
            self._process.stdin.close()
            # read() and not communicate(), which would lose what lines() has buffered
            self.output = self._process.stdout.read()
            self._process.wait()
            killer.cancel()
            if late:
                raise LabError(f"{self._where}: {shlex.join(map(str, self._command))} does not stop")
        return self.output


class Container(Place):
    """A container of LXD or Incus. `run` is inside it; `net.run` uses the host's tools in its network."""

    def __init__(self, host, name, transport, project="default"):
        self.host = host
        self.instance = name
        self.project = project
        # the name of its control group
        self.payload = payload = name if project == "default" else f"{project}_{name}"
        enter = f"{INSIDE}/in-container"
        super().__init__(f"{host.name}/{name}", transport, host._enter, [enter, payload])
        self.net = Place(f"{host.name}/{name} (network)", transport, host._enter, [enter, "--net", payload])

    def ping(self, target, count=3, interval=0.2, wait=2, size=None, dont_fragment=False, check=False):
        """True if any reply came. A link-local target needs no %interface: eth0 is added."""
        if target.lower().startswith("fe80:") and "%" not in target:
            target += "%eth0"
        command = ["ping", "-n", "-q", "-c", count, "-i", interval, "-W", wait]
        if size is not None:
            command += ["-s", size]
        if dont_fragment:
            command += ["-M", "do"]
        return self.net.run([*command, target], check=check, timeout=count * interval + wait + 20).returncode == 0


class Host(Place):
    """A supervisor or reflector, a whole Debian system."""

    def __init__(self, plan, transport, platform):
        super().__init__(plan.name, transport, [f"{INSIDE}/in", plan.name])
        self.plan = plan
        self.platform = platform
        self.manager = platform.manager
        self.address = plan.address
        self.role = plan.role

    def container(self, name, project="default"):
        return Container(self, name, self._transport, project)

    def client(self, *words, **options):
        """`host.client("start", "c1")`, by lxc or incus; returns standard output."""
        return self.run([self.manager.client, *words], **options).stdout

    @property
    def target(self):
        """Words that make a new instance here, and not on another member of its cluster."""
        return ["--target", self.name] if self.platform.clustered else []

    def start_manager(self, joins=None):
        """LXD or Incus answers, with what a container needs; in a cluster it `joins` that host's."""
        words = [f"{INSIDE}/instances-ready", self.manager.daemon]
        if self.platform.clustered:
            words += [self.name, self.address]
            members = joins.client("cluster", "list", "--format=csv").splitlines() if joins else []
            if joins and not any(line.startswith(f"{self.name},") for line in members):
                words.append(joins.client("cluster", "add", self.name).split()[-1])
        self.run(words, timeout=300)

    def push(self, content, path, mode="0644"):
        """Writes a file on the host: `content` is text, bytes or a pathlib.Path."""
        if hasattr(content, "read_bytes"):
            content = content.read_bytes()
        if isinstance(content, str):
            content = content.encode()
        script = 'mkdir -p "${1%/*}" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run(["sh", "-c", script, "push", path, mode], input=content)

    def read(self, path):
        return self.run(["cat", path]).stdout
