# services.lxmesh: a host of the fabric. Everything follows from `settings`, which has the keys of
# the host file. lxmesh-gen renders the files of systemd-networkd, FRR and the kernel when the
# system is built, so that a wrong setting is an error of the build and not of the running host.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.lxmesh;
  hostFile = pkgs.writeText "host.toml" cfg.hostFile;
  names = import ./names.nix { inherit (cfg) settings; };

  rendered = pkgs.runCommand "lxmesh-files" { nativeBuildInputs = [ cfg.package ]; } ''
    lxmesh-gen check --host ${cfg.settings.host.underlay} ${hostFile}
    mkdir -p tree
    lxmesh-gen render --host-file ${hostFile} --host ${cfg.settings.host.underlay} --root tree
    (cd tree/etc && find . -type f | sed 's|^\./||' | sort) > found
    printf '%s\n' ${lib.escapeShellArgs names.all} | sort > expected
    if ! diff expected found; then
      echo "services.lxmesh: lxmesh-gen made other files than nix/names.nix names" >&2
      exit 1
    fi
    cp -r tree/etc $out
  '';
  file = name: {
    inherit name;
    value.source = "${rendered}/${name}";
  };
in
{
  options.services.lxmesh = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether this host takes part in an LXMesh fabric.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      description = "The package with lxmesh and lxmesh-gen.";
    };
    settings = lib.mkOption {
      description = "The host file; its keys are those of docs/host-file.md.";
      type = lib.types.submodule { options = import ./options.nix { inherit lib; }; };
    };
    hostFile = lib.mkOption {
      type = lib.types.str;
      readOnly = true;
      description = "The text of the host file that follows from `settings`.";
    };
  };

  config = lib.mkMerge [
    { services.lxmesh.hostFile = import ./host-file.nix { inherit lib; } cfg.settings; }
    (lib.mkIf cfg.enable {
      services.lxmesh.settings.dhcp.program = lib.mkDefault "${pkgs.dnsmasq}/bin/dnsmasq";
      # NixOS has a packet filter of its own, which is told below what the fabric needs.
      services.lxmesh.settings.firewall.enabled = lib.mkDefault false;

      environment.systemPackages = [ cfg.package ];
      environment.etc = lib.listToAttrs (map file names.files) // {
        "lxmesh/host.toml".source = hostFile;
        "iproute2/rt_protos.d/lxmesh.conf".source = ../debian/rt_protos.conf;
      };

      networking.useNetworkd = true;
      systemd.network.enable = true;
      networking.nftables.enable = lib.mkDefault true;
      # BGP between the hosts, VXLAN between the supervisors.
      networking.firewall.allowedTCPPorts = [ 179 ];
      networking.firewall.allowedUDPPorts = lib.optionals names.isSupervisor (
        lib.unique (
          [ (if cfg.settings.fabric.vxlan_port == null then 4789 else cfg.settings.fabric.vxlan_port) ]
          ++ lib.filter (port: port != null) (map (network: network.vxlan_port) (lib.optionals (cfg.settings.network != null) cfg.settings.network))
        )
      );

      services.frr.bgpd.enable = true;
      services.frr.configFile = "${rendered}/frr/frr.conf";

      # LXD's and Incus' sockets belong to the two groups.
      users.groups.lxmesh = { };
      users.users.lxmesh = {
        isSystemUser = true;
        group = "lxmesh";
        extraGroups = [
          "lxd"
          "incus-admin"
        ];
      };
      # See debian/lxmesh-prepare.service.
      systemd.services.lxmesh-prepare = lib.mkIf names.isSupervisor {
        description = "Loads for the LXMesh agent what it may not load itself";
        serviceConfig = import ./prepare.nix // {
          ExecStart = "${cfg.package}/bin/lxmesh prepare";
        };
      };
      systemd.services.lxmesh-agent = lib.mkIf names.isSupervisor {
        description = "LXMesh agent: connects LXD and Incus instances to the EVPN overlay";
        wantedBy = [ "multi-user.target" ];
        wants = [ "lxmesh-prepare.service" ];
        after = [
          "lxmesh-prepare.service"
          "network.target"
          "systemd-networkd.service"
          "frr.service"
          "lxd.service"
          "incus.service"
        ];
        path = [ pkgs.nftables ];
        restartTriggers = [ hostFile ];
        startLimitIntervalSec = 0;
        serviceConfig = import ./unit.nix // {
          ExecStart = "${cfg.package}/bin/lxmesh agent";
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        };
      };
    })
  ];
}
