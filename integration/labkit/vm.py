"""The lab's virtual machine: QEMU in the background, reached by ssh on the loopback.

The cached image stays pristine: the machine writes to a copy-on-write layer, and its
hosts to a disk of their own; both are gone with `down`.
"""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

from labkit import requirements
from labkit.console import LabError, say, step
from labkit.settings import RUN, cache_directory

# What the lab's machine gets if there is so much, and the least that it starts with. Its five hosts and the
# scenarios take 1 GiB; the rest is for files in memory.
MEMORY_MIB = 8192
LEAST_MEMORY_MIB = 4096
# Stays available to everything else.
BESIDE_MIB = 2048
HOSTS_DISK = "40G"  # sparse
BOOT_TIMEOUT_S = 300
KERNEL_ARGUMENTS = (
    # rootwait: the kernel finds NVMe disks in a thread of its own, and does not wait for it otherwise
    "console=ttyS0 root=/dev/nvme0n1 rootwait rw panic=-1 quiet mitigations=off net.ifnames=0 "
    # the kernel's own watchdog, and memory zeroed when it is allocated, only cost time under emulation
    "nowatchdog init_on_alloc=0 systemd.show_status=no"
)


def short_of_memory(available_mib):
    """Why the machine cannot be started with so much memory available; empty if it can."""
    least = LEAST_MEMORY_MIB + BESIDE_MIB
    return "" if available_mib >= least else f"the lab needs {least} MiB of memory, and {available_mib} MiB are available: end other programs"


class Machine:
    """The one machine of this computer, running or not."""

    # Nothing but ssh gets in, and nothing out.
    network = "restrict=on"
    has_hosts = True

    def __init__(self, disks=None, run=RUN):
        self.disks = disks or cache_directory() / "run"
        self.run = run
        self.pid_file = run / "vm.pid"
        self.serial_log = run / "serial.log"
        self.ssh_socket = run / "ssh.sock"
        self.key = run / "id_ed25519"
        self.state_file = run / "machine.json"

    @property
    def memory_mib(self):
        """What there is, between the least and what is enough; raises LabError if there is less."""
        available = requirements.memory_mib()[1]
        if short := short_of_memory(available):
            raise LabError(short)
        return min(MEMORY_MIB, available - BESIDE_MIB)

    # -- is it there? --------------------------------------------------------------------

    def pid(self):
        """Process id of a running machine, else None."""
        try:
            pid = int(self.pid_file.read_text())
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        # The pid may be somebody else's by now: it is ours if it names our pid file.
        return pid if str(self.pid_file).encode() in command else None

    def state(self):
        return json.loads(self.state_file.read_text())

    # -- start ---------------------------------------------------------------------------

    def start(self, image):
        requirements.for_machine()
        memory_mib = self.memory_mib
        self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.disks.mkdir(parents=True, exist_ok=True)
        self._make_key()
        self._make_disks(image)
        accelerator = usable_accelerator(image)
        port = _free_port()
        self.state_file.write_text(json.dumps({"port": port, "accelerator": accelerator}))
        with step(f"booting the machine with {accelerator} and {memory_mib} MiB (console: {self.serial_log})"):
            self._launch(image, accelerator, memory_mib, port)
            self._wait_for_ssh()

    def _make_key(self):
        if not self.key.exists():
            _checked(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lxmesh-lab", "-f", str(self.key)])

    def _make_disks(self, image):
        _checked(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk),
                  str(self.disks / "system.qcow2")])
        if not self.has_hosts:
            return
        hosts = self.disks / "hosts.raw"
        hosts.unlink(missing_ok=True)
        _checked(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "lab-hosts",
                  "-E", "lazy_itable_init=1,nodiscard", str(hosts), HOSTS_DISK])

    def _launch(self, image, accelerator, memory_mib, port):
        public_key = self.key.with_suffix(".pub").read_bytes()
        # systemd takes the key from here and authorises it for root: nothing of it is in the image
        credential = base64.b64encode(public_key).decode()
        arguments = f"{KERNEL_ARGUMENTS} systemd.set_credential_binary=ssh.authorized_keys.root:{credential}"
        hosts = ["-drive", f"id=hosts,file={self.disks}/hosts.raw,if=virtio,format=raw,cache=unsafe,discard=unmap"]
        command = [
            "qemu-system-x86_64", *machine_options(accelerator),
            "-m", str(memory_mib), "-smp", str(min(os.cpu_count() or 1, 8)),
            "-kernel", str(image.kernel), "-append", arguments,
            "-drive", f"id=system,file={self.disks}/system.qcow2,if=none,format=qcow2,cache=unsafe",
            "-device", "nvme,drive=system,serial=system",
            *(hosts if self.has_hosts else []),
            "-netdev", f"user,id=control,{self.network},hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22",
            "-device", "virtio-net-pci,netdev=control",
            "-device", "virtio-rng-pci",
            "-serial", f"file:{self.serial_log}", "-monitor", "none",
            "-display", "none", "-vga", "none", "-no-reboot",
            "-pidfile", str(self.pid_file), "-daemonize",
        ]
        _checked(command)

    def _wait_for_ssh(self):
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.pid() is None:
                raise LabError(f"the machine stopped while booting:\n{self.console_tail()}")
            if self._open_master():
                return
            time.sleep(0.5)
        raise LabError(f"no ssh from the machine in {BOOT_TIMEOUT_S} s:\n{self.console_tail()}")

    def console_tail(self, lines=20):
        try:
            text = self.serial_log.read_text(errors="replace")
        except OSError:
            return "(no console output)"
        return "\n".join(text.splitlines()[-lines:]) + f"\n(whole console: {self.serial_log})"

    def save_console(self):
        if self.serial_log.exists():
            kept = cache_directory() / "last-console.log"
            shutil.copy(self.serial_log, kept)
            say(f"the machine's console is kept in {kept}")

    # -- talk ----------------------------------------------------------------------------

    def ssh_command(self, terminal=False):
        """The ssh command line up to and including the host, over the shared connection."""
        return [
            "ssh", *(["-t"] if terminal and sys.stdin.isatty() else []), "-q", "-F", "none", "-o", f"ControlPath={self.ssh_socket}", "-o", "ControlMaster=auto",
            "-o", "ControlPersist=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ServerAliveInterval=30",
            "-o", "ConnectTimeout=15", "-i", str(self.key), "-p", str(self.state()["port"]), "root@127.0.0.1",
        ]

    def _open_master(self):
        """One cheap try to log in; leaves a shared connection behind for all later commands."""
        try:
            with socket.create_connection(("127.0.0.1", self.state()["port"]), timeout=2) as probe:
                # the forwarder accepts at once: only the banner tells that sshd is there
                probe.settimeout(10)
                if not probe.recv(4).startswith(b"SSH"):
                    return False
        except OSError:
            return False
        # A session of its own: whoever interrupts a command must not take the connection along.
        done = subprocess.run([*self.ssh_command(), "true"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        return done.returncode == 0

    # -- stop ----------------------------------------------------------------------------

    def stop(self):
        """Ends the machine and removes everything of this run."""
        if self.ssh_socket.exists() and self.state_file.exists():
            subprocess.run([*self.ssh_command()[:-1], "-O", "exit", "root@127.0.0.1"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        pid = self.pid()
        if pid is not None:
            # The disks are thrown away: there is nothing to shut down in order.
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while self.pid() is not None:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
        shutil.rmtree(self.disks, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)


def machine_options(accelerator):
    if accelerator == "kvm":
        return ["-M", "q35", "-accel", "kvm", "-cpu", "host"]
    # Without the two features that say that copying and clearing byte by byte is fast: emulated, it is not.
    return ["-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off,erms=off,fsrm=off"]


def usable_accelerator(image):
    """"kvm" if a guest kernel really runs with it, else "tcg".

    /dev/kvm may exist and still fail at the first instruction or model-specific register,
    so the image's own kernel is started without a disk: its panic is the proof.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    command = [
        "qemu-system-x86_64", *machine_options("kvm"), "-m", "256", "-kernel", str(image.kernel),
        "-append", "console=ttyS0 panic=-1 quiet", "-serial", "stdio", "-monitor", "none",
        "-display", "none", "-vga", "none", "-no-reboot", "-nic", "none",
    ]
    try:
        probe = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    except subprocess.TimeoutExpired:
        say("KVM exists but a guest hangs with it; emulating")
        return "tcg"
    if b"Kernel panic" in probe.stdout:
        return "kvm"
    reason = probe.stderr.decode(errors="replace").strip().splitlines()
    say(f"KVM exists but no guest runs with it ({reason[-1] if reason else 'no reason given'}); emulating")
    return "tcg"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _checked(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
