# Which files `lxmesh-gen render` makes for a host: their names have to be known before they are
# made. module.nix compares this with what was made, and fails the build if they differ.
{ settings }:
let
  inherit (builtins)
    concatMap
    elem
    filter
    listToAttrs
    attrNames
    ;
  networks = orElse [ ] settings.network;
  underlay = settings.host.underlay;
  orElse = default: value: if value == null then default else value;
  reflectors = orElse [ ] settings.fabric.reflectors;
  roles =
    if settings.host.roles != null then
      settings.host.roles
    else if !elem underlay reflectors then
      [ "supervisor" ]
    else if elem underlay settings.fabric.supervisors then
      [
        "reflector"
        "supervisor"
      ]
    else
      [ "reflector" ];
  vrfs = attrNames (
    listToAttrs (
      map (name: {
        inherit name;
        value = null;
      }) (filter (name: name != null) (map (n: n.vrf) networks))
    )
  );
  devices =
    vrfs
    ++ concatMap (n: [
      (orElse "svi-${n.name}" n.bridge)
      (orElse "vxlan-${n.name}" n.tunnel)
    ]) networks;
in
rec {
  isSupervisor = elem "supervisor" roles;
  networkd =
    if isSupervisor then
      concatMap (device: [
        "10-lxmesh-${device}.netdev"
        "10-lxmesh-${device}.network"
      ]) devices
    else
      [ ];
  # Below /etc. FRR's `daemons` is Debian's; NixOS says the same by its own options.
  files =
    if isSupervisor then
      [
        "modules-load.d/lxmesh.conf"
        "sysctl.d/60-lxmesh.conf"
        "systemd/networkd.conf.d/10-lxmesh.conf"
      ]
      ++ map (name: "systemd/network/${name}") networkd
    else
      [ ];
  all = files ++ [
    "frr/daemons"
    "frr/frr.conf"
  ];
}
