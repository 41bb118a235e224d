# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_lxmesh_global_optspecs
    string join \n host-file= h/help V/version
end

function __fish_lxmesh_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_lxmesh_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_lxmesh_using_subcommand
    set -l cmd (__fish_lxmesh_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c lxmesh -n "__fish_lxmesh_needs_command" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_needs_command" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -s V -l version -d 'Print version'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "agent" -d 'Keep the kernel in step with LXD until told to stop'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "prepare" -d 'Load what the agent needs and may not load itself: the check of deferred checksums. Twice does no harm. lxmesh-prepare.service does it before the agent starts'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "plan" -d 'Show what the agent would change now, changing nothing'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "status" -d 'Show whether this host is in step, and what is wrong if not'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "metrics" -d 'Print the agent\'s counters for Prometheus'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "explain" -d 'Say why the NICs of an instance are, or are not, connected, changing nothing'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "doctor" -d 'Say whether kernel, programs and network are fit for what the host file asks of this host, changing nothing'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "trace" -d 'Say which rule decides about a flow, by the policies of this host\'s NICs'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "purge" -d 'Remove what LXMesh made in the kernel. Instances lose their connection, and stay closed to the host'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c lxmesh -n "__fish_lxmesh_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand agent" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand agent" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand prepare" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand prepare" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand plan" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand plan" -l json -d 'As one JSON document'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand plan" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand status" -l watch -d 'Again and again, until interrupted' -r
complete -c lxmesh -n "__fish_lxmesh_using_subcommand status" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand status" -l json -d 'As one JSON document; with --watch one a line'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand status" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand metrics" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand explain" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand explain" -l json -d 'As one JSON document'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand explain" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand doctor" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand doctor" -l json -d 'As one JSON document'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand trace" -l from -d 'Ask about many flows at once: one SOURCE DESTINATION TRAFFIC a line, "-" for standard input' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand trace" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand trace" -l json -d 'As one JSON document; with --from one a line'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand trace" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand purge" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand purge" -l yes -d 'Really do it'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand purge" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand completions" -l host-file -d 'The host file' -r -F
complete -c lxmesh -n "__fish_lxmesh_using_subcommand completions" -s h -l help -d 'Print help'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "agent" -d 'Keep the kernel in step with LXD until told to stop'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "prepare" -d 'Load what the agent needs and may not load itself: the check of deferred checksums. Twice does no harm. lxmesh-prepare.service does it before the agent starts'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "plan" -d 'Show what the agent would change now, changing nothing'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "status" -d 'Show whether this host is in step, and what is wrong if not'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "metrics" -d 'Print the agent\'s counters for Prometheus'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "explain" -d 'Say why the NICs of an instance are, or are not, connected, changing nothing'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "doctor" -d 'Say whether kernel, programs and network are fit for what the host file asks of this host, changing nothing'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "trace" -d 'Say which rule decides about a flow, by the policies of this host\'s NICs'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "purge" -d 'Remove what LXMesh made in the kernel. Instances lose their connection, and stay closed to the host'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "completions" -d 'Print completions for a shell'
complete -c lxmesh -n "__fish_lxmesh_using_subcommand help; and not __fish_seen_subcommand_from agent prepare plan status metrics explain doctor trace purge completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
