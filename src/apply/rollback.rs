//! Undoing an apply, and the guard that does it when the applying process cannot: because it was
//! killed, because nobody confirmed, because the connection is gone. After a reboot the unit
//! `lxmesh-gen-rollback.service` puts the files back before anything reads them.

use super::activate;
use super::commands::{has_systemd, pause, run};
use super::health::{Health, observe};
use super::journal::{self, Journal, Snapshot, Stage, State, StateError};
use super::{ApplyError, fault, is_this_host};
use crate::generate::closed;
use crate::generate::plan::{FileChange, Step, plan};
use crate::generate::write::MANIFEST;
use crate::host::{self, Firewall, HostFile};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is told on the way.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// How long sessions may take to come back before FRR is started anew.
const BACK_S: u64 = 40;

/// Puts everything back as it was before the unfinished apply, files first. Programs take it over
/// only on this host and only if it runs (not at boot). Doing it again after a crash is harmless.
pub fn undo(
    root: &Path,
    state: &State,
    journal: &Journal,
    at_boot: bool,
    say: Say<'_>,
) -> Result<(), ApplyError> {
    let snapshot = state.snapshot()?;
    state.restore(&snapshot)?;
    if is_this_host(root) && !at_boot && journal.stage != Stage::Prepared {
        for step in steps_back(&snapshot) {
            // One program's failure must not keep the others from going back.
            if let Err(error) = activate::step(&step, state) {
                say(&format!("warning: {error}"));
            }
        }
        wait_until_back(&snapshot.health, say);
    }
    state.close()?;
    Ok(())
}

fn steps_back(snapshot: &Snapshot) -> Vec<Step> {
    let changes: Vec<FileChange> = snapshot
        .entries
        .iter()
        .filter(|entry| entry.path != Path::new(MANIFEST))
        .map(|entry| FileChange {
            path: entry.path.clone(),
            before: entry.after.clone(),
            after: entry.before.as_ref().map(|stored| stored.text()),
        })
        .collect();
    let parse = |text: &str| host::parse("the host file", text).ok();
    let new = parse(&snapshot.host_after);
    let old = snapshot.host_before.as_deref().and_then(parse);
    let mut steps = match old.or_else(|| new.clone()) {
        Some(target) => plan(&changes, new.as_ref(), &target).steps,
        None => plan_without_host_file(&changes),
    };
    steps.extend(open_again(&changes));
    steps
}

/// Tables that came with the apply and may have cut this host off. They stay where a file goes in an
/// ordinary apply; an agent that runs loads them again, with the devices that it finds.
fn open_again(changes: &[FileChange]) -> Vec<Step> {
    let came = |change: &FileChange| {
        change.path == Path::new(closed::PATH) && change.before.is_some() && change.after.is_none()
    };
    let families: &[&str] = match changes.iter().any(came) {
        true => &["inet", "arp"],
        false => &[],
    };
    let delete = |family: &&str| Step::DeleteTable {
        family: (*family).into(),
        name: Firewall::CLOSED.into(),
    };
    families.iter().map(delete).collect()
}

/// A newer program may understand the files of an older one no longer. Then devices have no
/// networks' names in the reasons, which nobody reads here.
fn plan_without_host_file(changes: &[FileChange]) -> Vec<Step> {
    let least = "version = 1\n[fabric]\nname = \"x\"\nasn = 1\nsupervisors = [\"192.0.2.0/24\"]\n";
    let least: HostFile = host::parse("", least).expect("it has every required key");
    plan(changes, None, &least).steps
}

/// The sessions that were there come back by themselves; if not, FRR gets a fresh start.
fn wait_until_back(before: &Health, say: Say<'_>) {
    let back = |limit_s: u64| {
        let end = Instant::now() + Duration::from_secs(limit_s);
        loop {
            let now = observe();
            if before.peers.is_subset(&now.peers) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            pause(Duration::from_millis(500));
        }
    };
    if back(BACK_S) {
        return;
    }
    say("BGP sessions do not come back: FRR is started anew");
    if let Err(error) = activate::restart_frr() {
        say(&format!("warning: {error}"));
    }
    if !back(BACK_S) {
        say("warning: not all BGP sessions are back; `vtysh -c 'show bgp summary'` says which");
    }
}

/// Ends an apply that was kept.
pub fn finish(state: &State) -> Result<(), StateError> {
    let snapshot = state.snapshot();
    match snapshot {
        Ok(snapshot) => state.set_applied(&snapshot.host_after)?,
        // Killed between the removals of `close`.
        Err(_) if state.journal()?.is_none() => {}
        Err(error) => return Err(error),
    }
    state.close()
}

/// Starts the guard, and returns when it watches.
pub fn arm(root: &Path, id: &str) -> Result<(), ApplyError> {
    let own = std::env::current_exe().map_err(|error| ApplyError::Guard(error.to_string()))?;
    let own = own.to_string_lossy();
    if has_systemd() {
        let unit = format!("--unit=lxmesh-gen-guard-{id}");
        let words = [
            "systemd-run",
            "--quiet",
            "--collect",
            &unit,
            "--description=Undoes an unfinished lxmesh-gen apply",
            "--property=Restart=on-failure",
            "--property=RestartSec=1",
            "--property=OOMScoreAdjust=-900",
            &own,
            "guard",
            id,
        ];
        run(30, &words).map_err(|error| ApplyError::Guard(error.to_string()))?;
    } else {
        let mut command = Command::new("setsid");
        command
            .args([&own, "guard", id])
            .env_remove("LXMESH_TEST_CRASH_AT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // It outlives this process; whoever inherits it collects it.
        let started = command.spawn();
        started.map_err(|error| ApplyError::Guard(error.to_string()))?;
    }
    let end = Instant::now() + Duration::from_secs(30);
    while !journal::guard_is_ready(root, id) {
        if Instant::now() >= end {
            return Err(ApplyError::Guard("it does not begin to watch".into()));
        }
        pause(Duration::from_millis(20));
    }
    fault::point();
    Ok(())
}

/// Watches over one apply until it is finished, and undoes it if it ends otherwise: the lock comes
/// free when the applying process ends, however it ends.
pub fn guard(root: &Path, id: &str, say: Say<'_>) -> Result<(), ApplyError> {
    journal::tell_guard_is_ready(root, id)?;
    loop {
        let state = State::open(root, true)?.expect("it waits for the lock");
        let journal = match state.journal()? {
            Some(journal) if journal.id == id => journal,
            Some(_) => return Ok(()),
            // The applying process ended before it began, or has ended it.
            None => return Ok(state.close()?),
        };
        let left_s = journal
            .deadline
            .as_ref()
            .map_or(0, |deadline| deadline.left_s());
        match journal.stage {
            Stage::Confirmed => return Ok(finish(&state)?),
            Stage::Activated if left_s > 0 => {}
            _ => {
                say("the apply was not finished, or not confirmed in time: it is undone");
                return undo(root, &state, &journal, false, say);
            }
        }
        drop(state);
        pause(Duration::from_millis(500));
    }
}
