"""What one host's kernel and files hold, read by ip, bridge and nft in one remote call."""

import dataclasses
import ipaddress
import json
import re

SVI = "svi-vpc"
TUNNEL = "vxlan-vpc"
DHCP_HOSTS = "/run/lxmesh/dnsmasq/hosts"
OUR_PROTOCOLS = {"lxmesh", "242", 242}

_READ = f"""\
section() {{ printf '\\n=== %s\\n' "$1"; }}
section links; ip -j -d link show
section fdb; bridge -j fdb show
section neighbours; ip -j neigh show nud all
section mdb; bridge -j -d mdb show
section bridge; nft -j list table bridge lxmesh 2>/dev/null
section inet; nft -j list table inet lxmesh 2>/dev/null
section arp; nft -j list table arp lxmesh 2>/dev/null
section dhcp; cat {DHCP_HOSTS} 2>/dev/null
section dhcpconf; cat {DHCP_HOSTS.rsplit("/", 1)[0]}/dnsmasq.conf 2>/dev/null
section solicit; for f in /proc/sys/net/ipv?/neigh/{SVI}/?cast_solicit; do echo "$f $(cat "$f")"; done 2>/dev/null
exit 0
"""

# Sets whose elements the agent keeps; the rest are filled by the rules.
_SETS = {
    "svi_names", "mcast_svis", "nic_ports", "overlay_ports", "router_macs", "nic_macs", "payload_macs", "nic_id4", "nic_id6", "port_marks", "zone_by_port",
    "overlay_zones", "sender_zone4", "sender_zone6", "port_zones", "svi_gateways4", "svi_gateways6",
    "vxlan_udp", "fabric_hosts4", "fabric_hosts6", "fabric_svc4", "fabric_svc6", "out_svc", "in_svc", "served_svc4", "out_more", "in_more", "out_rules4", "out_rules6", "in_rules4", "in_rules6", "in_tags",
    "limited_ports", "limit_new", "limit_ctl", "limit_conns", "audited_ports", "logged_ports",
}
_PORT_KEYS = (
    "learning", "flood", "mcast_flood", "bcast_flood", "proxy_arp", "proxy_arp_wifi", "guard",
    "multicast_router", "neigh_suppress", "isolated", "hairpin", "mcast_max_groups",
)
_BRIDGE_KEYS = (
    "mcast_snooping", "mcast_querier", "mcast_igmp_version", "mcast_mld_version", "mcast_router",
    "mcast_query_response_intvl",
)


@dataclasses.dataclass(frozen=True)
class Nic:
    """One NIC as LXD has it, and where."""

    host: str
    instance: str  # as `lxmesh status` names it: PROJECT/NAME outside the default project
    port: str
    mac: str
    ipv4: str | None
    ipv6: str | None

    @property
    def link_local(self):
        return link_local_of(self.mac)

    @property
    def addresses(self):
        return [address for address in (self.ipv4, self.ipv6, self.link_local) if address]


def link_local_of(mac):
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A), in its shortest form."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 2
    octets[3:3] = [0xFF, 0xFE]
    groups = [f"{octets[i] << 8 | octets[i + 1]:x}" for i in range(0, 8, 2)]
    return "fe80::" + ":".join(groups)


def solicited_node_of(address):
    """The solicited-node group of an IPv6 address, in its shortest form (RFC 4291, 2.7.1)."""
    low = int(ipaddress.IPv6Address(address)) & 0xFFFFFF
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("ff02::1:ff00:0")) | low))


class State:
    """One look at a host."""

    def __init__(self, text):
        sections = {}
        for part in text.split("\n=== ")[1:]:
            name, _, body = part.partition("\n")
            sections[name] = body
        self.links = {link["ifname"]: link for link in _value(sections["links"]) if "ifname" in link}
        self.fdb = _value(sections["fdb"])
        self.neighbours = [entry for entry in _value(sections["neighbours"]) if "dst" in entry]
        self.groups = [entry for part in _value(sections["mdb"]) for entry in part.get("mdb", [])]
        self.sets = _sets("", sections["bridge"]) | _sets("inet ", sections["inet"]) | _sets("arp ", sections["arp"])
        tables = [sections[name] for name in ("bridge", "inet", "arp")]
        self.rules = [rule for table in tables for rule in _rules(table)]
        self.counters = {name: value for table in tables for name, value in _counters(table).items()}
        self.dhcp = sections["dhcp"].strip().splitlines()
        self.dhcp_config = sections["dhcpconf"].strip()
        self.solicit = sections["solicit"].strip().splitlines()

    # -- one NIC --------------------------------------------------------------------------

    def missing_here(self, nic):
        """What a NIC of this host lacks, as texts."""
        lacks = []
        link = self.links.get(nic.port, {})
        if link.get("master") != SVI or "UP" not in link.get("flags", []):
            lacks.append(f"port {nic.port} is not up in {SVI}")
        if (nic.mac, nic.port) not in self.our_fdb():
            lacks.append(f"FDB entry {nic.mac} on {nic.port}")
        ours = self.our_neighbours()
        for address in nic.addresses:
            if (address, nic.mac) not in ours:
                lacks.append(f"neighbour {address} at {nic.mac}")
        groups = {(entry["port"], entry["grp"]) for entry in self.groups if entry.get("state") == "permanent"}
        for address in nic.addresses:
            if ":" in address and (nic.port, solicited_node_of(address)) not in groups:
                lacks.append(f"group {solicited_node_of(address)} on {nic.port}")
        wanted = {
            "nic_ports": [nic.port], "inet nic_ports": [nic.port], "arp nic_ports": [nic.port], "nic_macs": [f"{nic.port} . {nic.mac}"],
            "nic_id4": [f"{nic.port} . {nic.mac} . {nic.ipv4}"] if nic.ipv4 else [],
            "nic_id6": [f"{nic.port} . {nic.mac} . {a}" for a in nic.addresses if ":" in a],
        }
        for name, elements in wanted.items():
            lacks += [f"set {name}: {one}" for one in elements if one not in self.sets.get(name, set())]
        own = [address for address in (nic.ipv4, nic.ipv6) if address]
        line = next((line for line in self.dhcp if line.startswith(nic.mac)), "")
        said = line.replace("[", "").replace("]", "").split(",")
        if own and not set(own) <= set(said):
            lacks.append(f"DHCP line of {nic.mac} with {' and '.join(own)}")
        return lacks

    def missing_from_afar(self, nic, vtep):
        """What this host lacks of what FRR should have told it of another host's NIC."""
        lacks = []
        found = [entry for entry in self.fdb if entry["mac"] == nic.mac and entry.get("dst") == vtep]
        if not found:
            lacks.append(f"FDB entry {nic.mac} to {vtep}")
        zebra = {
            (entry["dst"], entry.get("lladdr")) for entry in self.neighbours
            if entry["dev"] == SVI and entry.get("protocol") == "zebra"
        }
        lacks += [f"zebra's neighbour {a} at {nic.mac}" for a in nic.addresses if (a, nic.mac) not in zebra]
        return lacks

    def traces(self, nic, port=True):
        """Everything that still knows the NIC's MAC or addresses, as texts."""
        found = [f"FDB {entry}" for entry in self.fdb if entry["mac"] == nic.mac]
        for entry in self.neighbours:
            if entry["dst"] in nic.addresses and entry.get("state") not in (["FAILED"], ["INCOMPLETE"]):
                found.append(f"neighbour {entry}")
        if port:
            found += [f"group {entry}" for entry in self.groups if entry["port"] == nic.port]
            if self.links.get(nic.port, {}).get("master"):
                found.append(f"{nic.port} in {self.links[nic.port]['master']}")
        payload = {str(int(nic.mac.replace(":", ""), 16) << 16 | ethertype) for ethertype in (0x0800, 0x86DD)}
        for name, elements in self.sets.items():
            for element in elements:
                parts = element.split(" . ")
                if nic.mac in parts or payload & set(parts) or set(nic.addresses) & set(parts) or (port and nic.port in parts):
                    found.append(f"set {name}: {element}")
        found += [f"DHCP: {line}" for line in self.dhcp if nic.mac in line or (nic.ipv4 and f",{nic.ipv4}" in line)]
        return found

    def our_fdb(self):
        return {
            (entry["mac"], entry["ifname"]) for entry in self.fdb
            if entry.get("master") == SVI and "extern_learn" in entry.get("flags", [])
            and entry["ifname"] != TUNNEL
        }

    def our_neighbours(self):
        return {
            (entry["dst"], entry.get("lladdr")) for entry in self.neighbours
            if entry["dev"] == SVI and entry.get("protocol") in OUR_PROTOCOLS
            and "PERMANENT" in entry.get("state", [])
        }

    # -- all that is ours --------------------------------------------------------------------

    def ports(self):
        """The ports of the SVI, without the tunnel."""
        return {name for name, link in self.links.items() if link.get("master") == SVI and name != TUNNEL}

    def orphans(self):
        """Elements of `nic_ports` that are no port of a bridge: somebody's leavings."""
        members = {name for name, link in self.links.items() if link.get("master", "").startswith("svi-")}
        return {name for name in self.sets.get("nic_ports", set()) if name not in members}

    def ours(self):
        """All that the agent keeps on this host, in a form that compares: {text, ...}."""
        all_of = set()
        for mac, port in self.our_fdb():
            all_of.add(f"fdb {mac} {port}")
        for address, mac in self.our_neighbours():
            all_of.add(f"neighbour {address} {mac}")
        for entry in self.groups:
            if entry.get("protocol") in OUR_PROTOCOLS:
                all_of.add(f"group {entry['port']} {entry['grp']} {entry.get('state')}")
        for name, elements in self.sets.items():
            all_of |= {f"set {name}: {element}" for element in elements}
        all_of |= {f"rule {rule}" for rule in self.rules}
        for name in self.ports() | {TUNNEL}:
            link = self.links.get(name, {})
            data = link.get("linkinfo", {}).get("info_slave_data", {})
            up = "up" if "UP" in link.get("flags", []) else "down"
            all_of.add(f"port {name} {link.get('master')} {up} " + _some(data, _PORT_KEYS))
        all_of.add("bridge " + _some(self.links.get(SVI, {}).get("linkinfo", {}).get("info_data", {}), _BRIDGE_KEYS))
        learning = self.links.get(TUNNEL, {}).get("linkinfo", {}).get("info_data", {}).get("learning")
        all_of.add(f"tunnel learning {learning} group {self.links.get(TUNNEL, {}).get('group')}")
        all_of |= {f"dhcp {line}" for line in self.dhcp}
        all_of.add(f"dhcp config {self.dhcp_config}")
        all_of |= {f"sysctl {line}" for line in self.solicit}
        return all_of


def read(host):
    return State(host.run(["sh", "-c", _READ], timeout=60).stdout)


def differences(before, after):
    """Two results of `ours`, as lines of a diff."""
    return [f"- {text}" for text in sorted(before - after)] + [f"+ {text}" for text in sorted(after - before)]


def _some(data, keys):
    return " ".join(f"{key}={data.get(key)}" for key in keys)


def _value(text):
    text = text.strip()
    return json.loads(text) if text else []


def _nft(text):
    text = text.strip()
    return json.loads(text)["nftables"] if text else []


def _sets(prefix, text):
    """{set name: {element text, ...}} of the sets that the agent fills."""
    found = {}
    for thing in _nft(text):
        one = thing.get("set") or thing.get("map")
        if one and one["name"] in _SETS:
            found[prefix + one["name"]] = {_element(element) for element in one.get("elem", [])}
    return found


def _element(element):
    if isinstance(element, list):  # a map's: key, value
        return " : ".join(_element(part) for part in element)
    if isinstance(element, dict):
        if "elem" in element:
            return _element(element["elem"]["val"])
        if "concat" in element:
            return " . ".join(_element(part) for part in element["concat"])
        return json.dumps(element, sort_keys=True)
    return str(element)


def _rules(text):
    """The rules without what changes by itself: handles."""
    return [
        re.sub(r'"handle": \d+, ', "", json.dumps({k: v for k, v in thing["rule"].items() if k != "handle"}, sort_keys=True))
        for thing in _nft(text) if "rule" in thing
    ]


def _counters(text):
    return {thing["counter"]["name"]: thing["counter"]["packets"] for thing in _nft(text) if "counter" in thing}
