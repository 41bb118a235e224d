"""The AppArmor profile of the package. It is in force from the start, in all tests before this one."""

from labkit.scenarios.registry import check, scenario

_PROFILE = "lxmesh-agent"
# The agent and its children (dnsmasq), and what each is confined by.
_CONFINED = """\
agent=$(systemctl show --property MainPID --value lxmesh-agent)
for pid in "$agent" $(pgrep -P "$agent"); do
    echo "$(cat "/proc/$pid/comm") $(cat "/proc/$pid/attr/apparmor/current")"
done
"""
# As the agent is confined: a program that reads what is not the agent's.
_STRANGER = f"systemd-run --quiet --wait --property AppArmorProfile={_PROFILE} tac /etc/shadow"
_COMM = 'comm="tac"'


def _denied(scene):
    """What was denied to the agent, and what to the stranger, as the kernel tells it."""
    told = scene.lab.outside.sh("journalctl -k -q -o cat --grep 'apparmor=\"DENIED\"' || true")
    lines = [line for line in told.splitlines() if f'profile="{_PROFILE}"' in line]
    return [line for line in lines if _COMM not in line], [line for line in lines if _COMM in line]


@scenario("confined")
def confined(scene):
    """the agent and its children have run under the package's AppArmor profile, and missed nothing"""
    denied, _ = _denied(scene)
    found = scene.lab.each(scene.sups, lambda host: host.sh(_CONFINED).splitlines())
    for name, processes in found.items():
        programs = {line.split()[0] for line in processes}
        check({"lxmesh", "dnsmasq"} <= programs, lambda: f"{name}: {processes}")
        free = [line for line in processes if not line.endswith(f" {_PROFILE} (enforce)")]
        check(not free, lambda: f"{name}: not confined: {free}")
    check(not denied, lambda: "denied:\n" + "\n".join(denied))
    # The same kernel does deny, and tells of it.
    host = scene.sups[0]
    check(host.run(["sh", "-c", _STRANGER], check=False).returncode != 0, "the profile lets tac read /etc/shadow")
    scene.until("the denial is told", lambda: [] if _denied(scene)[1] else ["nothing was denied"])
