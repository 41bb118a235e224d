"""What this computer is, in two lines, and why tests cannot run here."""

import os
import pathlib
import re
import shutil

from labkit import image, platforms, requirements
from labkit.lab import Lab
from labkit.settings import REPOSITORY, cache_directory
from labkit.vm import short_of_memory
from testkit import kvm

# In GiB, measured, and a half more (`long`: estimated): what is compiled; the image while it is made; what the lab's machine writes.
COMPILED_GIB = 6
IMAGE_GIB = 3
LAB_GIB = 6
LONG_GIB = 20
# The groups that start a lab, or use the one that is up.
LABS = {"lab", "long", "platforms"}
# The scenarios' hosts.
SUPERVISORS = 3
_LABS = "lab, long and platforms"


class Machine:
    """Read once. Sizes are in MiB, but for disks, which are in GiB."""

    def __init__(self):
        self.processor = _processor()
        self.cores = len(os.sched_getaffinity(0))
        self.memory, self.available = requirements.memory_mib()
        self.kernel = os.uname()
        self.kvm = kvm.verdict() if self.kernel.machine == "x86_64" else "not tried: the lab is for x86-64"
        self.target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
        self.cache = cache_directory()

    def lines(self):
        disks = f"{_free_gib(self.target)} GiB for what is compiled, {_free_gib(self.cache)} GiB for the lab"
        return (
            f"this machine: {self.processor}, {self.cores} cores, {self.memory} MiB of memory ({self.available} available), "
            f"Linux {self.kernel.release} {self.kernel.machine}\n"
            f"KVM: {self.kvm}; free disk: {disks}"
        )

    def lacks_always(self):
        """Why no group can run here; empty if some can."""
        lacks = []
        if os.geteuid() != 0:
            lacks.append("needs root: namespaces and virtual machines are made")
        if not shutil.which("apt-get"):
            lacks.append("needs Debian or a system like it: what is missing is installed by apt-get")
        if not shutil.which("cargo"):
            lacks.append("needs Rust (cargo)")
        return lacks

    def lacks(self, groups):
        """Why these groups cannot run here; empty if they can."""
        lacks = []
        needed = {self.target: COMPILED_GIB if not (self.target / "debug").exists() else 1}
        if "long" in groups:
            needed[self.target] += LONG_GIB
        if LABS & set(groups):
            lacks += self._lacks_for_lab(needed, groups)
        return lacks + _too_small(needed)

    def _lacks_for_lab(self, needed, groups):
        lacks = []
        if self.kernel.machine != "x86_64":
            lacks.append(f"the lab's machine is x86-64, and this one {self.kernel.machine}: name other groups than {_LABS}")
        lab = Lab()
        if lab.is_up():
            down = "`integration/lab down` first"
            if "long" in groups:
                lacks.append(f"a lab is up, and `long` starts several of its own: {down}")
            elif "lab" in groups and lab.platform != platforms.DEFAULT:
                lacks.append(f"a lab is up as {lab.platform.name}, and {platforms.DEFAULT.name} is needed: {down}")
            elif len(lab.supervisors) < SUPERVISORS:
                lacks.append(f"a lab is up with {len(lab.supervisors)} supervisors, and the scenarios need {SUPERVISORS}: {down}")
            elif not lab.is_of_this_tree():
                lacks.append(f"a lab is up, made from another version of its image: {down}")
            return lacks
        if short := short_of_memory(self.available):
            lacks.append(f"{short}, or name other groups than {_LABS}")
        needed[self.cache] = LAB_GIB + (0 if image.directory().is_dir() else IMAGE_GIB)
        return lacks


def _too_small(needed):
    """The file systems that have less free than is needed: {place: GiB} may name one more than once."""
    sums = {}
    for place, gib in needed.items():
        device = _existing(place).stat().st_dev
        places, sum_gib = sums.get(device, ([], 0))
        sums[device] = ([*places, place], sum_gib + gib)
    return [
        f"{' and '.join(map(str, places))}: {gib} GiB of disk are needed, and {_free_gib(places[0])} GiB are free"
        for places, gib in sums.values() if _free_gib(places[0]) < gib
    ]


def _existing(path):
    path = path.absolute()
    # (a place that may not be looked into is none)
    return next(one for one in (path, *path.parents) if os.path.exists(one))


def _free_gib(path):
    return shutil.disk_usage(_existing(path)).free >> 30


def _processor():
    found = re.search(r"(?m)^model name\s*: *(.*)$", pathlib.Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else "a processor without a name"


