"""Who reaches whom: every container pings every other and the gateway, by IPv4, IPv6 and
IPv6 link-local."""

import concurrent.futures
import time

from labkit import fleet
from labkit.console import table

FAMILIES = ("v4", "v6", "ll")

# Runs where the container is: all pings at once, one line per target that answered.
_PING_ALL = """\
for target; do
    ping -n -q -c 2 -i 0.3 -W 3 "$target" > /dev/null 2>&1 && echo "$target" &
done
wait
"""


def _targets(lab):
    """{name: {family: address}} of all containers, and the gateway's known addresses."""
    found = {}
    for container in fleet.containers(lab):
        number = int(container.instance.removeprefix("c"))
        address4, address6 = fleet.addresses_of(number)
        found[container.instance] = {"v4": address4, "v6": address6, "ll": _link_local(container)}
    found["gateway"] = {"v4": fleet.GATEWAY4, "v6": fleet.GATEWAY6, "ll": None}
    return found


def _link_local(container):
    """Its link-local address with the interface, None while it has none."""
    text = container.run(["ip", "-6", "addr", "show", "dev", "eth0", "scope", "link"], check=False).stdout
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["inet6"] and "tentative" not in words:
            return words[1].split("/")[0] + "%eth0"
    return None


def _gateway_link_local(container):
    """The gateway's, as the router advertisements told this container."""
    words = container.run(["ip", "-6", "route", "show", "default"], check=False).stdout.split()
    return words[words.index("via") + 1] + "%eth0" if "via" in words else None


def measure(lab):
    """{(source, target, family): reached} for all containers and the gateway."""
    targets = _targets(lab)

    def from_one(source):
        own = {name: dict(addresses) for name, addresses in targets.items() if name != source.instance}
        own["gateway"]["ll"] = _gateway_link_local(source)
        wanted = {(name, family): own[name][family] for name in own for family in FAMILIES}
        addresses = sorted({address for address in wanted.values() if address})
        answer = source.net.run(["sh", "-c", _PING_ALL, "ping-all", *addresses], check=False, timeout=60)
        answered = set(answer.stdout.split())
        return {
            (source.instance, name, family): address is not None and address in answered
            for (name, family), address in wanted.items()
        }

    sources = fleet.containers(lab)
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(sources)) as pool:
        parts = list(pool.map(from_one, sources))
    return {key: value for part in parts for key, value in part.items()}


def until_complete(lab, timeout_s=90):
    """Measures until everybody reaches everybody or the time is over; returns the last result."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = measure(lab)
        if all(result.values()) or time.monotonic() > deadline:
            return result
        time.sleep(1)


def as_table(result):
    """One row per source, one column per target; what did not answer is in capitals."""
    sources = sorted({source for source, _, _ in result})
    targets = sorted({target for _, target, _ in result}, key=lambda name: (name == "gateway", name))
    rows = [["from \\ to", *targets]]
    for source in sources:
        row = [source]
        for target in targets:
            if source == target:
                row.append("-")
                continue
            reached = [family for family in FAMILIES if result[source, target, family]]
            failed = [f"NO-{family}" for family in FAMILIES if not result[source, target, family]]
            row.append(" ".join(reached + failed))
        rows.append(row)
    return table(rows)
