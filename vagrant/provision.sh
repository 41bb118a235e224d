#!/bin/sh
# Makes a fresh Debian 13 a host of the lab: provision.sh ROLE [PREFIX=ROUTER]...
# Everything LXMesh needs comes from its package, and everything it configures from lxmesh-gen.
set -eu
# lxc would read what Vagrant has to say to the shell.
exec < /dev/null
role=$1
shift
export DEBIAN_FRONTEND=noninteractive

# A box of vagrant/box.sh has all packages, and need not reach an archive.
want="frr frr-pythontools iproute2 iputils-ping nftables dnsmasq-base"
[ "$role" != supervisor ] || want="$want lxd busybox-static"
[ ! -e /tmp/ipsec.secret ] || want="$want charon-systemd strongswan-swanctl"
missing=
for package in $want; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -o DPkg::Lock::Timeout=600 -y -qq --no-install-recommends $missing > /dev/null
fi

# The way to the other underlay subnets.
for route; do
    ip route replace "${route%%=*}" via "${route#*=}"
done

if [ "$role" = router ]; then
    echo 'net.ipv4.ip_forward = 1' > /etc/sysctl.d/50-lab-router.conf
    sysctl --quiet --system
    exit 0
fi

apt-get install -o DPkg::Lock::Timeout=600 -y -qq --no-install-recommends /tmp/lxmesh.deb > /dev/null
install -D -m 0644 /tmp/host.toml /etc/lxmesh/host.toml
[ ! -e /tmp/ipsec.secret ] || install -m 0600 /tmp/ipsec.secret /etc/lxmesh/ipsec.secret
systemctl enable --now systemd-networkd
systemctl enable frr
[ ! -e /tmp/ipsec.secret ] || systemctl enable strongswan
lxmesh-gen check
# the other hosts may not be there yet, and an emulated one takes its time
lxmesh-gen apply --health-limit 120
[ "$role" = supervisor ] || exit 0

systemctl enable --now lxmesh-agent
systemctl enable --now lxcfs lxd.socket lxd-containers
lxd waitready --timeout 300
if ! lxc storage show default > /dev/null 2>&1; then
    lxd init --preseed <<'PRESEED'
storage_pools:
- name: default
  driver: dir
profiles:
- name: default
  config:
    # busybox's init powers off on USR2; LXD would send PWR
    raw.lxc: lxc.signal.halt=SIGUSR2
  devices:
    root: { type: disk, path: /, pool: default }
PRESEED
fi

# An image without a download: busybox is init, shell and DHCP client.
if ! lxc image info bb > /dev/null 2>&1; then
    tree=$(mktemp -d)
    mkdir -p "$tree/rootfs/bin" "$tree/rootfs/sbin" "$tree/rootfs/etc" "$tree/rootfs/proc" "$tree/rootfs/sys" \
        "$tree/rootfs/dev" "$tree/rootfs/root" "$tree/rootfs/run" "$tree/rootfs/tmp" "$tree/rootfs/var"
    cp /bin/busybox "$tree/rootfs/bin/"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$tree/rootfs/bin/$applet"
    done
    ln -s ../bin/busybox "$tree/rootfs/sbin/init"
    echo 'root:x:0:0::/root:/bin/sh' > "$tree/rootfs/etc/passwd"
    cat > "$tree/rootfs/etc/inittab" <<'INITTAB'
::sysinit:/bin/ifconfig lo up
::sysinit:/bin/ifconfig eth0 up
::respawn:/bin/udhcpc -f -i eth0 -t 3 -A 2 -s /etc/dhcp -O mtu
INITTAB
    cat > "$tree/rootfs/etc/dhcp" <<'DHCP'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
[ -z "${mtu:-}" ] || ip link set "$interface" mtu "$mtu"
ip addr replace "$ip/$mask" dev "$interface"
ip route replace default via "$router"
DHCP
    chmod +x "$tree/rootfs/etc/dhcp"
    printf 'architecture: %s\ncreation_date: 1700000000\nproperties:\n  os: busybox\n' "$(uname -m)" > "$tree/metadata.yaml"
    tar -C "$tree" -cf /tmp/bb.tar metadata.yaml rootfs
    lxc image import /tmp/bb.tar --alias bb
    rm -rf "$tree" /tmp/bb.tar
fi

# c1 on sup1, c2 on sup2 ..., each in the network vpc; d1 and so on, with the same addresses, in the
# network blue of the lab that has one.
number=$(hostname | tr -dc 0-9)
container() {
    ! lxc info "$1" > /dev/null 2>&1 || return 0
    lxc init bb "$1"
    lxc config device add "$1" eth0 nic nictype=p2p name=eth0 "user.lxmesh.parent=$2" \
        "user.lxmesh.ipv4.address=192.0.2.1$number"
    lxc start "$1"
}
container "c$number" vpc
! grep -q '"blue"' /etc/lxmesh/host.toml || container "d$number" blue
