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
complete -c lxmesh-gen -n "__fish_lxmesh_gen_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand check" -l host -d 'Check for the host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand check" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l host-file -d 'The host file' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l root -d 'Write the files under this directory (`/` for this host) instead of printing them' -r -F
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l host -d 'Render for the host with this underlay address instead of this one' -r
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -l force -d 'Replace files that are not ours or were edited; copies are kept beside them'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand render" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand schema" -s h -l help -d 'Print help'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema help" -f -a "check" -d 'Check the host file: every problem at once, or what this host is in the fabric'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema help" -f -a "render" -d 'Print the files of this host, or write them'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema help" -f -a "schema" -d 'Print the JSON Schema of the host file, for editors'
complete -c lxmesh-gen -n "__fish_lxmesh_gen_using_subcommand help; and not __fish_seen_subcommand_from check render schema help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
