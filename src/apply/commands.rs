//! Programs of the host, run with a time limit; they end with us. Decides nothing.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Why a program did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("{program} cannot be run: {cause}")]
    Start { program: String, cause: String },
    #[error("{command} failed ({status}): {said}")]
    Failed {
        command: String,
        status: String,
        said: String,
    },
}

/// Runs a program for at most `limit_s` seconds; its standard output.
pub fn run(limit_s: u32, words: &[&str]) -> Result<String, CommandError> {
    // timeout(1) passes SIGTERM on, and so ends what it runs when we die.
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &limit_s.to_string()])
        .args(words)
        .stdin(Stdio::null());
    // SAFETY: the closure runs between fork and exec; it makes one system call and neither
    // allocates nor takes locks.
    unsafe {
        command.pre_exec(|| {
            let signal = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(signal)?;
            Ok(())
        });
    }
    let output = command.output().map_err(|error| CommandError::Start {
        program: words.first().copied().unwrap_or_default().into(),
        cause: error.to_string(),
    })?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let said = if complaint.trim().is_empty() {
        &out
    } else {
        &*complaint
    };
    let lines: Vec<&str> = said.trim().lines().collect();
    Err(CommandError::Failed {
        command: words.join(" "),
        status: match output.status.code() {
            Some(124) => format!("not within {limit_s} s"),
            Some(127) => "not installed".into(),
            _ => output.status.to_string(),
        },
        said: lines[lines.len().saturating_sub(8)..].join("\n    "),
    })
}

/// True if the program ran and was content.
pub fn succeeds(words: &[&str]) -> bool {
    run(20, words).is_ok()
}

/// True if systemd runs this host.
pub fn has_systemd() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}

/// Waits. The generator has nothing else to do meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "not the agent: one thing after the other"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
