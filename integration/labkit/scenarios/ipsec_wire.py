"""Rendered IPsec between hosts that are nothing but strongSwan on its files and a tunnel, in network namespaces
of the lab's machine: first packets, the wire, the largest packet to the byte, who is kept out. ipsec_wire.sh is
what runs there; the tests of `ipsec` show the same fabric on whole hosts."""

import pathlib
import re

from labkit.scenarios import pki
from labkit.scenarios.registry import check, scenario

# On the first supervisor, which has lxmesh-gen, and below its root file system for the machine around it.
_WORK = "/var/tmp/lab-ipsec-wire"

# Largest packets of the underlay: four in a row have each rest that padding can have.
_SIZES = (1400, 1500, 1501, 1502, 1503, 9000)

_FLEET = """\
version = 1
[fabric]
name = "wire"
asn  = 64500
reflectors   = ["{prefix}101"]
supervisors  = ["{prefix}0/{length}"]
underlay_mtu = {underlay_mtu}
[[network]]
name    = "vpc"
vni     = 100
gateway = ["192.0.2.254/24"]
[ipsec]
enabled = true
"""
_FAMILIES = {4: ("198.51.100.", 24), 6: ("2001:db8:f::", 64)}
# The first FRR with tunnels over IPv6; nothing of it runs here.
_TARGET = "debian-13,frr=10.6"

# Arguments: the directory; then of each host its address and its name.
_RENDER = f"""\
set -eu
cd "$1"; shift
while [ $# -gt 0 ]; do
    lxmesh-gen render --host-file host.toml --host "$1" --name "$2" --target {_TARGET} --root "$2" > /dev/null
    echo "$1" > "$2/address"
    shift 2
done
lxmesh-gen mtu host.toml | sed -n 's/^network vpc: //p' > mtu
for size in $(cat underlays); do
    sed "s/^underlay_mtu = .*/underlay_mtu = $size/" host.toml > sized.toml
    echo "$size,$(lxmesh-gen mtu sized.toml | sed -n 's/^network vpc: //p')"
done > sizes
"""
_RUN = 'exec unshare --net --mount --pid --fork --kill-child --mount-proc sh "$1/run" "$1"'


class _Wire:
    """Hosts of these names and underlay addresses' last parts; what is between is `run`'s result."""

    def __init__(self, scene, family, ipsec, hosts, underlays=()):
        self.scene = scene
        self.host = scene.sups[0]
        prefix, length = _FAMILIES[family]
        self.hosts = {name: f"{prefix}{last}" for name, last in hosts.items()}
        self.host.sh(f"rm -rf {_WORK}; mkdir -p {_WORK}")
        self.outside = f"/srv/lab/{self.host.name}/root{_WORK}"
        self.put("host.toml", _FLEET.format(prefix=prefix, length=length, underlay_mtu=1500) + ipsec)
        self.put("underlays", " ".join(map(str, underlays)))
        self.put("hosts", " ".join(hosts))
        self.put("run", pathlib.Path(__file__).with_suffix(".sh").read_text())
        words = [word for name, address in self.hosts.items() for word in (address, name)]
        self.host.run(["sh", "-c", _RENDER, "render", _WORK, *words])

    def put(self, name, text):
        self.host.push(text, f"{_WORK}/{name}")

    def run(self, pairs):
        """Everything, with the first packets between these pairs of hosts: {what: value}."""
        self.put("pings", " ".join(f"{one},{other}" for one, other in pairs))
        self.put("bgp", "")
        try:
            said = self.scene.lab.outside.run(["sh", "-c", _RUN, "run", self.outside], timeout=600).stdout
        finally:
            self.host.sh(f"rm -r {_WORK}")
        self.scene.note(" ".join(line.removeprefix("RESULT ").replace(" ", "=", 1) for line in said.splitlines() if line.startswith("RESULT ")))
        return dict(re.findall(r"(?m)^RESULT (\S+) (\S+)$", said))


def _only_encrypted(results):
    check(results["cleartext"] == "0", lambda: f"in cleartext: {results}")
    check(results["other"] == "0", lambda: f"neither IKE nor ESP: {results}")
    check(int(results["esp"]) > 10, lambda: f"hardly any ESP, so that the capture says nothing: {results}")
    check(results["bgp"] == "hello", lambda: f"BGP's port: {results}")


def _shared_key(scene, family):
    hosts = {"a": 11, "b": 12, "rr": 101}
    for encapsulation, enough in (("", 5), ("udp_encapsulation = true\n", 1)):
        # In UDP, packets that wait are lost now and then, so there only those after are counted on.
        wire = _Wire(scene, family, f'psk_file = "/etc/lxmesh/ipsec.secret"\n{encapsulation}', hosts, _SIZES)
        results = wire.run([("a", "b")])
        check(int(results["ping-a-b"]) >= enough, lambda: f"of 5 first packets, too few were answered: {results}")
        _only_encrypted(results)
        sizes = {what: value.split(",") for what, value in results.items() if what.startswith("size-")}
        check(len(sizes) == len(_SIZES), lambda: f"sizes {sizes}, and not of {_SIZES}")
        for what, (exact, exact_fragments, more, more_fragments) in sizes.items():
            # The computed MTU is what fits, and not a byte less than that.
            check((exact, exact_fragments) == ("answered", "0"), lambda: f"{what}: {exact} with {exact_fragments} fragments: {results}")
            # Linux takes a packet that ESP makes too long into pieces over IPv4; over IPv6 it drops it, and the
            # sender's route learns the size.
            in_pieces, lost = more_fragments != "0", (more, more_fragments) == ("silence", "0")
            check(in_pieces if family == 4 else lost, lambda: f"{what}: one byte more is {more}, with {more_fragments} fragments: {results}")


@scenario("ipsec-key")
def ipsec_key(scene):
    """with a shared key no first packet is lost, none is in cleartext or in pieces; the largest packet to the byte"""
    _shared_key(scene, 4)


@scenario("ipsec-key-ipv6", seldom=True)
def ipsec_key_ipv6(scene):
    """the same over IPv6: no first packet is lost, none is in cleartext or in pieces; the largest packet to the byte"""
    _shared_key(scene, 6)


# Arguments: hosts. The reflectors' authority is another than the supervisors'; the stranger believes anybody.
_AUTHORITIES = f"""\
{pki.FUNCTIONS}
cd "$1"
for name in supervisors reflectors strangers; do authority $name; done
for name in a b rr revoked stranger; do key $name; done
issue a a supervisors; issue b b supervisors; issue rr rr reflectors; issue revoked revoked supervisors
issue stranger stranger strangers
list supervisors --reason key-compromise --cert revoked.pem; list reflectors
for name in a b rr revoked; do give $name $name supervisors reflectors; done
give stranger stranger supervisors reflectors strangers
"""


@scenario("ipsec-certificates", seldom=True)
def ipsec_certificates(scene):
    """with certificates a revoked host and one of another authority stay outside"""
    ipsec = f'identity = "*.{pki.DOMAIN}"\nca = ["supervisors.pem"]\nreflector_ca = ["reflectors.pem"]\nrevocation = "strict"\n'
    wire = _Wire(scene, 4, ipsec, {"a": 11, "b": 12, "rr": 101, "revoked": 14, "stranger": 15})
    wire.host.run(["sh", "-c", _AUTHORITIES, "authorities", _WORK])
    results = wire.run([("a", "b"), ("revoked", "a"), ("stranger", "b")])
    check(results["ping-a-b"] == "5", lambda: f"of 5 first packets, too few were answered: {results}")
    _only_encrypted(results)
    outside = {what: results[what] for what in ("ping-revoked-a", "ping-stranger-b", "sas-revoked", "sas-stranger")}
    check(set(outside.values()) == {"0"}, lambda: f"not kept out: {outside}")
