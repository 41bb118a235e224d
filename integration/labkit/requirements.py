"""What the lab needs on the machine that runs it, and how it gets there.

Debian 12's own QEMU crashes Linux 6.12 under multi-threaded emulation, so that release
takes QEMU from its backports. Where packages come from is read from the machine's own
apt configuration; no mirror is named here.
"""

import os
import pathlib
import re
import shutil
import subprocess

from labkit.console import LabError, step

BACKPORTS_LIST = pathlib.Path("/etc/apt/sources.list.d/lxmesh-lab-backports.sources")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
OLDEST_QEMU = 8


def release():
    """VERSION_CODENAME of this machine, as in os-release(5); "" if it does not say."""
    text = pathlib.Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_CODENAME="?([\w-]+)', text, re.M)
    return found.group(1) if found else ""


def debian_mirror():
    """The archive this machine itself installs Debian from."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages",
         "Component: main"],
        capture_output=True, text=True,
    )
    name = release()
    for line in listing.stdout.splitlines():
        uri, suite = line.rsplit(" ", 1)
        if suite == name:
            return uri
    raise LabError(
        f"no archive for the suite {name!r} in this machine's apt configuration (/etc/apt/sources.list*); "
        "the lab needs Debian's archive to build its image"
    )


def memory_mib():
    """(all, available) memory of this computer, MiB (proc_meminfo(5))."""
    found = dict(re.findall(r"(?m)^(\w+): +(\d+) kB$", pathlib.Path("/proc/meminfo").read_text()))
    return int(found["MemTotal"]) >> 10, int(found["MemAvailable"]) >> 10


def qemu_major():
    """Major version of the installed qemu-system-x86_64; 0 without one."""
    if not shutil.which("qemu-system-x86_64"):
        return 0
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.", said)
    return int(found.group(1)) if found else 0


def ensure(commands):
    """Makes sure that each of the commands is there; `commands` maps command → package."""
    missing = sorted({package for command, package in commands.items() if not shutil.which(command)})
    if missing:
        install(missing)


def for_image_build():
    ensure({"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"})
    if not pathlib.Path(KEYRING).exists():
        install(["debian-archive-keyring"])


def for_machine():
    ensure({"ssh": "openssh-client", "ssh-keygen": "openssh-client", "mke2fs": "e2fsprogs"})
    if qemu_major() >= OLDEST_QEMU and shutil.which("qemu-img"):
        return
    options = []
    if release() == "bookworm":
        _add_backports()
        options = ["-t", "bookworm-backports"]
    install(["qemu-system-x86", "qemu-utils"], options)
    if qemu_major() < OLDEST_QEMU:
        raise LabError(
            f"QEMU {OLDEST_QEMU} or newer is needed and {release()} has {qemu_major()}; "
            "install a newer qemu-system-x86_64 first"
        )


def _add_backports():
    mirror = debian_mirror()
    BACKPORTS_LIST.write_text(
        "# Written by the LXMesh lab, which needs a newer QEMU than Debian 12's.\n"
        f"Types: deb\nURIs: {mirror}\nSuites: bookworm-backports\nComponents: main\n"
        f"Signed-By: {KEYRING}\n"
    )


def install(packages, options=()):
    if os.geteuid() != 0:
        raise LabError(f"missing packages: {' '.join(packages)}; install them or run as root")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with step(f"installing {' '.join(packages)}"):
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-o", "DPkg::Lock::Timeout=600", "-y", "-qq", "--no-install-recommends", *options, *packages],
        ):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                raise LabError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
