{
  description = "EVPN overlays for LXD and Incus instances";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = function: nixpkgs.lib.genAttrs systems (system: function nixpkgs.legacyPackages.${system});
    in
    {
      packages = each (pkgs: rec {
        lxmesh = pkgs.callPackage ./nix/package.nix { };
        default = lxmesh;
      });

      nixosModules.default = ./nix/module.nix;

      checks = each (pkgs: {
        package = pkgs.callPackage ./nix/package.nix { };
        evaluation = pkgs.runCommand "lxmesh-evaluation" { } ''
          echo ${nixpkgs.lib.escapeShellArg (toString (import ./nix/tests/evaluate.nix { lib = pkgs.lib; }).ok)} > $out
        '';
        two-hosts = pkgs.testers.runNixOSTest ./nix/tests/two-hosts.nix;
      });
    };
}
