//! From the host file to a host that runs by it: survey, ask the files' readers, snapshot, write,
//! activate, wait for health, keep or undo. At every moment either the old or the new state can be reached: before
//! the first change the snapshot is on disk and a guard in a process of its own watches
//! (`rollback.rs`); `journal.rs` says how far things have come.
//!
//! Below a directory other than `/` only files are written: no program runs by them.

mod activate;
pub mod commands;
mod fault;
pub mod health;
mod journal;
mod nft;
mod rollback;

use crate::generate::plan::{FileChange, Plan, plan};
use crate::generate::readers::{self, ReadersError};
use crate::generate::write::{self, Surveyed, WriteError};
use crate::generate::{Here, OutputFile};
use crate::host::{self, HostFile};
use health::{Health, complaints, largest_packet, observe, ping_vteps};
use journal::{Deadline, Journal, Snapshot, Stage, State};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use journal::{STATE_DIRECTORY, StateError};
pub use rollback::{Say, guard};

/// What is to be applied, and how.
#[derive(Debug)]
pub struct Request<'a> {
    pub root: &'a Path,
    /// Where the host file is, if it is the one that the agent reads.
    pub host_path: Option<PathBuf>,
    pub text: &'a str,
    pub file: &'a HostFile,
    pub here: Here,
    pub outputs: &'a [OutputFile],
    /// Seconds within which `confirm` must come.
    pub confirm_s: Option<u64>,
    /// Whether health decides.
    pub health: bool,
    /// Seconds that health may take to be as before.
    pub health_limit_s: u64,
}

/// How an apply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Nothing,
    Kept,
    /// Undone after so many seconds unless confirmed.
    Waiting {
        confirm_s: u64,
    },
}

/// Why nothing was applied, or why it was undone.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("another lxmesh-gen changes this host just now\n  remedy: wait until it has finished")]
    Busy,
    #[error(
        "the last apply waits for an answer, for {left_s} s more\n  remedy: `lxmesh-gen confirm` keeps it, `lxmesh-gen rollback` undoes it"
    )]
    Unconfirmed { left_s: u64 },
    #[error(
        "there is no apply to confirm\n  remedy: it was kept or undone already; `lxmesh-gen plan` says what differs"
    )]
    NothingToConfirm,
    #[error(
        "nothing was changed: the guard that would undo a failed apply cannot be started: {0}\n  remedy: see whether systemd-run, or setsid, works"
    )]
    Guard(String),
    #[error(
        "everything is as it was before: {reason}\n  remedy: correct the host file{kept}, and apply again"
    )]
    Undone { reason: String, kept: String },
    #[error("nothing was changed: {0}")]
    Refused(#[from] ReadersError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// True if programs run by the files below this root.
fn is_this_host(root: &Path) -> bool {
    root == Path::new("/")
}

/// What applying would change and cost; changes nothing.
pub fn preview(
    root: &Path,
    outputs: &[OutputFile],
    new: &HostFile,
) -> Result<(Vec<Surveyed>, Plan), ApplyError> {
    let surveyed = write::survey(root, outputs, false)?;
    let old = journal::applied(root)?.and_then(|text| host::parse("applied.toml", &text).ok());
    let plan = plan(&changes(&surveyed), old.as_ref(), new);
    Ok((surveyed, plan))
}

fn changes(surveyed: &[Surveyed]) -> Vec<FileChange> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    surveyed
        .iter()
        .filter(|one| one.changes())
        .map(|one| FileChange {
            path: one.path.clone(),
            before: one.before.as_ref().map(text),
            after: one.after.as_ref().map(|output| output.contents.clone()),
        })
        .collect()
}

/// Applies, and returns when that is kept, undone, or waits for `confirm`.
pub fn apply(request: &Request<'_>, say: Say<'_>) -> Result<Outcome, ApplyError> {
    let root = request.root;
    let state = open(root)?;
    recover(root, &state, false, say)?;
    let (surveyed, plan) = preview(root, request.outputs, request.file)?;
    if plan.is_empty() {
        state.set_applied(request.text)?;
        return Ok(Outcome::Nothing);
    }
    for effect in &plan.effects {
        say(&effect.to_string());
    }
    let live = is_this_host(root);
    if live {
        for line in ask_readers(&surveyed)?.lines() {
            say(line);
        }
    }
    let before = match live && request.health {
        true => observe(),
        false => Health::default(),
    };
    let (entries, directories) = state.snapshot_of(&surveyed)?;
    state.set_snapshot(&Snapshot {
        entries,
        directories,
        host_path: request.host_path.clone(),
        host_before: state.applied()?,
        host_after: request.text.into(),
        health: before.clone(),
    })?;
    let mut journal = Journal {
        id: journal::new_id(),
        stage: Stage::Prepared,
        deadline: None,
    };
    // Before there is an apply that could stay unfinished.
    if live && let Err(error) = rollback::arm(root, &journal.id) {
        state.close()?;
        return Err(error);
    }
    state.set_journal(&journal)?;
    let changed = change(
        request,
        &state,
        &mut journal,
        &surveyed,
        &plan,
        &before,
        say,
    );
    if let Err(reason) = changed {
        say(&format!("undoing: {reason}"));
        rollback::undo(root, &state, &journal, false, say)?;
        return Err(undone(request, reason));
    }
    if let Some(confirm_s) = request.confirm_s {
        journal.deadline = Some(Deadline::after(confirm_s));
        state.set_journal(&journal)?;
        return Ok(Outcome::Waiting { confirm_s });
    }
    keep(&state, journal)?;
    Ok(Outcome::Kept)
}

/// What the programs that will read the files say of those that change.
fn ask_readers(surveyed: &[Surveyed]) -> Result<String, ReadersError> {
    let changing = surveyed.iter().filter(|one| one.changes());
    let outputs: Vec<OutputFile> = changing.filter_map(|one| one.after.clone()).collect();
    readers::check(&outputs)
}

fn undone(request: &Request<'_>, reason: String) -> ApplyError {
    let kept = match request.host_path {
        Some(_) => format!(
            " (the refused one is {STATE_DIRECTORY}/refused.toml, if another was kept before it)"
        ),
        None => String::new(),
    };
    ApplyError::Undone { reason, kept }
}

/// A guard has the lock for moments again and again; an apply has it until it ends.
fn open(root: &Path) -> Result<State, ApplyError> {
    for _ in 0..40 {
        if let Some(state) = State::open(root, false)? {
            return Ok(state);
        }
        commands::pause(Duration::from_millis(50));
    }
    Err(ApplyError::Busy)
}

/// Everything between the first change and the answer whether it may stay.
fn change(
    request: &Request<'_>,
    state: &State,
    journal: &mut Journal,
    surveyed: &[Surveyed],
    plan: &Plan,
    before: &Health,
    say: Say<'_>,
) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    journal.stage = Stage::Writing;
    state.set_journal(journal).map_err(|error| text(&error))?;
    write::write_surveyed(request.root, surveyed, &mut fault::point)
        .map_err(|error| text(&error))?;
    let live = is_this_host(request.root);
    if live {
        for step in &plan.steps {
            say(&step.to_string());
            activate::step(step, state).map_err(|error| text(&error))?;
        }
    }
    journal.stage = Stage::Activated;
    state.set_journal(journal).map_err(|error| text(&error))?;
    match live && request.health {
        true => wait_for_health(request, plan, before, say),
        false => Ok(()),
    }
}

/// BGP's hold time is 9 s: what has cut a session off shows after that.
const SETTLE: Duration = Duration::from_secs(11);

/// Returns when health has been as good as before for long enough; the complaints if it is not.
fn wait_for_health(
    request: &Request<'_>,
    plan: &Plan,
    before: &Health,
    say: Say<'_>,
) -> Result<(), String> {
    use crate::generate::plan::Step;
    let of_networkd = |step: &Step| {
        matches!(
            step,
            Step::ReloadNetworkd | Step::SetMtu { .. } | Step::ReloadAgent | Step::DeleteLink(_)
        )
    };
    let settle = match plan.steps.iter().all(of_networkd) {
        true => Duration::ZERO,
        false => SETTLE,
    };
    say("waiting for health: BGP sessions, type-3 routes, tunnels, packets of the largest size");
    let size = match health::can_ping() {
        Ok(()) => largest_packet(request.file),
        Err(reason) => {
            say(&format!(
                "warning: packets of the largest size are not tried: {reason}"
            ));
            0
        }
    };
    let end = Instant::now() + Duration::from_secs(request.health_limit_s) + settle;
    let mut well_since: Option<Instant> = None;
    loop {
        fault::point();
        let now = observe();
        let mut all = complaints(before, &now, request.file, &request.here);
        if all.is_empty() {
            let since = *well_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= settle {
                if size > 0 {
                    all = ping_vteps(&now, &request.here, size);
                }
                if all.is_empty() {
                    return Ok(());
                }
            }
        } else {
            well_since = None;
        }
        if Instant::now() >= end && !all.is_empty() {
            return Err(all.join("; "));
        }
        commands::pause(Duration::from_millis(300));
    }
}

fn keep(state: &State, journal: Journal) -> Result<(), StateError> {
    state.set_journal(&Journal {
        stage: Stage::Confirmed,
        ..journal
    })?;
    rollback::finish(state)
}

/// Ends what an earlier process has left: kept is finished, everything else is undone. True if
/// something was undone.
fn recover(root: &Path, state: &State, at_boot: bool, say: Say<'_>) -> Result<bool, ApplyError> {
    let Some(journal) = state.journal()? else {
        return Ok(false);
    };
    let left_s = journal
        .deadline
        .as_ref()
        .map_or(0, |deadline| deadline.left_s());
    match journal.stage {
        Stage::Confirmed => {
            rollback::finish(state)?;
            Ok(false)
        }
        Stage::Activated if left_s > 0 => Err(ApplyError::Unconfirmed { left_s }),
        _ => {
            say("an earlier apply was not finished: it is undone first");
            rollback::undo(root, state, &journal, at_boot, say)?;
            Ok(true)
        }
    }
}

/// Keeps the apply that waits for it.
pub fn confirm(root: &Path) -> Result<(), ApplyError> {
    // The guard has the lock for moments only, unless it is undoing the apply.
    let state = State::open(root, true)?.ok_or(ApplyError::Busy)?;
    match state.journal()? {
        Some(journal) if journal.deadline.as_ref().is_some_and(|d| d.left_s() > 0) => {
            Ok(keep(&state, journal)?)
        }
        _ => Err(ApplyError::NothingToConfirm),
    }
}

/// Undoes the apply that is not finished; false if there is none. At boot programs are not told:
/// they start later.
pub fn roll_back(root: &Path, at_boot: bool, say: Say<'_>) -> Result<bool, ApplyError> {
    let state = open(root)?;
    match state.journal()? {
        Some(journal) if journal.stage != Stage::Confirmed => {
            rollback::undo(root, &state, &journal, at_boot, say)?;
            Ok(true)
        }
        _ => recover(root, &state, at_boot, say),
    }
}
