"""What somebody deletes or alters by hand is put back, and the journal names it.

Everything happens on the first host, which has two containers; what is compared is all that
the agent keeps there.
"""

import ipaddress
import time

from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT

SVI, TUNNEL = state.SVI, state.TUNNEL


def _repaired(scene, host, damages):
    """Each (what, script, journal pattern): after the script all is as before, and it is logged."""
    before = scene.ours(host)
    took = []
    for what, script, pattern in damages:
        scene.mark_journals()
        host.sh(script)
        begun = time.monotonic()
        try:
            scene.same_again(host, before)
            took.append(f"{what} {time.monotonic() - begun:.1f} s")
            scene.says(host, pattern)
        except Exception as error:
            error.args = (f"{what}: {error}",)
            raise
    scene.note(f"seen repaired after: {', '.join(took)}")


def _reachable(scene):
    scene.reaches(scene.c1, scene.c2.ipv4, scene.c2.ipv6, scene.extra.ipv4, scene.extra.ipv6)
    scene.reaches(scene.c2, scene.c1.ipv4, scene.c1.ipv6)


@scenario("repair-fdb")
def fdb(scene):
    """FDB entries deleted, moved to another port, or added to a port of ours"""
    nic, other = scene.c1.nic(), scene.extra.nic()
    _repaired(scene, scene.c1.host, [
        ("deleted", f"bridge fdb del {nic.mac} dev {nic.port} master", rf"\+ fdb {SVI} {nic.mac}"),
        ("moved", f"bridge fdb replace {other.mac} dev {nic.port} master extern_learn", rf"~ fdb {SVI} {other.mac}"),
        ("stray", f"bridge fdb add 02:00:00:00:00:99 dev {nic.port} master extern_learn", rf"- fdb {SVI} 02:00:00:00:00:99"),
    ])
    _reachable(scene)


@scenario("repair-neighbours")
def neighbours(scene):
    """neighbour entries deleted, altered, or added in our name"""
    nic, other = scene.c1.nic(), scene.extra.nic()
    _repaired(scene, scene.c1.host, [
        ("IPv4 and IPv6 deleted",
         f"ip neigh del {nic.ipv4} dev {SVI}; ip neigh del {nic.ipv6} dev {SVI}; ip neigh del {nic.link_local} dev {SVI}",
         rf"\+ neighbour {SVI} {nic.link_local}"),
        ("another MAC", f"ip neigh replace {other.ipv4} lladdr 02:00:00:00:00:99 dev {SVI} nud permanent protocol 242",
         rf"~ neighbour {SVI} {other.ipv4}"),
        ("somebody else's", f"ip neigh replace {other.ipv6} lladdr {other.mac} dev {SVI} nud reachable protocol static",
         rf"~ neighbour {SVI} {other.ipv6}"),
        ("stray", f"ip neigh replace 192.0.2.240 lladdr 02:00:00:00:00:99 dev {SVI} nud permanent protocol 242",
         rf"- neighbour {SVI} 192.0.2.240"),
    ])
    _reachable(scene)


@scenario("repair-groups")
def groups(scene):
    """multicast group entries deleted, or made temporary"""
    nic, other = scene.c1.nic(), scene.extra.nic()
    group, second = state.solicited_node_of(nic.ipv6), state.solicited_node_of(other.ipv6)
    mdb = "bridge mdb {} dev {} port {} grp {} {}"
    _repaired(scene, scene.c1.host, [
        ("deleted", mdb.format("del", SVI, nic.port, group, "permanent"), rf"\+ mdb {SVI} port {nic.port} group {group}"),
        ("temporary", mdb.format("del", SVI, other.port, second, "permanent") + "; "
         + mdb.format("add", SVI, other.port, second, "temp"), rf"[+~] mdb {SVI} port {other.port} group {second}"),
    ])
    _reachable(scene)


@scenario("repair-ports")
def ports(scene):
    """port attributes altered, a port taken down or out of its bridge"""
    nic, other = scene.c1.nic(), scene.extra.nic()
    _repaired(scene, scene.c1.host, [
        ("attributes", f"bridge link set dev {nic.port} learning on flood on guard off isolated on neigh_suppress on",
         rf"~ port {nic.port}"),
        ("down", f"ip link set {other.port} down", rf"~ port {other.port}"),
        ("out of its bridge", f"ip link set {other.port} nomaster", rf"~ port {other.port} in no SVI"),
    ])
    _reachable(scene)


@scenario("repair-bridge-and-tunnel")
def bridge_and_tunnel(scene):
    """the bridge's multicast settings and the tunnel's attributes altered"""
    _repaired(scene, scene.c1.host, [
        ("querier off", f"ip link set {SVI} type bridge mcast_querier 0 mcast_query_response_interval 1000", rf"~ bridge {SVI}"),
        ("tunnel port", f"bridge link set dev {TUNNEL} learning on flood on mcast_flood on neigh_suppress off", rf"~ tunnel {TUNNEL}"),
        ("tunnel group", f"ip link set {TUNNEL} group 7", rf"~ tunnel {TUNNEL} device group 7"),
        ("tunnel learning", f"ip link set {TUNNEL} type vxlan learning", rf"~ tunnel {TUNNEL} VTEP learning"),
    ])
    _reachable(scene)


@scenario("repair-set-elements")
def set_elements(scene):
    """elements of every set deleted, added, and a map's value changed"""
    nic, other = scene.c1.nic(), scene.extra.nic()
    ifindex = state.read(scene.c1.host).links[nic.port]["ifindex"]

    def delete(name, element, family="bridge"):
        return f"nft delete element {family} lxmesh {name} '{{ {element} }}'"

    raw = int(nic.mac.replace(":", ""), 16)
    _repaired(scene, scene.c1.host, [
        ("what admits a port", "; ".join([
            delete("nic_ports", f'"{nic.port}"'), delete("nic_macs", f'"{nic.port}" . {nic.mac}'),
            delete("payload_macs", f'"{nic.port}" . {raw:#x}'),
            delete("nic_id4", f'"{nic.port}" . {nic.mac} . {nic.ipv4}'), delete("nic_id6", f'"{nic.port}" . {nic.mac} . {nic.ipv6}'),
            delete("nic_ports", f'"{nic.port}"', "inet"),
            delete("sender_zone4", f'"{nic.port}" . {raw << 16 | 0x0800:#x} . {int(ipaddress.ip_address(nic.ipv4)):#x}'),
            delete("sender_zone6", f'"{nic.port}" . {raw << 16 | 0x86DD:#x} . {int(ipaddress.ip_address(nic.ipv6)):#x}'),
        ]), r"\+ nft_element @nic_id6"),
        ("what names the networks", "; ".join([
            delete("svi_names", '"svi-blue"'), delete("mcast_svis", '"svi-blue"'), delete("overlay_ports", f'"{TUNNEL}"'),
            delete("overlay_zones", f'"{TUNNEL}"'),
            delete("vxlan_udp", "4789"), delete("svi_names", f'"{SVI}"', "inet"),
        ]), r"\+ nft_element @svi_names"),
        # in one transaction, or the repair comes between
        ("zone", f"nft 'delete element bridge lxmesh zone_by_port {{ \"{nic.port}\" }}; "
         f"add element bridge lxmesh zone_by_port {{ \"{nic.port}\" : 77 }}'", rf"~ nft_element @zone_by_port {{ {ifindex} }}"),
        ("strays", "; ".join([
            f"nft add element bridge lxmesh in_svc '{{ \"{nic.port}\" . tcp . 22 }}'",
            f"nft add element bridge lxmesh served_svc4 '{{ \"{nic.port}\" . {nic.mac} . {nic.ipv4} . tcp . 23 }}'",
            f"nft add element bridge lxmesh nic_id4 '{{ \"{nic.port}\" . {nic.mac} . {other.ipv4} }}'",
        ]), r"- nft_element @in_svc"),
    ])
    _reachable(scene)


@scenario("repair-rules")
def rules(scene):
    """rules deleted, rules added, tables flushed, tables deleted: one piece takes their place"""
    log = r"nft_table lxmesh"
    _repaired(scene, scene.c1.host, [
        ("a rule added", "nft insert rule bridge lxmesh check_source accept", log),
        ("a table flushed", "nft flush table bridge lxmesh", log),
        ("all tables deleted", "for family in bridge inet arp; do nft delete table $family lxmesh; done", log),
    ])
    _reachable(scene)


@scenario("repair-dhcp")
def dhcp(scene):
    """dnsmasq killed is started again"""
    host = scene.c1.host
    before = scene.status(host)["dhcp"]
    scene.mark_journals()
    host.sh("kill -9 $(pgrep -x dnsmasq)")

    def probe():
        now = scene.status(host)["dhcp"]
        return [] if now.startswith("dnsmasq running") and now != before else [now]

    scene.until("dnsmasq runs again", probe)
    scene.says(host, "dnsmasq is not running|dnsmasq ended")


@scenario("repair-unheard", seldom=True)
def unheard(scene):
    """what the kernel tells nobody of (probe counts, files) is found by the next full pass"""
    host = scene.c1.host
    before = scene.ours(host)
    scene.mark_journals()
    host.sh(
        f"sysctl -q -w net.ipv4.neigh.{SVI}.mcast_solicit=3 net.ipv6.neigh.{SVI}.ucast_solicit=3;"
        f"echo '02:00:00:00:00:99,192.0.2.240' >> {state.DHCP_HOSTS}"
    )
    # a full pass comes at least every 75 s
    scene.same_again(host, before, patience=110)
    scene.says(host, rf"~ solicit {SVI}", "~ dnsmasq_file")


def _devices_again(scene, host, script, pattern, what):
    """The script takes devices away and has networkd make them again; all recovers."""
    look = state.read(host)
    before = {name for name, link in look.links.items() if link.get("master") == SVI}
    scene.mark_journals()
    try:
        host.sh(script)
        scene.says(host, pattern)
    finally:
        # networkd makes a missing device when it starts, and configures the links it finds
        host.run(["systemctl", "restart", "systemd-networkd"])

    def probe():
        now = {name for name, link in state.read(host).links.items() if link.get("master") == SVI}
        return [] if now == before else [f"{SVI} has {sorted(now)}, had {sorted(before)}"]

    scene.until(f"{what}: the bridge and its ports are back", probe)
    for guest in (scene.c1, scene.extra, scene.c2):
        scene.present(guest)
    _reachable(scene)
    scene.says(host, r"no longer: (bridge|tunnel) ")


@scenario("repair-tunnel-recreated")
def tunnel_recreated(scene):
    """the tunnel deleted and re-created by networkd: everything recovers, pings resume"""
    host = scene.c1.host
    _devices_again(scene, host, f"ip link del {TUNNEL}", f"tunnel {TUNNEL} does not exist", "tunnel")


@scenario("repair-bridge-recreated")
def bridge_recreated(scene):
    """the bridge deleted and re-created by networkd: everything recovers, pings resume"""
    host = scene.c1.host
    _devices_again(scene, host, f"ip link del {SVI}", f"bridge {SVI} does not exist", "bridge")
    check(scene.main_pid(host) > 0, f"{AGENT} does not run")
