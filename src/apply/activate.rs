//! Steps of a plan, run on this host.

use super::commands::{CommandError, has_systemd, pause, run, succeeds};
use super::fault;
use super::journal::{State, StateError};
use super::nft;
use crate::generate::plan::Step;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why a step did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("could not {step}: {source}")]
    Command { step: String, source: CommandError },
    #[error(transparent)]
    State(#[from] StateError),
}

const SECONDS: u32 = 60;
/// FRR and networkd take their time with hundreds of networks.
const LONG: u32 = 180;
/// A file for each link that networkd knows, by its index (systemd's src/network/networkd-link.c).
const NETWORKD_LINKS: &str = "/run/systemd/netif/links";
/// One that has not noticed a deleted link by then does not run, or hangs.
const NETWORKD_NOTICES: Duration = Duration::from_secs(30);
const FRR_RELOAD: &str = "/usr/lib/frr/frr-reload.py";
pub const FRR_CONF: &str = "/etc/frr/frr.conf";

/// Runs one step. Doing it twice is harmless.
pub fn step(step: &Step, state: &State) -> Result<(), StepError> {
    fault::point();
    let done = match step {
        Step::ReloadUnits => match has_systemd() {
            true => run(SECONDS, &["systemctl", "daemon-reload"]).map(drop),
            false => Ok(()),
        },
        Step::LoadModules(path) => systemd_tool("systemd-modules-load", path),
        Step::Sysctl(path) => systemd_tool("systemd-sysctl", path),
        Step::ReloadUdev => run(SECONDS, &["udevadm", "control", "--reload"]).map(drop),
        Step::LoadSwanctl => load_swanctl(),
        Step::CloseConnection(name) => {
            // There may be nothing to close.
            let _ = run(SECONDS, &["swanctl", "--terminate", "--ike", name]);
            Ok(())
        }
        Step::LoadNft { path, leaves } => nft::load(path, leaves, state)?,
        Step::DeleteTable { family, name } => {
            // Only `destroy` takes an absent one, and nft before 1.0.8 does not know it.
            match succeeds(&["nft", "list", "table", family, name]) {
                true => run(SECONDS, &["nft", "delete", "table", family, name]).map(drop),
                false => Ok(()),
            }
        }
        Step::DeleteLink(link) => delete(link),
        Step::RemoveAddress { link, address } => {
            // It may be gone already.
            let _ = run(SECONDS, &["ip", "address", "delete", address, "dev", link]);
            Ok(())
        }
        Step::AddAddress { link, address } => {
            // It may be there already.
            let _ = run(
                SECONDS,
                &["ip", "address", "add", address, "dev", link, "nodad"],
            );
            Ok(())
        }
        Step::SetMac { link, mac } => set(link, "address", mac),
        Step::SetMtu { link, mtu } => set(link, "mtu", mtu),
        Step::RestartNetworkd => {
            run(LONG, &["systemctl", "restart", "systemd-networkd.service"]).map(drop)
        }
        Step::ReloadNetworkd => reload_networkd(),
        Step::Reconfigure(link) => match exists(link) {
            true => run(SECONDS, &["networkctl", "reconfigure", link]).map(drop),
            false => Ok(()),
        },
        Step::ReloadFrr { delta } => return reload_frr(delta, step, state),
        Step::RestartFrr => restart_frr(),
        Step::ReloadAgent => reload_agent(),
    };
    done.map_err(|source| failed(step, source))
}

fn failed(step: &Step, source: CommandError) -> StepError {
    StepError::Command {
        step: step.to_string(),
        source,
    }
}

/// systemd's programs that read files as it does at boot.
fn systemd_tool(name: &str, path: &Path) -> Result<(), CommandError> {
    let program = format!("/usr/lib/systemd/{name}");
    run(SECONDS, &[&program, &path.to_string_lossy()]).map(drop)
}

fn exists(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}

fn set(link: &str, what: &str, value: &str) -> Result<(), CommandError> {
    match exists(link) {
        true => run(SECONDS, &["ip", "link", "set", "dev", link, what, value]).map(drop),
        // networkd makes it, with the new value.
        false => Ok(()),
    }
}

/// Deletes a link, and waits until networkd knows that it is gone: one that is told to read its files before that
/// takes the device of this name to be there, and makes none (systemd 252 and 262; under load).
fn delete(link: &str) -> Result<(), CommandError> {
    let index = fs::read_to_string(Path::new("/sys/class/net").join(link).join("ifindex"));
    let Ok(index) = index else {
        return Ok(());
    };
    let known = Path::new(NETWORKD_LINKS).join(index.trim());
    let is_known = known.exists();
    run(SECONDS, &["ip", "link", "delete", "dev", link])?;
    if is_known {
        let begun = Instant::now();
        while known.exists() && begun.elapsed() < NETWORKD_NOTICES {
            pause(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn load_swanctl() -> Result<(), CommandError> {
    if has_systemd() && !succeeds(&["systemctl", "--quiet", "is-active", "strongswan.service"]) {
        // Its start loads everything.
        return run(SECONDS, &["systemctl", "start", "strongswan.service"]).map(drop);
    }
    run(SECONDS, &["swanctl", "--reload-settings"])?;
    run(SECONDS, &["swanctl", "--load-all", "--noprompt"]).map(drop)
}

fn reload_networkd() -> Result<(), CommandError> {
    if has_systemd()
        && !succeeds(&[
            "systemctl",
            "--quiet",
            "is-active",
            "systemd-networkd.service",
        ])
    {
        return run(LONG, &["systemctl", "start", "systemd-networkd.service"]).map(drop);
    }
    run(LONG, &["networkctl", "reload"]).map(drop)
}

fn reload_frr(delta: &[String], step: &Step, state: &State) -> Result<(), StepError> {
    if !succeeds(&["vtysh", "-c", "show version"]) {
        return restart_frr().map_err(|source| failed(step, source));
    }
    let done = if Path::new(FRR_RELOAD).exists() {
        run(LONG, &[FRR_RELOAD, "--reload", "--stdout", FRR_CONF])
    } else {
        let path = state.frr_delta(delta)?;
        run(LONG, &["vtysh", "-f", &path.to_string_lossy()])
    };
    done.map(drop).map_err(|source| failed(step, source))
}

pub fn restart_frr() -> Result<(), CommandError> {
    match has_systemd() {
        true => run(LONG, &["systemctl", "restart", "frr.service"]).map(drop),
        false => run(LONG, &["/usr/lib/frr/frrinit.sh", "restart"]).map(drop),
    }
}

fn reload_agent() -> Result<(), CommandError> {
    let runs =
        has_systemd() && succeeds(&["systemctl", "--quiet", "is-active", "lxmesh-agent.service"]);
    match runs {
        true => run(SECONDS, &["systemctl", "reload", "lxmesh-agent.service"]).map(drop),
        false => Ok(()),
    }
}
