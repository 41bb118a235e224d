"""A machine for tests of whole Debian systems: python3 -m labkit.testbed TREE DIRECTORY COMMAND...

Boots the Debian file system TREE, which has a kernel, systemd and sshd, and runs COMMAND with
LXMESH_TESTBED_PORT, where root's ssh listens on the loopback, and LXMESH_TESTBED_KEY, a file. What
the machine needs lies in DIRECTORY, and of that only its console stays. TREE itself is not changed.
It has 2 GiB of memory, or LXMESH_TESTBED_MIB.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from labkit import requirements
from labkit.console import LabError, step
from labkit.vm import Machine

DISK_SIZE = "6G"
# Short, because a unix socket's path has 107 bytes.
RUN = pathlib.Path("/run/lxmesh-testbed")


class Testbed(Machine):
    memory_mib = int(os.environ.get("LXMESH_TESTBED_MIB", "2048"))
    # Packages come from the archive.
    network = "restrict=off"
    has_hosts = False


class Disk:
    """What a machine boots from, as an `Image` has it."""

    def __init__(self, tree, directory):
        kernels = sorted((tree / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise LabError(f"{tree} has no kernel in /boot")
        self.kernel = kernels[-1]
        self.disk = directory / "disk.raw"
        self.disk.unlink(missing_ok=True)
        command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(self.disk), DISK_SIZE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise LabError(f"mke2fs failed:\n{done.stderr}")


def main(tree, directory, *command):
    tree, directory = pathlib.Path(tree), pathlib.Path(directory)
    requirements.for_machine()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    machine = Testbed(directory / "disks", RUN)
    try:
        with step("making its disk"):
            disk = Disk(tree, directory)
        machine.start(disk)
        environment = dict(
            os.environ, LXMESH_TESTBED_PORT=str(machine.state()["port"]), LXMESH_TESTBED_KEY=str(machine.key)
        )
        return subprocess.run(command, env=environment).returncode
    finally:
        if machine.serial_log.exists():
            shutil.copy(machine.serial_log, directory / "console.log")
        machine.stop()
        (directory / "disk.raw").unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except LabError as error:
        sys.exit(f"testbed: {error}")
