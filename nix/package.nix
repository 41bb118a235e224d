# The programs, their manual and completions. Crates come from Cargo.lock.
{
  lib,
  rustPlatform,
  installShellFiles,
}:
let
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = "lxmesh";
  inherit (manifest.package) version;
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../src
      ../templates
      ../integration
      ../docs/man
      ../debian/completions
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [ "--bins" ];
  # They want root, namespaces and other programs; the flake's checks have those that do not.
  doCheck = false;
  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    installManPage docs/man/*.1
    for program in lxmesh lxmesh-gen; do
      installShellCompletion --bash --name $program debian/completions/$program.bash
      installShellCompletion --fish --name $program.fish debian/completions/$program.fish
      installShellCompletion --zsh --name _$program debian/completions/_$program
    done
  '';
  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.asl20;
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    mainProgram = "lxmesh";
  };
}
