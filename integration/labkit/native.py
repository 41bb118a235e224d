"""`--no-vm`: the same hosts, straight on this machine's own kernel.

Nothing else differs: the image's root file system is the lower layer of every host.
"""

import os
import pathlib
import shutil
import subprocess

from labkit import requirements
from labkit.console import LabError, step
from labkit.settings import INSIDE, RUN

NEEDED_MODULES = [
    "bridge", "veth", "vxlan", "vrf", "overlay", "nf_tables", "nft_meta_bridge", "nf_conntrack_bridge", "nfnetlink_log", "nft_fib_inet",
]
UNITS = pathlib.Path("/run/systemd/system")


class Native:
    """Stands where Machine does, with nothing to boot."""

    def check(self):
        """Refuses, naming everything that is missing, before anything is changed."""
        missing = []
        if os.geteuid() != 0:
            missing.append("root")
        if not pathlib.Path("/run/systemd/system").is_dir():
            missing.append("systemd as this machine's init")
        missing += [f"kernel module {name}" for name in NEEDED_MODULES if not _has_module(name)]
        if missing:
            raise LabError("--no-vm is not possible on this machine, which lacks: " + ", ".join(missing)
                           + "; run without --no-vm")

    def pid(self):
        """Like Machine.pid: not None while the lab's directory exists."""
        return 1 if (RUN / "native").exists() else None

    def start(self, image):
        requirements.ensure({"systemd-nspawn": "systemd-container", "nsenter": "util-linux"})
        with step("preparing this machine"):
            kit = image.root / INSIDE.lstrip("/")
            if not pathlib.Path(INSIDE).exists():
                pathlib.Path(INSIDE).symlink_to(kit)
            shutil.copy(image.root / "usr/lib/systemd/system/lab-host@.service", UNITS)
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            pathlib.Path("/srv/lab").mkdir(parents=True, exist_ok=True)
            subprocess.run([f"{INSIDE}/underlay", str(image.root)], check=True)
            RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
            (RUN / "native").touch()

    def save_console(self):
        """There is none: the journal of this machine has everything."""

    def stop(self):
        subprocess.run(["systemctl", "stop", "lab-host@*.service"], check=False)
        subprocess.run(["ip", "link", "delete", "ul"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", "/run/lab/lower"], check=False, stderr=subprocess.DEVNULL)
        (UNITS / "lab-host@.service").unlink(missing_ok=True)
        if pathlib.Path(INSIDE).is_symlink():
            pathlib.Path(INSIDE).unlink()
        subprocess.run(["systemctl", "daemon-reload"], check=False)
        shutil.rmtree("/srv/lab", ignore_errors=True)
        shutil.rmtree(RUN, ignore_errors=True)


def _has_module(name):
    if pathlib.Path("/sys/module", name).exists():
        return True
    return subprocess.run(["modprobe", name], capture_output=True).returncode == 0 if shutil.which("modprobe") else False
