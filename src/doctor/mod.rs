//! `lxmesh doctor`: is this host fit for what the host file asks of it? `look.rs` asks the kernel
//! and the programs, each for a bounded time, and changes nothing; `judge.rs` and `network.rs` decide what
//! that means and what to do about it. Pure but for `look.rs`.

mod files;
mod judge;
mod look;
mod network;
#[cfg(test)]
mod sample;

use crate::host::{self, LoadError};
use serde::Serialize;
use std::path::Path;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Works, but not as well as it should, or not for long.
    Warning,
    /// Instances are not connected, or not protected, because of it.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `kernel`, `frr` and so on.
    pub topic: &'static str,
    pub level: Level,
    pub text: String,
    /// What to do; of what is well, nothing.
    pub remedy: Option<String>,
}

/// All of them. The JSON of `lxmesh doctor --json` has exactly these fields; new ones may be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    pub problems: usize,
    pub warnings: usize,
    pub findings: Vec<Finding>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    #[error(transparent)]
    HostFile(#[from] LoadError),
    #[error("only root can look at all of it; run this as root")]
    NotRoot,
}

/// Looks, and judges.
pub async fn examine(host_path: &Path) -> Result<Diagnosis, DoctorError> {
    let host = host::load(host_path)?;
    if !rustix::process::geteuid().is_root() {
        return Err(DoctorError::NotRoot);
    }
    let seen = look::look(&host).await;
    Ok(Diagnosis::of(judge::judge(&host, &seen)))
}

impl Diagnosis {
    fn of(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|f| f.level == level).count();
        Diagnosis {
            problems: count(Level::Problem),
            warnings: count(Level::Warning),
            findings,
        }
    }

    /// For a person: a line for each finding, its remedy below it, the sum at the end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding {
            topic,
            level,
            text: what,
            remedy,
        } in &self.findings
        {
            let level = match level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Problem => "PROBLEM",
            };
            text += &format!("{level:<8} {topic}: {what}\n");
            if let Some(remedy) = remedy {
                text += &format!("         remedy: {remedy}\n");
            }
        }
        text + &format!("{} problems, {} warnings\n", self.problems, self.warnings)
    }
}

impl Finding {
    fn ok(topic: &'static str, text: impl Into<String>) -> Self {
        Finding {
            topic,
            level: Level::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    fn warning(topic: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding {
            topic,
            level: Level::Warning,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn problem(topic: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding {
            topic,
            level: Level::Problem,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }
}
