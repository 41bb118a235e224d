"""What the lab's hosts can be: a release of Debian, and LXD or Incus on it."""

import dataclasses

from labkit.console import LabError


@dataclasses.dataclass(frozen=True)
class Manager:
    """The program that runs the instances, as the lab talks to it."""

    name: str
    packages: tuple
    # The program that people type, and the one that runs.
    client: str
    daemon: str
    socket: str
    # Where its socket is looked for first, if the agent's environment has this.
    directory_variable: str
    # What runs it, in the order in which it is stopped without its containers.
    units: tuple
    ready: str  # command: ends when it answers


LXD = Manager(
    name="LXD",
    packages=("lxd", "lxd-client"),
    client="lxc",
    daemon="lxd",
    socket="/var/lib/lxd/unix.socket",
    directory_variable="LXD_DIR",
    units=("lxd.socket", "lxd.service"),
    ready="lxd waitready",
)

# Without QEMU, which `incus` would bring: there is no KVM where the lab runs.
INCUS = Manager(
    name="Incus",
    packages=("incus-base", "incus-client"),
    client="incus",
    daemon="incus",
    socket="/var/lib/incus/unix.socket",
    directory_variable="INCUS_DIR",
    units=("incus.socket", "incus.service"),
    ready="incus admin waitready",
)


# Each supervisor has instances of its own, or all are members of one cluster, each under its host's name.
ALONE, CLUSTER = "no cluster", "a cluster"
# FRR takes IPv6 addresses for tunnel end points (10.6 and newer).
TUNNELS_6 = "IPv6 tunnels"


@dataclasses.dataclass(frozen=True)
class Platform:
    name: str
    suite: str
    manager: Manager
    # What scenarios may need: ALONE or CLUSTER, TUNNELS_6.
    traits: tuple
    text: str
    # Has what the containers' image is made of and the release has no more.
    older_suite: str = ""

    @property
    def clustered(self):
        return CLUSTER in self.traits

    @property
    def group(self):
        """Under which name its scenarios are reported."""
        return "lab" if self == DEFAULT else self.name


PLATFORMS = (
    Platform("debian-13-lxd", "trixie", LXD, (ALONE,), "Debian 13 with LXD 5.0, each supervisor by itself"),
    Platform("debian-13-incus", "trixie", INCUS, (CLUSTER,), "Debian 13 with Incus 6.0, the supervisors as one cluster"),
    Platform("next", "forky", INCUS, (ALONE, TUNNELS_6), "the next Debian with Incus 7.0, each supervisor by itself", older_suite="trixie"),
)
DEFAULT = PLATFORMS[0]


def named(name):
    """The platform of that name; raises LabError, naming those that there are."""
    for platform in PLATFORMS:
        if platform.name == name:
            return platform
    raise LabError(f"no platform {name!r}; there are {', '.join(one.name for one in PLATFORMS)}")
