"""The product on the hosts: one host file, the Debian package, what lxmesh-gen applies, and
the containers the lab starts with."""

import io
import pathlib
import subprocess
import tarfile

from labkit.console import LabError, step
from labkit.settings import REPOSITORY

HOST_FILE = "/etc/lxmesh/host.toml"
NETWORK = "vpc"
PREFIX4 = "192.0.2"
PREFIX6 = "2001:db8::"
GATEWAY4 = f"{PREFIX4}.1"
GATEWAY6 = f"{PREFIX6}1"
# What instances may reach at hosts of the fabric.
LISTED_PORT = 5320


def host_file(plan):
    """The fleet's one host file; the same bytes on every host."""
    reflectors = ", ".join(f'"{host.address}"' for host in plan.hosts if host.role == "reflector")
    supervisors = ", ".join(f'"{host.address}"' for host in plan.hosts if host.role == "supervisor")
    return f"""\
version = 1

[fabric]
name        = "lab"
asn         = 64500
reflectors  = [{reflectors}]
supervisors = [{supervisors}]
services    = ["udp/{LISTED_PORT}"]
unprotected_tags = true

[ipsec]
enabled = false

[tags]
web     = 0
bastion = 15

# Nobody has this address, and no host asks for it, so that nothing of the session is on the
# underlay: what a router would be told is seen in the supervisors' own BGP.
[[router]]
address = "198.18.1.254"
asn     = 64511

[[network]]
name    = "vpc"
vni     = 100
gateway = ["{GATEWAY4}/24", "{GATEWAY6}/64"]

[[network]]
name        = "blue"
vni         = 200
gateway     = ["203.0.113.1/24", "2001:db8:b::1/64"]
multicast   = true
host_routes = "main"
announce    = true

[[network]]
name        = "green"
vni         = 300
gateway     = ["198.18.0.1/24", "2001:db8:c::1/64"]
vrf         = "vrf-green"
host_routes = "vrf"

[[network]]
name        = "amber"
vni         = 400
gateway     = ["198.18.1.1/24", "2001:db8:d::1/64"]
host_routes = 2400
announce    = true
"""


# How the addresses of a network's containers begin.
PREFIXES = {
    NETWORK: (PREFIX4, PREFIX6),
    "blue": ("203.0.113", "2001:db8:b::"),
    "green": ("198.18.0", "2001:db8:c::"),
    "amber": ("198.18.1", "2001:db8:d::"),
}


def addresses_of(number, network=NETWORK):
    """IPv4 and IPv6 address of the lab's container c<number> in a network."""
    four, six = PREFIXES[network]
    return f"{four}.{10 + number}", f"{six}{10 + number}"


def package(given=None):
    """The project's Debian package: the given file, or built from this tree."""
    if given:
        path = pathlib.Path(given)
        if not path.is_file():
            raise LabError(f"no such package: {path}")
        return path
    with step("building the Debian package"):
        done = subprocess.run([str(REPOSITORY / "debian/build")], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise LabError("debian/build failed; its errors are above")
    return pathlib.Path(done.stdout.splitlines()[-1])


def deploy(lab, deb):
    """Installs the package everywhere and makes each host what the host file says."""
    content = pathlib.Path(deb).read_bytes()
    text = host_file(lab.plan)
    if not lab.native:
        load_profile(lab, deb)
    with step(f"installing {pathlib.Path(deb).name} and configuring {len(lab.hosts)} hosts"):
        new = lab.each(lab.hosts, lambda host: _deploy_one(host, content, text))
        _on_supervisors(lab, [host for host in lab.supervisors if new[host.name]], _restart_containers)


def _on_supervisors(lab, hosts, action):
    """action(host) on these at once; in a cluster, whose members all change one database, one after the other."""
    if lab.platform.clustered:
        for host in hosts:
            action(host)
    else:
        lab.each(hosts, action)


def load_profile(lab, deb):
    """The hosts share the machine's kernel, whose AppArmor profiles their packages cannot load."""
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        profile = archive.extractfile("./etc/apparmor.d/lxmesh-agent").read()
    lab.outside.run(["apparmor_parser", "--replace", "--skip-cache"], input=profile, timeout=120)


# As users do it, on all hosts at once, and the first time while no peer is up yet. `--no-reload`:
# what is enabled here is started by name; systemd has nothing to read again.
_CONFIGURE = """\
set -eu
lxmesh-gen apply
systemctl --quiet --no-reload enable frr 2> /dev/null
systemctl --quiet is-active frr || systemctl start frr
nft list table inet lxmesh_host > /dev/null
"""

# The package restarts an agent that ran; this starts one that did not.
_START_AGENT = "systemctl --quiet --no-reload enable lxmesh-agent && systemctl start lxmesh-agent"

# A container that ran before there was an agent has stopped asking for routers: its kernel
# waits up to an hour between solicitations, and a router need not speak for ten minutes.
_RESTART_CONTAINERS = """\
for place in /sys/fs/cgroup/lxc.payload.*; do
    [ ! -d "$place" ] || "$1" restart --force "${place##*/lxc.payload.}"
done
"""


def _deploy_one(host, content, text):
    """Whether there was no product before."""
    new = host.run(["test", "-e", "/usr/bin/lxmesh"], check=False).returncode != 0
    host.push(content, "/var/tmp/lxmesh.deb")
    host.push(text, HOST_FILE)
    # the lab's disks forget everything anyway: nothing is gained by waiting for them
    host.run(["dpkg", "--force-unsafe-io", "--install", "/var/tmp/lxmesh.deb"])
    host.sh(_CONFIGURE, timeout=300)
    if host.role == "supervisor":
        host.sh(_START_AGENT, timeout=120)
    return new


def _restart_containers(host):
    host.run(["sh", "-c", _RESTART_CONTAINERS, "restart", host.manager.client], timeout=120)


_LAUNCH = """\
set -eu
client=$1 name=$2 network=$3 address4=$4 address6=$5; shift 5
if ! "$client" info "$name" > /dev/null 2>&1; then
    "$client" init bb "$name" "$@" > /dev/null
    "$client" config device add "$name" eth0 nic nictype=p2p name=eth0 user.lxmesh.parent="$network" \\
        user.lxmesh.ipv4.address="$address4" user.lxmesh.ipv6.address="$address6" > /dev/null
fi
[ -d "/sys/fs/cgroup/lxc.payload.$name" ] || "$client" start "$name"
"""


def launch_containers(lab):
    """One container per supervisor on the vpc network: c1 on sup1, c2 on sup2 ..."""
    with step("starting one container on each supervisor"):
        _on_supervisors(lab, lab.supervisors, _launch_one)
    return containers(lab)


def containers(lab):
    return [host.container(f"c{_number(host)}") for host in lab.supervisors]


def _number(host):
    return int(host.name.removeprefix("sup"))


def _launch_one(host):
    number = _number(host)
    name = f"c{number}"
    arguments = [host.manager.client, name, NETWORK, *addresses_of(number), *host.target]
    host.run(["sh", "-c", _LAUNCH, "launch", *arguments], timeout=180)
