"""Things of others on the supervisors: made before the first test, compared after the last."""

import difflib
import json
import re

from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario

_BRIDGE, _TUNNEL = "lab-foreign", "lab-vx"

_CREATE = f"""\
set -eu
if [ -d /sys/class/net/{_BRIDGE} ]; then exit 0; fi
ip link add name {_BRIDGE} address 02:00:00:00:aa:00 type bridge mcast_snooping 0
ip link add name {_TUNNEL} type vxlan id 4242 dstport 4799 local "$1" nolearning
ip link set {_TUNNEL} master {_BRIDGE}
bridge link set dev {_TUNNEL} learning off
ip link set {_TUNNEL} up
ip link set {_BRIDGE} up
ip addr add 100.64.0.1/24 dev {_BRIDGE}
bridge fdb add 02:00:00:00:aa:01 dev {_TUNNEL} master extern_learn
bridge fdb append 02:00:00:00:aa:01 dev {_TUNNEL} dst 203.0.113.9 self
ip neigh add 100.64.0.9 lladdr 02:00:00:00:aa:01 dev {_BRIDGE} nud permanent
ip neigh add 2001:db8:aa::9 lladdr 02:00:00:00:aa:01 dev {_BRIDGE} nud permanent
ip route add 100.65.0.0/16 via 198.51.100.1 proto static
ip route add 100.66.0.0/16 dev {_BRIDGE} proto static metric 7
ip -6 route add 2001:db8:cc::/48 dev {_BRIDGE} proto static
nft -f - <<END
table bridge lab_foreign {{
	set seen {{ type ether_addr; elements = {{ 02:00:00:00:aa:01, 02:00:00:00:aa:02 }} }}
	chain forward {{ type filter hook forward priority 10; policy accept; ether saddr @seen accept; }}
}}
table inet lab_foreign {{
	set seen {{ type ipv4_addr; flags interval; elements = {{ 100.65.0.0/16 }} }}
	chain forward {{ type filter hook forward priority 10; policy accept; ip saddr @seen accept; }}
}}
END
"""

_REMOVE = f"""\
ip link del {_TUNNEL}; ip link del {_BRIDGE}
ip route del 100.65.0.0/16
nft delete table bridge lab_foreign; nft delete table inet lab_foreign
exit 0
"""

_LOOK = f"""\
section() {{ printf '\\n=== %s\\n' "$1"; }}
section links; ip -j -d link show dev {_BRIDGE}; ip -j -d link show dev {_TUNNEL}
section addresses; ip -4 addr show dev {_BRIDGE} scope global
# groups that the kernel itself listens to come in their own time
section fdb; bridge fdb show br {_BRIDGE} | grep -v "^33:33:" | sort
section neighbours; ip neigh show dev {_BRIDGE} nud permanent | sort
section routes; ip route show proto static; ip -6 route show proto static
section bridge table; nft list table bridge lab_foreign
section inet table; nft list table inet lab_foreign
exit 0
"""


def create(host):
    host.run(["sh", "-c", _CREATE, "create", host.address])


def remove(host):
    host.run(["sh", "-c", _REMOVE], check=False)


def look(host):
    """{what: text} of everything that is not LXMesh's."""
    text = host.run(["sh", "-c", _LOOK]).stdout
    parts = {}
    for part in text.split("\n=== ")[1:]:
        name, _, body = part.partition("\n")
        parts[name] = body.strip()
    parts["links"] = _without_clocks(parts["links"])
    # zebra's neighbours, which FRR keeps for the other hosts' containers
    zebra = [
        f"{e['dst']} {e['dev']} {e.get('lladdr')} {e.get('state')}" for e in state.read(host).neighbours
        if e.get("protocol") == "zebra"
    ]
    parts["zebra"] = "\n".join(sorted(zebra))
    return parts


def _without_clocks(text):
    """Links as text, without the bridge's running timers and the count of what it has learned."""
    decoder, at, links = json.JSONDecoder(), 0, []
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        links += value
        while at < len(text) and text[at].isspace():
            at += 1
    return re.sub(r' *"(\w*_timer|fdb_n_learned)": [\d.]+,?\n', "", json.dumps(links, sort_keys=True, indent=1))


@scenario("foreign-survives")
def foreign_survives(scene):
    """another bridge with a tunnel, other nftables tables, zebra's neighbours and static routes are as at the beginning"""

    def probe():
        complaints = []
        now = scene.on_all(look)
        for name, before in scene.foreign_before.items():
            for what, text in before.items():
                lines = difflib.unified_diff(text.splitlines(), now[name][what].splitlines(), "before", "now", n=1, lineterm="")
                if now[name][what] != text:
                    complaints.append(f"{name}: {what}:\n" + "\n".join(lines))
        return complaints

    for name, parts in scene.foreign_before.items():
        check(all(parts.values()), f"{name}: this test would compare nothing: {[k for k, v in parts.items() if not v]}")
    # Only zebra's neighbours may need a moment: the last test may just have ended.
    scene.until("strangers are as they were", probe, patience=20)
