#!/bin/sh
# Builds the Vagrant box lxmesh/trixie for libvirt from Debian's own archive, for places where no
# box can be downloaded: vagrant/box.sh [FILE.box]
#
# Debian 13 with everything that provision.sh would install, from LXMESH_MIRROR or else the archive
# of this machine's own apt configuration. Needs mmdebstrap, e2fsprogs, qemu-utils
# and vagrant (for its public key); root; no boot loader, no loop devices, no mounts.
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/../target/vagrant/lxmesh-trixie.box}")
here=$(dirname "$(readlink -f "$0")")
[ "$(id -u)" = 0 ] || { echo "box.sh: needs root: a Debian tree is made" >&2; exit 1; }
for command in mmdebstrap mke2fs qemu-img; do
    command -v "$command" > /dev/null || { echo "box.sh: $command is missing" >&2; exit 1; }
done
mirror=${LXMESH_MIRROR:-$(PYTHONPATH=$here/../integration python3 -c 'from labkit import requirements; print(requirements.debian_mirror())')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mmdebstrap --quiet --mode=root --variant=minbase \
    --include=systemd,systemd-sysv,systemd-resolved,dbus,udev,kmod,openssh-server,sudo,procps,iproute2,iputils-ping,ca-certificates,initramfs-tools,linux-image-cloud-amd64,frr,frr-pythontools,charon-systemd,strongswan-swanctl,lxd,lxd-client,busybox-static,nftables,dnsmasq-base \
    trixie "$work/root" "$mirror"
root=$work/root

# Empty, so that each machine makes its own, and does not enable all units as at a first boot.
: > "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
echo trixie > "$root/etc/hostname"
printf '127.0.0.1 localhost\n' > "$root/etc/hosts"
echo '/dev/vda / ext4 errors=remount-ro 0 1' > "$root/etc/fstab"
# The first device is Vagrant's; the others are the lab's, and Vagrant writes their files.
cat > "$root/etc/systemd/network/80-vagrant.network" <<'NETWORK'
[Match]
Name=eth0

[Network]
DHCP=ipv4
NETWORK
chroot "$root" systemctl --quiet enable systemd-networkd ssh
# What a host needs is enabled when it is provisioned; what would only cost an emulated machine time is not started.
chroot "$root" systemctl --quiet disable frr strongswan lxcfs lxd-containers
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer

# What Vagrant expects of a box: this user, its well-known key, sudo without a password.
chroot "$root" useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD:ALL' > "$root/etc/sudoers.d/vagrant"
chmod 0440 "$root/etc/sudoers.d/vagrant"
key=$(find /usr /opt -path '*vagrant*/keys/vagrant.pub' 2> /dev/null | head -n 1)
[ -n "$key" ] || { echo "box.sh: Vagrant's public key is not on this machine; install vagrant" >&2; exit 1; }
install -d -m 0700 "$root/home/vagrant/.ssh"
install -m 0600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant: /home/vagrant/.ssh

# No boot loader: libvirt starts the kernel that lies in the box beside the disk.
kernel=$(ls "$root"/boot/vmlinuz-* | tail -n 1)
cp "$kernel" "$work/vmlinuz"
cp "$root/boot/initrd.img-${kernel##*/vmlinuz-}" "$work/initrd"
mke2fs -q -t ext4 -L lab -d "$root" "$work/disk.raw" 6G
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$work/box.img"
rm -rf "$work/disk.raw" "$root"

echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 6}' > "$work/metadata.json"
cat > "$work/Vagrantfile" <<'RUBY'
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.kernel = File.expand_path("vmlinuz", __dir__)
    libvirt.initrd = File.expand_path("initrd", __dir__)
    libvirt.cmd_line = "root=/dev/vda rw quiet net.ifnames=0 nowatchdog mitigations=off console=ttyS0"
  end
end
RUBY
mkdir -p "$(dirname "$out")"
tar -C "$work" -czf "$out.new" metadata.json Vagrantfile vmlinuz initrd box.img
mv "$out.new" "$out"
echo "$out"
echo "vagrant box add --name lxmesh/trixie $out && export LXMESH_BOX=lxmesh/trixie" >&2
