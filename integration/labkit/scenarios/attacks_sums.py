"""Frames with a deferred checksum, which the kernel writes where the sender says, behind all filters: the
low half of a source address, a port. `Attack.deferred` has them with the place: start and offset."""

import struct

from labkit.scenarios import frames as f
from labkit.scenarios.attacks import OPEN_PORT

MEASURE = "lxmesh metrics | sed -n 's/^lxmesh_deferred_checksum_dropped_total //p'"


def deferred_checksums(c):
    """To who is near, who is far, and both by way of the gateway."""
    for name, family in (("checksum-offset-4", 0), ("checksum-offset-6", 1)):
        a = c.attack(name, "a deferred checksum that is another field: addresses, ports, fragments, other protocols", "succeeded")
        _add(c, a, family)
        a.measure["dropped"] = MEASURE
        a.judge = _all_are_counted(a)


def _add(c, attack, family):
    kind, make = ((f.IP4, _four), (f.IP6, _six))[family]
    for victim in c.victims:
        for target_mac in (victim.mac, c.gateway.mac):
            for start, offset, packet in make(c.own.addresses[family], victim.addresses[family], attack.mark):
                attack.deferred.append((start, offset, f.ethernet(target_mac, c.own.mac, kind, packet)))


# In the container of this name: whatever it sends goes by a device that sends it once more, and has the host
# skip what looks at packets as they arrive (`tc_skip_classify`, set by ifb_ri_tasklet() in drivers/net/ifb.c).
_INSIDE = """\
set -eu
cd /sys/fs/cgroup/lxc.payload.$1
pid=$(cat cgroup.procs init.scope/cgroup.procs 2> /dev/null | head -n 1)
inside() { nsenter -t "$pid" -n "$@"; }
"""
TURN_ASIDE = _INSIDE + """\
inside ip link add ifb0 type ifb
inside ip link set ifb0 up
inside tc qdisc add dev eth0 clsact
inside tc filter add dev eth0 egress protocol all prio 1 u32 match mark 0 0xffffffff \\
    action skbedit mark 1 pipe action mirred egress redirect dev ifb0
"""
TURN_BACK = _INSIDE + """\
inside tc qdisc del dev eth0 clsact
inside ip link del ifb0
"""


def past_the_check(c):
    """The same frames, on a way on which the program at the port does not see them."""
    a = c.attack("checksum-skipped", "the same, sent so that the host skips the program at the port", "succeeded", "unchecked_frame")
    # Honest packets go the same way here, and are not let pass either.
    a.twins = []
    for family in (0, 1):
        _add(c, a, family)
    return a


def _all_are_counted(attack):
    def judge(result):
        wanted = 2 * len(attack.deferred)
        counted = result["measured"]["dropped"]
        return None if counted == wanted else f"{counted} frames were counted, and {wanted} sent"

    return judge


def _four(source, target, mark):
    udp = f.udp(source, target, 5400, OPEN_PORT, mark + bytes(16))
    short = udp[:4] + struct.pack("!H", len(udp) - 4) + udp[6:]
    tcp = f.tcp(source, target, 5400, 80, data=mark)

    def ip(protocol, payload, **more):
        return f.ipv4(source, target, protocol, payload, **more)

    return (
        # from the MAC header on: the IPv4 source is at 26, the transport header at 34
        (20, 8, ip(f.UDP, udp)), (20, 8, ip(f.UDP, short)), (20, 8, ip(253, udp)), (20, 8, ip(f.TCP, tcp)),
        (20, 6, ip(f.UDP, udp)), (20, 10, ip(f.UDP, udp)), (20, 12, ip(f.UDP, udp)),
        (34, 0, ip(f.UDP, udp)), (34, 2, ip(f.UDP, udp)), (34, 2, ip(f.TCP, tcp)), (34, 6, ip(f.TCP, tcp)),
        (42, 8, ip(f.UDP, udp)), (34, 6, ip(253, udp)), (34, 6, ip(4, udp)),
        (34, 6, ip(f.UDP, udp, fragment=0x2000)), (34, 6, ip(f.UDP, udp, fragment=0x0004)), (20, 8, ip(f.UDP, udp, fragment=0x0004)),
        (34, 6, ip(f.SCTP, udp)), (34, 2, ip(*f.echo(source, target, mark))),
    )


def _six(source, target, mark):
    udp = f.udp(source, target, 5400, OPEN_PORT, mark + bytes(16))
    short = udp[:4] + struct.pack("!H", len(udp) - 4) + udp[6:]
    tcp = f.tcp(source, target, 5400, 80, data=mark)

    def ip(header, payload):
        return f.ipv6(source, target, header, payload)

    return (
        # the source is at 22, the destination at 38, the transport header at 54
        (20, 4, ip(f.UDP, udp)), (20, 16, ip(f.UDP, udp)), (36, 0, ip(f.UDP, short)), (36, 16, ip(f.TCP, tcp)), (36, 16, ip(253, udp)),
        (20, 0, ip(f.UDP, udp)), (54, 0, ip(f.UDP, udp)), (54, 2, ip(f.UDP, udp)), (54, 2, ip(f.TCP, tcp)), (54, 6, ip(f.TCP, tcp)),
        (62, 8, ip(f.UDP, udp)), (54, 6, ip(253, udp)), (54, 6, ip(41, udp)), (54, 6, ip(f.SCTP, udp)),
        (62, 6, ip(60, f.extension(60, f.UDP)[1] + udp)),
        (62, 6, ip(44, f.fragment6(f.UDP, 0, 1, 9, udp))), (62, 6, ip(44, f.fragment6(f.UDP, 8, 0, 9, udp))),
        (54, 2, ip(*f.echo(source, target, mark))),
    )
