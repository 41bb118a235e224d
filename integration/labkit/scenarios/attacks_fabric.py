"""Attacks on hosts of the fabric by their underlay addresses: what a container sends to its gateway for them."""

from labkit.scenarios import frames as f

# What a rule of the scenario's translates into another supervisor's address; nobody has it.
TRANSLATED = "198.51.100.78"
TRANSLATE = """\
table ip lxmesh_lab {{
    chain before {{
        type nat hook prerouting priority dstnat;
        ip daddr {translated} dnat to {target}
    }}
}}
"""


def _sent(c, a, target):
    """What the attacker's own services allow, ping, and what is neither TCP, UDP nor SCTP."""
    own, mac = c.own, c.gateway.mac
    a.add(c.packet(mac, own.ipv4, target, *f.echo(own.ipv4, target, a.mark)))
    a.add(*(c.packet(mac, own.ipv4, target, f.TCP, f.tcp(own.ipv4, target, 5450, port, data=a.mark)) for port in (80, 179)))
    a.add(*(c.datagram(mac, own.ipv4, target, port, a.mark, source_port=5451) for port in (53, 5999)))
    a.add(c.packet(mac, own.ipv4, target, f.SCTP, f.sctp_init(5452, 5400, a.mark)))


def hosts(c, reflector):
    """To this host, another supervisor and a reflector; then to an address that is translated into the other one's."""
    own, mac = c.own, c.gateway.mac
    a = c.attack("fabric", "supervisors and reflectors, by their underlay addresses", "not tried", "fabric_denied")
    for target in (c.underlay, c.far_underlay, reflector):
        _sent(c, a, target)
        for port in (22, 2601, 8443):
            a.add(c.packet(mac, own.ipv4, target, f.TCP, f.tcp(own.ipv4, target, 5453, port, 16, a.mark)))
        a.add(*(c.packet(mac, own.ipv4, target, protocol, a.mark * 2) for protocol in (4, 41, 50, 89, 253)))
        a.add(c.packet(mac, own.ipv4, target, f.ICMP, f.icmp(13, 0, bytes([0x4C, 0x58, 0, 1]) + a.mark)))
        whole = f.udp(own.ipv4, target, 5454, 53, a.mark * 80)
        for cut, number in ((8, 201), (1240, 202)):
            for at, more, part in ((0, 1, whole[:cut]), (cut, 0, whole[cut:])):
                packet = f.ipv4(own.ipv4, target, f.UDP, part, number=number, fragment=at // 8 | more << 13)
                a.add(f.ethernet(mac, own.mac, f.IP4, packet))
    a = c.attack("fabric-translated", "the same by a DNAT rule of the host's administrator", "not tried", "to_fabric_denied", may=("host",))
    _sent(c, a, TRANSLATED)
