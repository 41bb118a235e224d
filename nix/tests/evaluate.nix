# The module, evaluated with the settings of settings.nix: what a test compares, and `ok`.
# `lib` is nixpkgs' own; without it (null), the stand-in of shim.nix.
{ lib ? null }:
let
  real = lib != null;
  shim = import ./shim.nix;
  theLib = if real then lib else shim;

  # No build happens: packages are names of what would be built.
  pkgs = {
    writeText = name: text: { inherit name text; outPath = "/nix/store/test-${name}"; };
    runCommand = name: _: script: { inherit name script; outPath = "/nix/store/test-${name}"; };
    callPackage = _: _: { outPath = "/nix/store/test-lxmesh"; type = "derivation"; name = "lxmesh"; };
    dnsmasq = "/nix/store/test-dnsmasq";
    nftables = "/nix/store/test-nftables";
    coreutils = "/nix/store/test-coreutils";
  };
  definition = {
    enable = true;
    settings = import ./settings.nix;
  };
  evaluated =
    if real then
      lib.evalModules {
        modules = [
          ../module.nix
          {
            # What NixOS would declare; here it only has to hold what is said.
            freeformType = lib.types.lazyAttrsOf lib.types.anything;
            config.services.lxmesh = definition;
            config._module.args.pkgs = pkgs;
          }
        ];
      }
    else
      shim.evaluate {
        module = ../module.nix;
        inherit definition;
        arguments = {
          lib = shim;
          inherit pkgs;
        };
      };
  inherit (evaluated) config;

  inside =
    type:
    if real then removeAttrs (type.getSubOptions [ ]) [ "_module" ] else type.options or { };

  # Every option with its type and text, as Markdown.
  document =
    prefix: options:
    builtins.concatStringsSep "" (
      map (
        name:
        let
          option = options.${name};
        in
        "| `${prefix}${name}` | ${option.type.description} | ${
          builtins.replaceStrings [ "\n" ] [ " " ] option.description
        } |\n"
        + document "${prefix}${name}." (inside option.type)
      ) (builtins.attrNames options)
    );
  declared = import ../options.nix { lib = theLib; };
  settingsType = theLib.types.submodule { options = declared; };
  checked =
    settings:
    if real then
      (lib.evalModules {
        modules = [
          {
            options.checked = lib.mkOption { type = settingsType; };
            config.checked = settings;
          }
        ];
      }).config.checked
    else
      settingsType.merge "settings" settings;
in
{
  lib = if real then "nixpkgs" else "the stand-in of nix/tests/shim.nix";
  inherit (config.services.lxmesh) hostFile;
  etc = builtins.attrNames config.environment.etc;
  unit = config.systemd.services.lxmesh-agent.serviceConfig;
  frr = config.services.frr;
  tcp = config.networking.firewall.allowedTCPPorts;
  udp = config.networking.firewall.allowedUDPPorts;
  rendered = (import ../names.nix { inherit (config.services.lxmesh) settings; }).all;
  ok = config.services.lxmesh.enable;
  # What has to be refused: each a definition that must not evaluate.
  refused = map (
    settings: !(builtins.tryEval (builtins.deepSeq (checked settings) true)).success
  ) (import ./wrong.nix);
  documentation = document "settings." declared;
}
