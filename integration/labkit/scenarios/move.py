"""Moving an instance: stop here, start there, same MAC and addresses."""

import dataclasses
import time

from labkit.platforms import ALONE
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario

_MAC = "00:16:3e:00:00:31"
_NUMBER = 31


@scenario("move", needs=ALONE)
def move(scene):
    """stopped here and started there with the same MAC and addresses, traffic follows, there and back"""
    here, there = scene.sups[0], scene.sups[1]
    places = {host.name: scene.guest(host, "m1", _NUMBER, start=False, mac=_MAC) for host in (here, there)}
    guest = places[here.name]
    guest.client("start", "m1")
    scene.dressed(guest)
    scene.present(guest)
    for source, target in ((here, there), (there, here)):
        old, new = places[source.name], places[target.name]
        pings = scene.pings((scene.c3, new.ipv4), (scene.c3, new.ipv6), (scene.extra, new.ipv4))
        try:
            pings.started()
            begun = time.monotonic()
            old.client("stop", "-f", "m1")
            stopped = time.monotonic() - begun
            new.client("start", "m1")
            started = time.monotonic() - begun
            # traffic follows, while everybody keeps asking
            scene.dressed(new)
            scene.reaches(scene.c3, new.ipv4, new.ipv6)
            scene.reaches(scene.extra, new.ipv4, new.ipv6)
            nic = scene.present(new)
        finally:
            results = pings.stop()
        scene.note(
            f"{source.name} → {target.name}: LXD stopped it in {stopped:.1f} s, started it there in {started - stopped:.1f} s; "
            + "; ".join(map(str, results))
        )
        only_there(scene, dataclasses.replace(nic), source)
        late = [str(result) for result in results if result.lost == result.sent]
        check(not late, f"never answered: {late}")
    for guest in places.values():
        scene.remove_guest(guest)


def only_there(scene, nic, left):
    """The host it left knows it as a stranger only: no port, no set element, no DHCP line."""

    def probe():
        look = state.read(left)
        own = [t for t in look.traces(nic) if t.startswith(("set", "DHCP", "group"))]
        own += [f"FDB {mac} {port}" for mac, port in look.our_fdb() if mac == nic.mac]
        own += [f"neighbour {a}" for a, mac in look.our_neighbours() if mac == nic.mac]
        return [f"{left.name} still has {text}" for text in own]

    scene.until(f"{left.name} has let go", probe)
