"""Addresses by DHCP, routes by DHCP and router advertisements, and who reaches whom."""

import json

from labkit import fleet
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario

MTU = 1450  # what the underlay's 1500 leaves beside VXLAN over IPv4


@scenario("addresses-by-dhcp")
def by_dhcp(scene):
    """addresses and MTU come by DHCP from the agent's dnsmasq, not from the container's configuration"""
    for guest in scene.everyone:
        keys = guest.client("config", "device", "show", guest.name)
        static = [line for line in keys.splitlines() if line.strip().startswith(("ipv4.address", "ipv6.address"))]
        check(not static, f"{guest.label} has addresses from LXD: {static}")
        scene.forget_leases(guest)
    for guest in scene.everyone:
        scene.dressed(guest)

        def probe(guest=guest):
            script = "ls /run/dhcp4.bound /run/dhcp6.bound; cat /sys/class/net/eth0/mtu"
            said = guest.place.run(["sh", "-c", script], check=False).stdout.split()
            wanted = ["/run/dhcp4.bound", "/run/dhcp6.bound", str(MTU)]
            return [] if said == wanted else [f"{guest.label}: {said}, not {wanted}"]

        scene.until(f"{guest.label} has leases and MTU {MTU}", probe)
    for host in scene.sups:
        said = scene.status(host)["dhcp"]
        check(said.startswith("dnsmasq running"), f"{host.name}: {said}")


@scenario("default-routes")
def default_routes(scene):
    """the IPv4 default route comes by DHCP, the IPv6 one by router advertisement"""

    def probe_of(guest):
        def probe():
            script = "ip -j route show default; echo; ip -j -6 route show default"
            four, _, six = guest.place.net.sh(script).partition("\n\n")
            via4 = [(r.get("gateway"), r["dev"]) for r in json.loads(four or "[]")]
            routes6 = json.loads(six or "[]")
            wrong = [] if via4 == [(fleet.GATEWAY4, "eth0")] else [f"{guest.label}: IPv4 default {via4}"]
            good = [r for r in routes6 if r.get("protocol") == "ra" and r.get("gateway", "").startswith("fe80:")]
            return wrong + ([] if good else [f"{guest.label}: IPv6 default {routes6}"])

        return probe

    for guest in scene.everyone:
        scene.until(f"default routes of {guest.label}", probe_of(guest))


@scenario("reach")
def reach(scene):
    """everybody reaches everybody and the gateway by IPv4, IPv6 and link-local, same host and across hosts"""
    nics = {guest.label: guest.nic() for guest in scene.everyone}
    gateway = state.link_local_of(_gateway_mac(scene, scene.sups[0]))
    for guest in scene.everyone:
        targets = [fleet.GATEWAY4, fleet.GATEWAY6, f"{gateway}%eth0"]
        for label, nic in nics.items():
            if label != guest.label:
                targets += [nic.ipv4, nic.ipv6, f"{nic.link_local}%eth0"]
        scene.reaches(guest, *targets)


def _gateway_mac(scene, host):
    return host.json(["ip", "-j", "link", "show", state.SVI])[0]["address"]


@scenario("gateway-mac")
def gateway_mac(scene):
    """the gateway answers with the same MAC everywhere"""
    on_hosts = set(scene.on_all(lambda host: _gateway_mac(scene, host)).values())
    check(len(on_hosts) == 1, f"the SVIs have different MACs: {on_hosts}")
    seen = {}
    for guest in scene.everyone:
        guest.place.net.run(["ip", "neigh", "flush", "dev", "eth0"], check=False)
        scene.reaches(guest, fleet.GATEWAY4, fleet.GATEWAY6)
        entries = guest.place.net.json(["ip", "-j", "neigh", "show", "dev", "eth0"])
        for entry in entries:
            if entry["dst"] in (fleet.GATEWAY4, fleet.GATEWAY6):
                seen[guest.label, entry["dst"]] = entry.get("lladdr")
    check(len(seen) == 2 * len(scene.everyone), f"not everybody knows the gateway by both families: {seen}")
    check(set(seen.values()) == on_hosts, f"the gateway is {on_hosts} but was seen as {seen}")


@scenario("mtu")
def mtu(scene):
    """a full-size packet that may not be fragmented passes, one byte more does not, by both families"""
    source = scene.c1
    flows = [(scene.c2.ipv4, 28), (scene.c2.ipv6, 48), (scene.extra.ipv4, 28), (scene.extra.ipv6, 48)]

    def answers(target, size):
        return target in scene.ping_all(source, [target], words=f"-M do -s {size}")

    for target, headers in flows:
        scene.until(
            f"{MTU} bytes reach {target}", lambda t=target, h=headers: None if answers(t, MTU - h) else ["no answer"]
        )
        check(not answers(target, MTU - headers + 1), f"{MTU + 1} bytes reach {target}")
    # The container's own limit is the first to refuse. Without it the tunnel must. (Between two
    # ports of one bridge the kernel lets four bytes more pass, for a VLAN tag.)
    script = "ip link set eth0 mtu {}"
    source.place.net.sh(script.format(1500))
    try:
        for target, headers in flows[:2]:
            check(not answers(target, MTU - headers + 1), f"{MTU + 1} bytes reach {target} past the container's MTU")
    finally:
        source.place.net.sh(script.format(MTU))
