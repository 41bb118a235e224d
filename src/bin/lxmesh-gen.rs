//! `lxmesh-gen`: other programs' configuration from the host file. Arguments in, text out; the
//! work is the library's.
//!
//! Exit status: 0 done; 1 the host file, this host's place in it, or a file in the way forbids it,
//! and standard error says why; 2 wrong arguments, or, of `plan`, that something would change.

#[path = "lxmesh-gen/change.rs"]
mod change;
#[path = "lxmesh-gen/start.rs"]
mod start;

use clap::{CommandFactory, Parser, Subcommand};
use lxmesh::addr::IpAddr;
use lxmesh::generate::{self, LocalFacts, Target, extra, readers, secrets, write};
use lxmesh::host::{self, HostFile, MtuSum};
use lxmesh::policy::fabric::closed_resolvers;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Other programs' configuration from one host file: written, taken over, and undone if need be.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 refused (standard error says why), 2 wrong arguments. Of plan: 0 nothing would change, 2 something would."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the host file: every problem at once, or what this host is in the fabric.
    Check {
        /// The host file.
        #[arg(default_value = host::DEFAULT_PATH)]
        file: PathBuf,
        #[command(flatten)]
        of: Whose,
    },
    /// Print the files of this host, or write them.
    Render {
        /// The host file.
        #[arg(long, value_name = "FILE", default_value = host::DEFAULT_PATH)]
        host_file: PathBuf,
        /// Write the files under this directory (`/` for this host) instead of printing them.
        #[arg(long, value_name = "DIRECTORY")]
        root: Option<PathBuf>,
        #[command(flatten)]
        of: Whose,
        /// Replace files that are not ours or were edited; copies are kept beside them.
        #[arg(long, requires = "root")]
        force: bool,
    },
    /// Print the JSON Schema of the host file, for editors.
    Schema,
    /// Show how the MTU of the overlay comes about.
    Mtu {
        /// The host file.
        #[arg(default_value = host::DEFAULT_PATH)]
        file: PathBuf,
    },
    /// Print how this host's files would change.
    Diff(change::Place),
    /// Print what would change, at which cost, and what would be run.
    Plan(change::Place),
    /// Write this host's files, let programs take them over, and undo it all if the fabric suffers.
    Apply(change::ApplyArguments),
    /// Keep what `apply --confirm` has done.
    Confirm(change::RootArgument),
    /// Undo an apply that is not finished or not confirmed.
    Rollback(change::RollbackArguments),
    /// Take over a file that is not ours or was edited; a copy is kept.
    Adopt(change::AdoptArguments),
    /// Write a host file from what is found on this host.
    Init(start::InitArguments),
    /// Write a host file from the agent.yaml of the Python LXMesh and what is found on this host.
    Import(start::ImportArguments),
    /// Draw the fabric.
    Graph(start::GraphArguments),
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Watch over an apply: run by `apply`.
    #[command(hide = true)]
    Guard { id: String },
}

/// The host that it is about.
#[derive(clap::Args)]
struct Whose {
    /// The host with this underlay address instead of this one.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// That host's name, as `hostname` prints it there.
    #[arg(long, value_name = "NAME", requires = "host")]
    name: Option<String>,
    /// What its programs understand: detect, debian-13, debian-12, ubuntu-24.04 or nixos-25.05,
    /// and versions that differ from that: debian-13,frr=10.6. Default: detect, or debian-13 with
    /// --host.
    #[arg(long, value_name = "TARGET")]
    target: Option<Target>,
}

impl Whose {
    fn facts(&self, file: &HostFile) -> Result<LocalFacts, Box<dyn Error>> {
        let mut facts = match self.host {
            Some(address) => LocalFacts::of(address),
            None => LocalFacts::read()?,
        };
        if let Some(name) = &self.name {
            facts.name = name.clone();
        }
        if let Some(target) = &self.target {
            facts.target = target.clone();
        }
        Ok(facts.with_secrets(file)?)
    }
}

/// Exit status of `plan` if something would change, as of `lxmesh plan`.
const CHANGES: u8 = 2;

fn main() -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    let result = match Arguments::parse().command {
        Command::Check { file, of } => check(&file, &of),
        Command::Render {
            host_file,
            root,
            of,
            force,
        } => render(&host_file, root.as_deref(), &of, force),
        Command::Schema => schema(),
        Command::Mtu { file } => mtu(&file),
        Command::Diff(place) => change::diff(&place),
        Command::Plan(place) => change::plan(&place).map(|plan| {
            if plan.something {
                status = ExitCode::from(CHANGES);
            }
            plan.text
        }),
        Command::Apply(arguments) => change::apply(&arguments),
        Command::Confirm(root) => change::confirm(&root),
        Command::Rollback(arguments) => change::rollback(&arguments),
        Command::Adopt(arguments) => change::adopt(&arguments),
        Command::Init(arguments) => start::init(&arguments),
        Command::Import(arguments) => start::import(&arguments),
        Command::Graph(arguments) => start::graph(&arguments),
        Command::Completions { shell } => completions(shell),
        Command::Guard { id } => change::guard(&id),
    };
    match result.and_then(|text| print(&text)) {
        Ok(()) => status,
        Err(error) => {
            let mut chain = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                // Some messages have their cause in them already.
                if !chain.contains(&cause.to_string()) {
                    chain += &format!("\n  cause: {cause}");
                }
                source = cause.source();
            }
            eprintln!("{chain}");
            ExitCode::FAILURE
        }
    }
}

type Answer = Result<String, Box<dyn Error>>;

fn check(path: &Path, of: &Whose) -> Answer {
    let file = host::load(path)?;
    let facts = of.facts(&file)?;
    let mut text = format!("{}: correct\n{}", path.display(), summary(&file));
    for (network, server) in closed_resolvers(&file) {
        text += &format!(
            "warning: network {network} hands out the DNS server {server}, which instances do not reach, as it is in supervisors or reflectors\n  remedy: add \"udp/53@{server}\" and \"tcp/53@{server}\" to services of [fabric], or name another server\n"
        );
    }
    // What is on this host is no other host's. It works as it is, so the file is correct.
    if of.host.is_none() {
        for secrets::Exposed { what, remedy } in secrets::exposed(&file) {
            text += &format!("warning: {what}\n  remedy: {remedy}\n");
        }
    }
    match generate::detect(&file, &facts) {
        Ok(here) => text += &format!("this host: {here}\n"),
        // The file may well be checked where it is written and not where it is used.
        Err(error) if of.host.is_none() => {
            text += &format!("this host: without a place in this fabric\nnote: {error}\n");
            return Ok(text);
        }
        Err(error) => return Err(error.into()),
    }
    let outputs = generate::render(&file, &facts)?;
    for note in facts.target.too_old() {
        text += &format!("note: {note}\n");
    }
    text += &readers::check(&outputs)?;
    Ok(text)
}

fn summary(file: &HostFile) -> String {
    let fabric = &file.fabric;
    let mut text = format!(
        "fabric {}: AS {}, underlay MTU {}, {} reflectors\n",
        fabric.name,
        fabric.asn,
        fabric.underlay_mtu,
        fabric.reflectors.len()
    );
    for network in &file.networks {
        let gateways: Vec<String> = network
            .gateways()
            .map(|gateway| gateway.to_string())
            .collect();
        text += &format!(
            "network {}: VNI {}, {} and {}, MTU {}, gateway {} ({})\n",
            network.name,
            network.vni,
            network.bridge,
            network.tunnel,
            network.mtu,
            if gateways.is_empty() {
                "none".into()
            } else {
                gateways.join(" ")
            },
            network.gateway_mac,
        );
    }
    for note in generate::notes(file) {
        text += &format!("note: {note}\n");
    }
    text
}

fn render(path: &Path, root: Option<&Path>, of: &Whose, force: bool) -> Answer {
    let file = host::load(path)?;
    let facts = of.facts(&file)?;
    let mut outputs = generate::render(&file, &facts)?;
    for note in facts.target.too_old() {
        eprintln!("note: {note}");
    }
    // What stands on this host is no other host's.
    let own = (of.host.is_none()).then_some(Path::new("/"));
    if let Some(extra) = root.or(own).map(extra::read).transpose()? {
        extra::append(&mut outputs, &extra);
    }
    for note in generate::notes(&file) {
        eprintln!("note: {note}");
    }
    let mut text = String::new();
    match root {
        None => {
            for output in outputs {
                text += &format!(
                    "==> {} (mode {:04o})\n{}\n",
                    output.path.display(),
                    output.mode,
                    output.contents
                );
            }
        }
        Some(root) => {
            for (path, fate) in write::write(root, &outputs, force)? {
                text += &format!("{}: {fate}\n", path.display());
            }
        }
    }
    Ok(text)
}

/// The sum for a full packet, and what each network makes of it.
fn mtu(path: &Path) -> Answer {
    let file = host::load(path)?;
    let sum = MtuSum::of(&file);
    let mut text = format!(
        "{:>6}  underlay: the largest IP packet between hosts\n",
        sum.underlay
    );
    for (what, bytes) in &sum.less {
        text += &format!("{:>6}  {what}\n", -i64::from(*bytes));
    }
    text += &format!(
        "{:>6}  overlay: the largest IP packet between instances\n",
        sum.overlay()
    );
    for network in &file.networks {
        text += &format!("network {}: {}\n", network.name, network.mtu);
    }
    Ok(text)
}

fn completions(shell: clap_complete::Shell) -> Answer {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lxmesh-gen", &mut text);
    Ok(String::from_utf8(text)?)
}

fn schema() -> Answer {
    Ok(serde_json::to_string_pretty(&host::json_schema())? + "\n")
}

/// A reader that has seen enough, such as `head`, is no error.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "../../integration/manual.rs"]
#[allow(clippy::disallowed_methods)]
mod manual;

#[cfg(test)]
mod tests {
    #[test]
    fn man_pages_and_completions_say_what_the_arguments_are() {
        super::manual::check(
            <super::Arguments as clap::CommandFactory>::command().name("lxmesh-gen"),
        );
    }
}
