//! `lxmesh`: the agent and the operator's commands. Arguments in, exit status out; all work is
//! the library's.

use clap::{CommandFactory, Parser, Subcommand};
use lxmesh::control::server;
use lxmesh::kernel::checksums::{self, Prepared};
use lxmesh::model::trace::{Question, Trace, trace};
use lxmesh::reconcile::preview::There;
use lxmesh::reconcile::report::Report;
use lxmesh::reconcile::{explain, preview, purge, start};
use lxmesh::{doctor, host, kernel};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// EVPN overlays for LXD and Incus instances.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The host file.
    #[arg(
        long,
        global = true,
        default_value = "/etc/lxmesh/host.toml",
        value_name = "FILE"
    )]
    host_file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the kernel in step with LXD until told to stop.
    Agent,
    /// Load what the agent needs and may not load itself: the check of deferred checksums. Twice does no
    /// harm. lxmesh-prepare.service does it before the agent starts.
    Prepare,
    /// Show what the agent would change now, changing nothing.
    Plan {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show whether this host is in step, and what is wrong if not.
    Status {
        /// As one JSON document; with --watch one a line.
        #[arg(long)]
        json: bool,
        /// Again and again, until interrupted.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86400))]
        watch: Option<u64>,
    },
    /// Print the agent's counters for Prometheus.
    Metrics,
    /// Say why the NICs of an instance are, or are not, connected, changing nothing.
    Explain {
        /// INSTANCE or INSTANCE/DEVICE, with PROJECT/ before it outside the default project.
        instance: String,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Say whether kernel, programs and network are fit for what the host file asks of this host,
    /// changing nothing.
    Doctor {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Say which rule decides about a flow, by the policies of this host's NICs.
    Trace {
        /// INSTANCE, INSTANCE/DEVICE, or an address.
        #[arg(required_unless_present = "from")]
        source: Option<String>,
        /// The same.
        #[arg(required_unless_present = "from")]
        destination: Option<String>,
        /// PROTOCOL/PORT, such as tcp/443 or icmp/echo-request.
        #[arg(required_unless_present = "from")]
        traffic: Option<String>,
        /// Ask about many flows at once: one SOURCE DESTINATION TRAFFIC a line, "-" for standard input.
        #[arg(long, value_name = "FILE", conflicts_with = "source")]
        from: Option<PathBuf>,
        /// As one JSON document; with --from one a line.
        #[arg(long)]
        json: bool,
    },
    /// Remove what LXMesh made in the kernel. Instances lose their connection, and stay closed to the host.
    Purge {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
}

#[path = "lxmesh/status.rs"]
mod status;

/// Exit status for anything that could not be done.
const FAILED: u8 = 1;
/// Exit status of `plan`, `status`, `explain` and `doctor` if something is not as it should be.
const CHANGES: u8 = 2;
/// Exit status of `trace` if the flow is denied, in one address family at least.
const DENIED: u8 = 2;

fn main() -> ExitCode {
    let Arguments { host_file, command } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("starting: {error}")),
    };
    match command {
        Command::Agent => {
            start_logging();
            match runtime.block_on(start::run(&host_file)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("{error}");
                    ExitCode::from(FAILED)
                }
            }
        }
        Command::Prepare => match checksums::prepare(Path::new(checksums::DIRECTORY)) {
            Ok(Prepared::Already) => {
                say("deferred checksums: the check is loaded already");
                ExitCode::SUCCESS
            }
            Ok(Prepared::Loaded) => {
                say("deferred checksums: the check is loaded");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        },
        Command::Plan { json } => match runtime.block_on(preview::preview(&host_file)) {
            Ok(report) => print_plan(&report, json),
            Err(error) => fail(&error),
        },
        Command::Status { json, watch } => match host::load(&host_file) {
            Ok(host) => runtime.block_on(status::show(&host.agent.control_socket, json, watch)),
            Err(error) => fail(&error),
        },
        Command::Metrics => match host::load(&host_file) {
            Ok(host) => match runtime.block_on(server::ask_metrics(&host.agent.control_socket)) {
                Ok(text) => {
                    say(&text);
                    ExitCode::SUCCESS
                }
                Err(error) => fail(&error),
            },
            Err(error) => fail(&error),
        },
        Command::Explain { instance, json } => {
            match runtime.block_on(explain::explain(&host_file, &instance)) {
                Ok(explanation) => {
                    match json {
                        true => say(&serde_json::to_string_pretty(&explanation)
                            .expect("an explanation is plain data")),
                        false => say(&explanation.text()),
                    }
                    let mut nics = explanation.nics.iter();
                    match explanation.in_step {
                        true => ExitCode::SUCCESS,
                        false if nics.any(|nic| nic.cannot_be_told()) => ExitCode::from(FAILED),
                        false => ExitCode::from(CHANGES),
                    }
                }
                Err(error) => fail(&error),
            }
        }
        Command::Doctor { json } => match runtime.block_on(doctor::examine(&host_file)) {
            Ok(diagnosis) => {
                match json {
                    true => say(&serde_json::to_string_pretty(&diagnosis)
                        .expect("a diagnosis is plain data")),
                    false => say(&diagnosis.text()),
                }
                match diagnosis.problems {
                    0 => ExitCode::SUCCESS,
                    _ => ExitCode::from(CHANGES),
                }
            }
            Err(error) => fail(&error),
        },
        Command::Trace {
            source,
            destination,
            traffic,
            from,
            json,
        } => match runtime.block_on(preview::nics(&host_file)) {
            Ok(there) => match (source, destination, traffic, from) {
                (Some(source), Some(destination), Some(traffic), _) => {
                    let words = [&*source, &*destination, &*traffic];
                    print_trace(&question(&there, words), json)
                }
                (_, _, _, Some(file)) => trace_lines(&there, &file, json),
                _ => fail(&"the arguments are checked before"),
            },
            Err(error) => fail(&error),
        },
        Command::Purge { yes } => run_purge(&runtime, &host_file, yes),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lxmesh", &mut text);
            say(&String::from_utf8_lossy(&text));
            ExitCode::SUCCESS
        }
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lxmesh: {error}");
    ExitCode::from(FAILED)
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
}

/// To the journal with fields where there is one, else to standard error.
fn start_logging() {
    let filter = EnvFilter::try_from_env("LXMESH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| tracing_journald::layer().ok())
        .map(|layer| layer.with_syslog_identifier("lxmesh".into()));
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => {
            let text = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .with_target(false);
            registry.with(text).init();
        }
    }
}

fn print_plan(report: &Report, json: bool) -> ExitCode {
    let lines: Vec<&str> = report.lines.iter().map(|line| line.text.as_str()).collect();
    if json {
        let unreadable: Vec<String> = report
            .unreadable
            .iter()
            .map(|(kind, error)| format!("{kind}: {error}"))
            .collect();
        let document = serde_json::json!({ "changes": lines, "problems": unreadable });
        say(&format!("{document:#}"));
    } else {
        for (kind, error) in &report.unreadable {
            eprintln!("{kind}: {error}");
        }
        for line in &lines {
            say(line);
        }
        match lines.len() {
            0 => say("nothing to do"),
            count => say(&format!("{count} changes: {}", report.summary())),
        }
    }
    if lines.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(CHANGES)
    }
}

fn question<'a>(there: &'a There, words: [&'a str; 3]) -> Question<'a> {
    let [source, destination, traffic] = words;
    let There {
        host,
        nics,
        elsewhere,
    } = there;
    Question {
        host,
        nics,
        elsewhere,
        source,
        destination,
        traffic,
    }
}

/// One question a line, and for each its answer: as text below the question, or as one line of
/// JSON with `traces` or `error`.
fn trace_lines(there: &There, file: &Path, json: bool) -> ExitCode {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => return fail(&format!("reading {}: {error}", file.display())),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut status = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            [] => continue,
            [source, destination, traffic] => {
                trace(&question(there, [source, destination, traffic]))
            }
            _ => Err(format!("{line:?} is not SOURCE DESTINATION TRAFFIC")),
        };
        status = match &answer {
            Err(_) => FAILED,
            Ok(traces) if status != FAILED && traces.iter().any(|trace| !trace.allowed) => DENIED,
            Ok(_) => status,
        };
        let text = match (&answer, json) {
            (Ok(traces), true) => format!("{}\n", serde_json::json!({ "traces": traces })),
            (Err(error), true) => format!("{}\n", serde_json::json!({ "error": error })),
            (Ok(traces), false) => traces.iter().map(Trace::text).collect(),
            (Err(error), false) => {
                eprintln!("lxmesh: {}:{number}: {error}", file.display());
                continue;
            }
        };
        // A reader that has seen enough (`| head`) is no error.
        if out.write_all(text.as_bytes()).is_err() {
            break;
        }
    }
    ExitCode::from(status)
}

fn print_trace(question: &Question<'_>, json: bool) -> ExitCode {
    let traces = match trace(question) {
        Ok(traces) => traces,
        Err(error) => return fail(&error),
    };
    if json {
        say(&serde_json::to_string_pretty(&traces).expect("a trace is plain data"));
    } else {
        for trace in &traces {
            say(&trace.text());
        }
    }
    if traces.iter().all(|trace| trace.allowed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DENIED)
    }
}

fn run_purge(
    runtime: &tokio::runtime::Runtime,
    host_file: &std::path::Path,
    yes: bool,
) -> ExitCode {
    let host = match host::load(host_file) {
        Ok(host) => host,
        Err(error) => return fail(&error),
    };
    if runtime
        .block_on(server::ask(&host.agent.control_socket))
        .is_ok()
    {
        return fail(
            &"the agent is running and would make everything again; stop it first: systemctl stop lxmesh-agent",
        );
    }
    if !yes {
        return fail(
            &"this takes every instance of this host off its overlay network; say --yes to do it",
        );
    }
    let report = kernel::Kernel::open().and_then(|mut kernel| purge::purge(&mut kernel, &host));
    let report = match report {
        Ok(report) => report,
        Err(error) => return fail(&error),
    };
    for (kind, error) in &report.unreadable {
        eprintln!("{kind} cannot be read: {error}");
    }
    for (line, error) in report.failures() {
        eprintln!("{}: {error}", line.text);
    }
    say(&format!(
        "{} objects: {}",
        report.lines.len(),
        report.summary()
    ));
    if report.failures().next().is_some() || !report.unreadable.is_empty() {
        return ExitCode::from(FAILED);
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
#[path = "../../integration/manual.rs"]
#[allow(clippy::disallowed_methods)]
mod manual;

#[cfg(test)]
mod tests {
    #[test]
    fn man_pages_and_completions_say_what_the_arguments_are() {
        super::manual::check(<super::Arguments as clap::CommandFactory>::command().name("lxmesh"));
    }
}
