# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_lxmesh_gen_global_optspecs
    string join \n h/help V/version
end

function __fish_lxmesh_gen_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_lxmesh_gen_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_lxmesh_gen_using_subcommand
    set -l cmd (__fish_lxmesh_gen_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -s V -l version -d 'Print version'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "check" -d 'Check the host file: every problem at once, or what this host is in the fabric'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "render" -d 'Print the files of this host, or write them'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "schema" -d 'Print the JSON Schema of the host file, for editors'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "mtu" -d 'Show how the MTU of the overlay comes about'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "diff" -d 'Print how this host\'s files would change'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "plan" -d 'Print what would change, at which cost, and what would be run'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "apply" -d 'Write this host\'s files, let programs take them over, and undo it all if the fabric suffers'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "confirm" -d 'Keep what `apply --confirm` has done'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "rollback" -d 'Undo an apply that is not finished or not confirmed'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "adopt" -d 'Take over a file that is not ours or was edited; a copy is kept'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "init" -d 'Write a host file from what is found on this host'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "import" -d 'Write a host file from the agent.yaml of the Python LXMesh and what is found on this host'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "graph" -d 'Draw the fabric'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "guard" -d 'Watch over an apply: run by `apply`'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand check" -l host -d 'The host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand check" -l name -d 'That host\'s name, as `hostname` prints it there' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand check" -l target -d 'What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05, and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with --host' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand check" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l host-file -d 'The host file' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l root -d 'Write the files under this directory (`/` for this host) instead of printing them' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l host -d 'The host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l name -d 'That host\'s name, as `hostname` prints it there' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l target -d 'What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05, and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with --host' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l force -d 'Replace files that are not ours or were edited; copies are kept beside them'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand schema" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand mtu" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand diff" -l host-file -d 'The host file' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand diff" -l root -d 'The host\'s root directory. Below another than `/` only files are looked at and written' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand diff" -l host -d 'The host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand diff" -l name -d 'That host\'s name, as `hostname` prints it there' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand diff" -l target -d 'What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05, and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with --host' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand diff" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand plan" -l host-file -d 'The host file' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand plan" -l root -d 'The host\'s root directory. Below another than `/` only files are looked at and written' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand plan" -l host -d 'The host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand plan" -l name -d 'That host\'s name, as `hostname` prints it there' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand plan" -l target -d 'What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05, and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with --host' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand plan" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l host-file -d 'The host file' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l root -d 'The host\'s root directory. Below another than `/` only files are looked at and written' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l host -d 'The host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l name -d 'That host\'s name, as `hostname` prints it there' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l target -d 'What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05, and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with --host' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l confirm -d 'Undo it all unless `lxmesh-gen confirm` comes within so many seconds after it is done' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l health-limit -d 'How long the fabric may take to be as well as before' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -l no-health -d 'Do not look at BGP, tunnels and packet sizes. Better with `--confirm`'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand apply" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand confirm" -l root -d 'The host\'s root directory' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand confirm" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand rollback" -l root -d 'The host\'s root directory' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand rollback" -l at-boot -d 'Files only: the programs that read them start later'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand rollback" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand adopt" -l host-file -d 'The host file' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand adopt" -l root -d 'The host\'s root directory. Below another than `/` only files are looked at and written' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand adopt" -l host -d 'The host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand adopt" -l name -d 'That host\'s name, as `hostname` prints it there' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand adopt" -l target -d 'What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05, and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with --host' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand adopt" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand init" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand import" -l output -d 'The host file to write; `-` prints it' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand import" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand graph" -l format -r -f -a "svg\t''
mermaid\t''"
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand graph" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand completions" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand guard" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "check" -d 'Check the host file: every problem at once, or what this host is in the fabric'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "render" -d 'Print the files of this host, or write them'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "schema" -d 'Print the JSON Schema of the host file, for editors'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "mtu" -d 'Show how the MTU of the overlay comes about'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "diff" -d 'Print how this host\'s files would change'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "plan" -d 'Print what would change, at which cost, and what would be run'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "apply" -d 'Write this host\'s files, let programs take them over, and undo it all if the fabric suffers'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "confirm" -d 'Keep what `apply --confirm` has done'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "rollback" -d 'Undo an apply that is not finished or not confirmed'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "adopt" -d 'Take over a file that is not ours or was edited; a copy is kept'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "init" -d 'Write a host file from what is found on this host'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "import" -d 'Write a host file from the agent.yaml of the Python LXMesh and what is found on this host'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "graph" -d 'Draw the fabric'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "completions" -d 'Print completions for a shell'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "guard" -d 'Watch over an apply: run by `apply`'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema mtu diff plan apply confirm rollback adopt init import graph completions guard help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
