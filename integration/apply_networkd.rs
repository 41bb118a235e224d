//! `lxmesh-gen apply` and systemd-networkd: what networkd does not do by itself when files change is
//! done, and undone. In namespaces of its own, with the real networkd and its bus.

use std::process::Command;

/// A host with the lab's networks; `$STEPS` follows.
const PREPARE: &str = r#"
mount -t sysfs -o ro sysfs /sys          # without udev networkd waits for nobody
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/dbus /run/own/lib
chown -R systemd-network: /run/systemd/netif
for directory in systemd frr sysctl.d modules-load.d lxmesh; do
    mkdir -p /run/own/$directory /etc/$directory
    mount --bind /run/own/$directory /etc/$directory
done
mkdir -p /etc/systemd/network /etc/systemd/networkd.conf.d
mount --bind /run/own/lib /var/lib
dbus-daemon --system --fork --nopidfile
ip link set lo up
ip link add underlay type veth peer name far
ip link set far up
ip link set underlay up
ip address add 198.51.100.11/24 dev underlay
cp "$FLEET" /run/host.toml
"$GEN" render --host-file /run/host.toml --root / > /dev/null
"$NETWORKD" > /run/log 2>&1 &
until_true() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        test $tries -lt 600 || { echo "in vain: $*" >&2; ip -d address >&2; cat /run/log >&2; exit 1; }
        sleep 0.1
    done
}
tunnels() { test "$(ip -o link show type vxlan | grep -c ' master ')" = "$1"; }
vni() { ip -d link show "vxlan-$1" 2> /dev/null | grep -q "vxlan id $2 " && ip link show "vxlan-$1" | grep -q "master svi-$1"; }
has() { ip -o address show dev "$1" 2> /dev/null | grep -qF " $2 "; }
mtu() { ip link show "$1" | grep -q " mtu $2 "; }
fails() { if "$@"; then echo "should not be: $*" >&2; exit 1; fi; }   # `!` does not end a script
settled() { test "$(ls /var/lib/lxmesh-gen)" = "applied.toml
lock"; }
apply() { "$GEN" apply --host-file /run/host.toml "$@" 2>&1; }
until_true tunnels 2
test "$(apply)" = "nothing to do"
index=$(cat /sys/class/net/vxlan-vpc/ifindex)
printf '[[network]]\nname = "red"\nvni = 300\ngateway = ["198.18.0.1/24"]\n' >> /run/host.toml
apply
until_true has svi-red 198.18.0.1/24
vni red 300
"#;

fn on_a_host(steps: &str) {
    let networkd = "/usr/lib/systemd/systemd-networkd";
    let fleet = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/integration/golden/fleets/lab/host.toml"
    );
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private"])
        .args(["sh", "-euxc", &format!("{PREPARE}{steps}")])
        .env("NETWORKD", networkd)
        .env("FLEET", fleet)
        .env("GEN", env!("CARGO_BIN_EXE_lxmesh-gen"))
        .output()
        .expect("unshare can be run");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn devices_follow_the_host_file_and_those_that_need_not_change_are_not_made_anew() {
    on_a_host(
        r#"
sed -i 's/vni = 300/vni = 301/' /run/host.toml
apply
vni red 301
mac=$(cat /sys/class/net/svi-red/address)
test "$(sed -n 's/^MACAddress=//p' /etc/systemd/network/10-lxmesh-svi-red.netdev)" = "$mac"
# One link-local address, and that of the new MAC address.
test "$(ip -o -6 address show dev svi-red scope link | wc -l)" = 1
ip -o -6 address show dev svi-red scope link | grep -q "$(printf '%s' "$mac" | cut -d: -f6 | sed 's/^0//')/64"

sed -i 's#198.18.0.1/24#198.18.0.254/24#' /run/host.toml
apply
until_true has svi-red 198.18.0.254/24
fails has svi-red 198.18.0.1/24

sed -i 's/^\[fabric\]/[fabric]\nunderlay_mtu = 1400/' /run/host.toml
apply
until_true mtu svi-vpc 1350
mtu vxlan-vpc 1350

cp "$FLEET" /run/host.toml
apply
fails ip link show svi-red
fails ip link show vxlan-red
until_true mtu svi-vpc 1450
mtu vxlan-vpc 1450
test "$(cat /sys/class/net/vxlan-vpc/ifindex)" = "$index"
settled
"#,
    );
}

#[test]
fn what_nobody_confirms_is_undone_on_the_devices_too() {
    on_a_host(
        r#"
before=$(cat /etc/systemd/network/*)
sed -i 's/vni = 300/vni = 301/; s/"blue"/"green"/' /run/host.toml
apply --confirm 5
vni red 301
vni green 200
until_true settled
vni red 300
until_true vni blue 200
fails ip link show vxlan-green
test "$(cat /etc/systemd/network/*)" = "$before"
test "$(cat /sys/class/net/vxlan-vpc/ifindex)" = "$index"
"#,
    );
}

/// `setsid` starts the guard where there is no systemd.
#[test]
fn what_is_killed_while_its_guard_starts_leaves_nothing_unfinished() {
    on_a_host(
        r#"
mkdir /run/bin
cat > /run/bin/setsid << 'end'
#!/bin/sh
touch /run/started
kill -KILL "$PPID"
test -z "$GUARD" || exec /usr/bin/setsid "$@"
end
chmod +x /run/bin/setsid
before=$(cat /etc/systemd/network/*)
sed -i 's/vni = 300/vni = 301/' /run/host.toml
for guard in "" it-starts; do
    rm -f /run/started
    fails env PATH="/run/bin:$PATH" GUARD="$guard" "$GEN" apply --host-file /run/host.toml
    test -e /run/started
    fails test -e /var/lib/lxmesh-gen/journal.json
    test -z "$guard" || until_true settled
    test "$("$GEN" rollback)" = "nothing to undo: no apply is unfinished"
done
test "$(cat /etc/systemd/network/*)" = "$before"
vni red 300
apply
vni red 301
settled
"#,
    );
}

#[test]
fn tunnels_are_made_anew_by_a_networkd_that_is_late_to_notice_that_they_are_gone() {
    on_a_host(
        r#"
ls /run/systemd/netif/links | grep -qx "$index"
sed -i 's/vni = 300/vni = 301/; s/= 200$/= 201/' /run/host.toml
stopped=$(pgrep -x systemd-network)
kill -STOP "$stopped"
{ until_true test ! -e /sys/class/net/vxlan-red -o ! -e /sys/class/net/vxlan-blue; sleep 1; kill -CONT "$stopped"; } &
apply
wait $!
vni red 301
vni blue 201
settled
"#,
    );
}

#[test]
fn what_a_reader_refuses_is_not_applied_and_packets_that_cannot_be_tried_are_named() {
    on_a_host(
        r#"
mkdir /etc/lxmesh/extra
echo "router bgp 64500 with nonsense" > /etc/lxmesh/extra/frr.conf
before=$(cat /etc/frr/frr.conf /etc/systemd/network/*)
said=$(apply) && exit 1
echo "$said" | grep "^nothing was changed: /etc/frr/frr.conf: vtysh refuses it:"
echo "$said" | grep "correct the lines in /etc/lxmesh/extra/frr.conf"
test "$(cat /etc/frr/frr.conf /etc/systemd/network/*)" = "$before"
settled

rm /etc/lxmesh/extra/frr.conf
sed -i 's/vni = 300/vni = 301/' /run/host.toml
mount --bind /bin/false "$(command -v ping)"
apply | grep "packets of the largest size are not tried: ping -M do -V failed"
vni red 301
"#,
    );
}
