# The options of services.lxmesh: every key of the host file, typed. The names are the host file's
# own; what is not set is left out of it, so that LXMesh's defaults hold.
{ lib }:
let
  inherit (lib) mkOption types;

  # A key that may be left out.
  key =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };
  required = type: description: mkOption { inherit type description; };
  table = options: types.submodule { inherit options; };
  port = types.ints.between 1 65535;
in
{
  version = mkOption {
    type = types.enum [ 1 ];
    default = 1;
    description = "Version of the host file's format.";
  };

  fabric = mkOption {
    description = "What the hosts of a fabric have in common.";
    type = table {
      name = required types.str "Name of the fabric: 1 to 32 lower-case letters, digits and `-`.";
      asn = required (types.ints.between 1 4294967294) "Autonomous system number of all hosts.";
      reflectors = key (types.listOf types.str) "Addresses of the BGP route reflectors.";
      supervisors = required (types.listOf types.str) "Where supervisors are: prefixes, or single addresses.";
      underlay_mtu = key (types.ints.between 1280 65535) "Largest IP packet of the underlay, bytes.";
      vxlan_port = key port "UDP port of the tunnels.";
      gbp = key types.bool "VXLAN group policy extension: tags travel between hosts.";
    };
  };

  host = mkOption {
    description = "Overrides of what is otherwise detected on this host. `underlay` is needed here.";
    type = table {
      underlay = required types.str ''
        This host's tunnel and BGP address. The files are rendered when the system is built, where
        no address can be detected.
      '';
      roles = key (types.listOf (types.enum [
        "supervisor"
        "reflector"
      ])) "By default, the roles follow from the address.";
    };
  };

  ipsec = mkOption {
    description = "Encryption of the underlay.";
    default = { };
    type = table {
      enabled = key types.bool "Encrypt tunnels and BGP between hosts.";
      identity = key types.str "Identity that the peers' certificates must match.";
    };
  };

  lxd = mkOption {
    description = "The local LXD or Incus.";
    default = { };
    type = table { socket = key types.str "Its Unix socket."; };
  };

  agent = mkOption {
    description = "Settings of the agent itself.";
    default = { };
    type = table {
      reload_interval_s = key (types.ints.between 5 3600) "Seconds between two full passes.";
      control_socket = key types.str "Where `lxmesh status` and others reach the agent.";
    };
  };

  dhcp = mkOption {
    description = "Addresses for instances, provided by dnsmasq.";
    default = { };
    type = table {
      enabled = key types.bool "Write dnsmasq's files.";
      run = key types.bool "Also run dnsmasq and watch over it.";
      directory = key types.str "Where dnsmasq's files go.";
      program = key types.str "The program; the module sets nixpkgs' dnsmasq.";
      lease_s = key (types.ints.between 120 31536000) "Lease time, seconds.";
    };
  };

  tags = mkOption {
    type = types.attrsOf (types.ints.between 0 15);
    default = { };
    description = "Tags: a name and its bit of the packet mark.";
  };

  vrf = mkOption {
    description = "VRFs with a table of one's choice.";
    default = [ ];
    type = types.listOf (table {
      name = required types.str "Name of the VRF device.";
      table = key (types.ints.between 1 4294967295) "Its routing table.";
    });
  };

  network = mkOption {
    description = "The overlay networks.";
    default = [ ];
    type = types.listOf (table {
      name = required types.str "Name: lower-case letters, digits, `-` and `_`.";
      vni = required (types.ints.between 1 16777214) "VXLAN network identifier.";
      bridge = key types.str "Name of the bridge (SVI).";
      tunnel = key types.str "Name of the VXLAN device.";
      gateway = key (types.listOf types.str) "The gateway's addresses with prefix length.";
      gateway_mac = key types.str "The gateway's MAC address.";
      mtu = key port "Largest IP packet in the overlay, bytes.";
      multicast = key types.bool "Carry multicast between hosts.";
      vrf = key types.str "The VRF device that the bridge belongs to.";
      host_routes = key (types.either types.str types.ints.positive) "Where host routes go.";
      conntrack_zone = key port "Connection tracking zone.";
      dns = key (types.listOf types.str) "DNS servers that DHCP hands out.";
      vxlan_port = key port "This network's UDP port.";
      gbp = key types.bool "This network's group policy extension.";
    });
  };
}
