"""The fabric encrypted, with certificates of two authorities: what the wire shows, who is kept out,
and what re-keying, a restart and a cold start of strongSwan cost. The first of these tests that runs
turns encryption on, the end of the theme turns it off, both by `lxmesh-gen apply` on every host."""

import contextlib
import json
import re
import time

from labkit import fleet
from labkit.scenarios import pki, policy
from labkit.scenarios.registry import check, scenario
from labkit.settings import INSIDE

CONF = fleet.HOST_FILE
_PKI = "/var/tmp/lab-pki"
_CAPTURE = "/var/tmp/lab-wire.pcap"
# How long it may take until packets pass again after strongSwan was restarted on one host. What is
# measured is printed; emulated machines are slow.
RESTART_LIMIT_S = 30
# New authentication replaces the associations at once, and what is on its way by the old ones is lost.
REAUTHENTICATION_LIMIT_S = 5

# Runs on the machine around the hosts, whose root file systems it reaches. Arguments: supervisors,
# then `--`, then reflectors. For all but the first of either there is a certificate that nobody
# should believe: of a stranger, revoked, or of the authority for the other role.
_AUTHORITIES = f"""\
{pki.FUNCTIONS}
[ ! -d {_PKI} ] || exit 0
mkdir {_PKI}; cd {_PKI}
for name in supervisors reflectors strangers; do authority $name & done
for name in "$@" sup2-bad sup3-bad rr2-bad; do [ $name = -- ] || key $name & done
wait
by=supervisors
for name; do
    if [ $name = -- ]; then by=reflectors; else issue $name $name $by & fi
done
issue sup2-bad sup2 strangers & issue sup3-bad sup3 supervisors & issue rr2-bad rr2 supervisors &
wait
list supervisors --reason key-compromise --cert sup3-bad.pem & list reflectors &
wait
for name; do
    [ $name = -- ] || give $name /srv/lab/$name/root supervisors reflectors
done
"""


def _encrypted_text(text):
    keys = (
        f'enabled = true\nidentity = "*.{pki.DOMAIN}"\nca = ["supervisors.pem"]\n'
        'reflector_ca = ["reflectors.pem"]\nrevocation = "strict"'
    )
    changed = text.replace("enabled = false", keys, 1)
    check(changed != text, "the lab's host file has no `enabled = false`")
    return changed


def _apply_everywhere(scene, texts, words):
    """All hosts at once, as hosts with and without encryption do not talk: {name: what was said}."""

    def one(host):
        host.push(texts[host.name], CONF)
        return host.run(["sh", "-c", f"lxmesh-gen apply {words} 2>&1"], timeout=300).stdout

    return scene.lab.each(scene.lab.hosts, one)


def _sessions(scene, patience=120):
    """BGP sessions are up everywhere."""

    def probe():
        asked = scene.lab.each(scene.lab.hosts, lambda host: host.sh("vtysh -c 'show bgp l2vpn evpn summary json'"))
        states = {name: re.findall(r'"state": ?"(\w+)"', text) for name, text in asked.items()}
        return [f"{name}: BGP sessions are {found}" for name, found in states.items() if set(found) != {"Established"}]

    scene.until("BGP sessions", probe, patience)


def _all_talk(scene):
    """BGP sessions are up everywhere, and everybody reaches everybody."""
    _sessions(scene)
    scene.reaches(scene.c1, scene.c2.ipv4, scene.c3.ipv6)
    scene.reaches(scene.c2, scene.c1.ipv4, scene.c3.ipv4)


def _renew(scene):
    """Containers ask DHCP again, and so learn the MTU; returns it."""
    mtu = int(scene.sups[0].sh("cat /sys/class/net/svi-vpc/mtu"))

    def one(guest):
        # the host's DHCP server may be older than its files for a moment
        script = (
            f"for try in $(seq 60); do [ $(cat /sys/class/net/eth0/mtu) != {mtu} ] || exit 0;"
            "killall -USR1 udhcpc; sleep 0.5; done; echo the MTU is $(cat /sys/class/net/eth0/mtu); exit 1"
        )
        guest.place.sh(script)

    scene.lab.each(scene.everyone, one)
    return mtu


def _encrypted(scene):
    """Encryption is on in the whole fabric until the theme ends; returns the overlay's MTU."""
    # what is in force is then known to be applied, so that a failure leads back to it
    known = "lxmesh-gen apply --no-health > /dev/null;" if not scene.ends else ""
    texts = scene.lab.each(scene.lab.hosts, lambda host: host.run(["sh", "-c", f"{known} cat {CONF}"]).stdout)
    if "enabled = false" not in texts[scene.lab.hosts[0].name]:
        return int(scene.sups[0].sh("cat /sys/class/net/svi-vpc/mtu"))
    names = [host.name for host in scene.lab.supervisors] + ["--"] + [host.name for host in scene.lab.reflectors]
    scene.lab.outside.run(["sh", "-c", _AUTHORITIES, "authorities", *names])
    scene.at_end_of_theme(lambda: _cleartext(scene, texts))
    begun = time.monotonic()
    pings = scene.pings((scene.c1, scene.c2.ipv4), (scene.c2, scene.c3.ipv6))
    try:
        pings.started()
        _apply_everywhere(scene, {name: _encrypted_text(text) for name, text in texts.items()}, "--health-limit 120")
        _all_talk(scene)
    finally:
        results = pings.stop()
    scene.note(f"turned on in {time.monotonic() - begun:.0f} s: " + "; ".join(map(str, results)))
    return _renew(scene)


# Associations (not those that are only asked for), and policies other than charon's own sockets'.
_XFRM = (
    "ip xfrm state | grep 'proto esp' | grep -v 'spi 0x00000000';"
    "ip xfrm policy | awk '/^src/ { line = $0 } /^\\tdir/ { print line, $0 }'"
)


def _cleartext(scene, texts):
    """Encryption is off everywhere, and nothing of it is left."""
    _apply_everywhere(scene, texts, "--no-health")
    _all_talk(scene)
    _renew(scene)
    left = scene.lab.each(scene.lab.hosts, lambda host: host.sh(f"{_XFRM}; systemctl stop strongswan"))
    check(not any(left.values()), lambda: f"associations and policies are left: {left}")


@contextlib.contextmanager
def _sealed(scene, *pairs):
    """During the block the underlay carries ESP between the pairs of hosts, and of anything else only
    IKE, and what makes hosts find one another."""
    outside = scene.lab.outside
    with outside.running(["tcpdump", "--immediate-mode", "-U", "-n", "-i", "ul", "-s", "96", "-Z", "root", "-w", _CAPTURE]) as capture:
        for line in capture.lines():
            if "listening on" in line:
                break
        yield
        capture.stop()
    # charon's multicast plugin joins groups (IGMP); 4799 is a stranger's tunnel, not the fabric's
    harmless = "esp or udp port 500 or arp or icmp or icmp6 or ip6 proto 0 or igmp or udp port 4799"
    asked = [f"not ({harmless})", "udp port 500"]
    asked += [f"esp and host {one.address} and host {other.address}" for one, other in pairs]
    script = "for f; do tcpdump -nr \"$0\" \"$f\" 2> /dev/null > \"$0.txt\"; wc -l < \"$0.txt\"; head -n 5 \"$0.txt\"; echo ===; done"
    said = outside.run(["sh", "-c", script, _CAPTURE, *asked]).stdout.split("===\n")
    found = [(int(part.split("\n", 1)[0]), part) for part in said if part]
    check(found[0][0] == 0, lambda: f"on the underlay, besides IKE and ESP: {found[0][1]}")
    for pair, (count, _) in zip(pairs, found[2:]):
        check(count > 0, lambda: f"no ESP between {pair}: what the capture says is nothing")
    scene.note(f"on the wire: {found[1][0]} packets of IKE, of ESP " + ", ".join(
        f"{one.name}-{other.name} {count}" for (one, other), (count, _) in zip(pairs, found[2:])))


@scenario("ipsec-wire")
def ipsec_wire(scene):
    """with IPsec on, containers talk, packets of the largest size pass, the wire shows IKE and ESP only"""
    mtu = _encrypted(scene)
    check(mtu < 1450, f"the overlay's MTU is {mtu}: IPsec takes nothing of it")
    first, second, third = scene.sups[:3]
    with _sealed(scene, (first, second), (second, third), (first, scene.lab.reflectors[0]), (second, scene.lab.reflectors[1])):
        with scene.no_ping_lost(*scene.ring(), what="encrypted"):
            scene.on_all(lambda host: host.sh("vtysh -c 'clear bgp l2vpn evpn * soft'"))
            # longer than two of BGP's keep-alives
            time.sleep(7)
            full = scene.ping_all(scene.c1, [scene.c2.ipv4], f"-M do -s {mtu - 28}")
            check(full, f"packets of {mtu} bytes do not reach {scene.c2.name}")
            check(not scene.ping_all(scene.c1, [scene.c2.ipv4], f"-M do -s {mtu - 27}"), f"one of {mtu + 1} bytes does")


@scenario("ipsec-tags", seldom=True)
def ipsec_tags(scene):
    """with IPsec on, too, tags travel between hosts, and marks that a container forges do not"""
    _encrypted(scene)
    policy.tags(scene)


@scenario("ipsec-rekey")
def ipsec_rekey(scene):
    """re-keying loses no ping; new authentication and a restart of strongSwan cost what is told"""
    _encrypted(scene)
    host, other = scene.sups[1], scene.sups[0]
    names = ["lxmesh-fleet", *("lxmesh-" + one.address.replace(".", "-") for one in scene.lab.reflectors)]
    keys = [f"swanctl --rekey --ike {name}" for name in names]
    keys += [f"swanctl --rekey --child {name}" for name in ("vxlan-to", "vxlan-from", "bgp-to")]
    with _sealed(scene, (host, other)):
        with scene.no_ping_lost(*scene.ring(), what="re-keying"):
            _replaced(scene, host, keys)
        pings = scene.pings(*scene.ring())
        try:
            pings.started()
            _replaced(scene, host, [f"swanctl --rekey --reauth --ike {name}" for name in names])
        finally:
            results = pings.stop()
        _gaps(scene, results, "authenticated anew", REAUTHENTICATION_LIMIT_S)
        pings = scene.pings(*scene.ring())
        try:
            pings.started()
            host.run(["systemctl", "restart", "strongswan"])
            scene.reaches(scene.c1, scene.c2.ipv4, patience=RESTART_LIMIT_S)
            scene.reaches(scene.c2, scene.c3.ipv6, patience=RESTART_LIMIT_S)
        finally:
            results = pings.stop()
    _gaps(scene, results, "strongSwan restarted", RESTART_LIMIT_S)


def _replaced(scene, host, commands):
    """Runs them, and returns when the host has none of the associations that it had before."""
    before = _spis(host)
    host.sh(" && ".join(commands) + " > /dev/null")

    def probe():
        left = before & _spis(host)
        return [f"{host.name}: associations {left} are still there, of {before}"] if left else []

    scene.until("every association replaced", probe)


def _gaps(scene, results, what, limit_s):
    scene.note(f"{what}: " + "; ".join(map(str, results)))
    check(max(result.gap_s for result in results) < limit_s, lambda: f"{what}: more than {limit_s} s without an answer: {results}")


def _spis(host):
    return set(re.findall(r"spi (0x[0-9a-f]{8})", host.sh("ip xfrm state"))) - {"0x00000000"}


# As after the hosts' start: no association, no policy, and no session: those have noticed.
_COLD = """\
set -eu
systemctl stop strongswan
ip xfrm state flush
ip xfrm policy flush
until ! vtysh -c "show bgp l2vpn evpn summary json" | grep -Eq '"state": ?"Established"'; do sleep 0.5; done
systemctl start strongswan
"""
# Returns when the host knows all these addresses.
_KNOWN = 'for address; do until ip neigh show to "$address" | grep -q lladdr; do sleep 0.2; done; done'
# The first packets of a container, and how many associations there were with the other host before. Each
# packet is waited for by itself: one ping for all would end two round trips after the last answer, and those
# that wait for the association may arrive after later ones. Arguments: container, target, the other host.
_FIRST = f"""\
ip xfrm state | grep -c "src .* dst $3"
for each in 1 2 3 4 5; do
    {INSIDE}/in-container --net "$1" ping -n -c 1 -W 30 "$2" &
    sleep 0.2
done
wait
"""


@scenario("ipsec-cold-start")
def ipsec_cold_start(scene):
    """strongSwan stopped everywhere, and started as at boot: no first packet of a container is lost"""
    _encrypted(scene)
    ends = [(scene.c1, scene.c2), (scene.c2, scene.c3), (scene.c3, scene.c1)]
    addresses = [guest.ipv4 for guest in (scene.c1, scene.c2, scene.c3)]
    with _sealed(scene, *((one.host, other.host) for one, other in ends)):
        # Hosts may speak with each other, or groups be asked for, before the pings: that shows nothing of these two.
        for _ in range(3):
            scene.lab.each(scene.lab.hosts, lambda host: host.sh(_COLD))
            _sessions(scene)
            scene.on_all(lambda host: host.run(["sh", "-c", _KNOWN, "known", *addresses]))
            ends = [(one, other) for one, other in ends if not _is_cold(scene, one, other)]
            if not ends:
                break
        check(not ends, lambda: f"had associations already, three times: {[(one.host.name, other.host.name) for one, other in ends]}")


def _is_cold(scene, one, other):
    """Whether the hosts had no associations; then none of the first packets was lost."""
    said = one.host.run(["sh", "-c", _FIRST, "first", one.name, other.ipv4, other.host.address]).stdout
    known, _, pinged = said.partition("\n")
    replies = re.findall(r"icmp_seq=1 .*time=(\S+)", pinged)
    took = ", ".join(f"{time} ms" for time in replies)
    scene.note(f"{one.label} to {other.label}, {known} associations before: {took}")
    check(len(replies) == 5, f"{one.label} to {other.label}: of 5 first packets, answered: {took}")
    return known == "0"


def _certificates(scene, suffix, hosts):
    """Gives the hosts those keys and certificates, and starts strongSwan there with nothing in its memory."""
    for host in hosts:
        own, etc = f"{_PKI}/{host.name}{suffix}", f"/srv/lab/{host.name}/root/etc/swanctl"
        scene.lab.outside.sh(f"cp {own}.pem {etc}/x509/host.pem && cp {own}.key {etc}/private/host.pem")
    scene.lab.each(hosts, lambda host: host.run(["systemctl", "restart", "strongswan"]))


@scenario("ipsec-outsiders")
def ipsec_outsiders(scene):
    """kept out: a stranger's host, a revoked one, and a supervisor that poses as a reflector"""
    _encrypted(scene)
    first, reflector = scene.sups[0], scene.lab.reflectors[0]
    outsiders = [scene.sups[1], scene.sups[2], scene.lab.reflectors[1]]
    reasons = ['no issuer certificate found for "CN=sup2"', "certificate was revoked", "not authenticated by CA 'CN=reflectors'"]
    since = first.sh("date +%s")
    try:
        _certificates(scene, "-bad", outsiders)
        found = scene.ping_all(scene.c1, [scene.c2.ipv4, scene.c3.ipv4], "-c 5")
        check(not found, lambda: f"{found} answer")

        def probe():
            said = first.sh(
                "swanctl --list-sas 2> /dev/null; echo ===; vtysh -c 'show bgp l2vpn evpn summary json';"
                f"echo ===; journalctl -q -o cat -u strongswan --since @{since}"
            )
            associations, sessions, journal = said.split("\n===\n")
            inside = set(re.findall(r"(?m)^\S+: #\d+, ESTABLISHED.*\n.*\n\s+remote '.*' @ ([0-9.]+)", associations))
            up = {address for address, peer in json.loads(sessions)["peers"].items() if peer["state"] == "Established"}
            lacks = [f"{first.name} has associations with {inside}"] if inside != {reflector.address} else []
            lacks += [f"{first.name} has sessions with {up}"] if up != {reflector.address} else []
            return lacks + [f"{first.name}'s strongSwan says nothing like {one!r}" for one in reasons if not re.search(one, journal)]

        scene.until("outsiders kept out", probe)
    finally:
        _certificates(scene, "", outsiders)
        _all_talk(scene)
