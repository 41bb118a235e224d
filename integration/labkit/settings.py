"""Names, addresses and places: what every part of the lab agrees on."""

import dataclasses
import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
KIT = pathlib.Path(__file__).resolve().parent

# What must not outlive the machine's boot: pid file, sockets. Short, because a unix
# socket's path has 107 bytes.
RUN = pathlib.Path("/run/lxmesh-lab")
# In the machine and its hosts: the scripts of image/overlay.
INSIDE = "/usr/lib/lxmesh-lab"


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "lxmesh-lab"


@dataclasses.dataclass(frozen=True)
class HostPlan:
    name: str
    address: str
    role: str  # "supervisor" or "reflector"


@dataclasses.dataclass(frozen=True)
class FleetPlan:
    """Which hosts there are. Supervisor i is .10+i, reflector i is .100+i."""

    supervisors: int = 3
    reflectors: int = 2

    def __post_init__(self):
        if not 1 <= self.supervisors <= 80 or not 1 <= self.reflectors <= 80:
            raise ValueError("a lab has 1 to 80 supervisors and 1 to 80 reflectors")

    @property
    def hosts(self):
        return [
            HostPlan(f"sup{i}", f"198.51.100.{10 + i}", "supervisor")
            for i in range(1, self.supervisors + 1)
        ] + [
            HostPlan(f"rr{i}", f"198.51.100.{100 + i}", "reflector")
            for i in range(1, self.reflectors + 1)
        ]
