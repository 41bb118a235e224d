# Two supervisors that peer with each other, Incus on both, one container on each: from boot to a
# ping between the containers. `nix build .#checks.x86_64-linux.two-hosts`; needs KVM and a binary
# cache. The container image is made on the spot, so the machines need no network of their own.
{ pkgs, ... }:
let
  addresses = {
    one = "192.168.1.1";
    two = "192.168.1.2";
  };
  host =
    underlay:
    { pkgs, ... }:
    {
      imports = [ ../module.nix ];
      virtualisation.incus.enable = true;
      networking.firewall.trustedInterfaces = [ "svi-vpc" ];
      services.lxmesh = {
        enable = true;
        settings = {
          fabric = {
            name = "test";
            asn = 64500;
            supervisors = builtins.attrValues addresses;
          };
          host = { inherit underlay; };
          network = [
            {
              name = "vpc";
              vni = 100;
              gateway = [ "192.0.2.1/24" ];
            }
          ];
        };
      };
    };
  # busybox as init and everything else, with the address of eth0 set by hand
  image = pkgs.runCommand "container" { } ''
    mkdir -p tree/rootfs/{bin,sbin,proc,sys,dev,etc,root,tmp,run,var}
    cp ${pkgs.pkgsStatic.busybox}/bin/busybox tree/rootfs/bin/
    for applet in $(tree/rootfs/bin/busybox --list); do
      [ $applet = busybox ] || ln -s busybox tree/rootfs/bin/$applet
    done
    ln -s ../bin/busybox tree/rootfs/sbin/init
    printf '::sysinit:/bin/true\n::respawn:/bin/sleep 100000\n' > tree/rootfs/etc/inittab
    echo 'root:x:0:0::/root:/bin/sh' > tree/rootfs/etc/passwd
    printf 'architecture: x86_64\ncreation_date: 1\nproperties:\n  os: busybox\n' > tree/metadata.yaml
    tar -C tree -cf $out metadata.yaml rootfs
  '';
in
{
  name = "lxmesh-two-hosts";
  nodes = {
    one = host addresses.one;
    two = host addresses.two;
  };
  testScript = ''
    start_all()
    for number, machine in enumerate([one, two], 11):
        machine.wait_for_unit("lxmesh-agent.service")
        machine.wait_for_unit("incus.service")
        machine.succeed("incus admin init --minimal")
        machine.succeed("incus image import ${image} --alias bb")
        machine.succeed("incus init bb c")
        machine.succeed(
            "incus config device add c eth0 nic nictype=p2p name=eth0 "
            f"user.lxmesh.parent=vpc user.lxmesh.ipv4.address=192.0.2.{number}"
        )
        machine.succeed("incus start c")
        machine.succeed(f"incus exec c -- sh -c 'ip link set eth0 up; ip addr add 192.0.2.{number}/24 dev eth0'")
    one.wait_until_succeeds("incus exec c -- ping -c 1 -W 2 192.0.2.12")
    two.succeed("incus exec c -- ping -c 3 -W 2 192.0.2.11")
    one.succeed("lxmesh status")
  '';
}
