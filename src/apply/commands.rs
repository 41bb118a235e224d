//! Programs of the host, run with a time limit; they end with us. Decides nothing.

use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// At most so much of what a program writes is read.
const MAX_BYTES: usize = 16 << 20;

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
        .args(words);
    // SAFETY: the closure runs between fork and exec; it makes one system call and neither
    // allocates nor takes locks.
    unsafe {
        command.pre_exec(|| {
            let signal = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(signal)?;
            Ok(())
        });
    }
    let (status, out, complaint) = finish(&mut command).map_err(|error| CommandError::Start {
        program: words.first().copied().unwrap_or_default().into(),
        cause: error.to_string(),
    })?;
    if status.success() {
        return Ok(out);
    }
    let said = match complaint.trim() {
        "" => &out,
        _ => &complaint,
    };
    let lines: Vec<&str> = said.trim().lines().collect();
    Err(CommandError::Failed {
        command: words.join(" "),
        status: match status.code() {
            Some(124) => format!("not within {limit_s} s"),
            Some(127) => "not installed".into(),
            _ => status.to_string(),
        },
        said: lines[lines.len().saturating_sub(8)..].join("\n    "),
    })
}

/// Runs it to its own end; what it has written by then, to either output. They are files: a pipe would stay open as long as
/// any daemon that it has started keeps it, as FRR's mgmtd does (10.7).
fn finish(command: &mut Command) -> io::Result<(ExitStatus, String, String)> {
    let [out, complaint] = [file()?, file()?];
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(complaint.try_clone()?)
        .status()?;
    Ok((status, written(&out)?, written(&complaint)?))
}

fn file() -> io::Result<File> {
    Ok(File::from(memfd_create("output", MemfdFlags::CLOEXEC)?))
}

/// Without moving the place where others may go on to write.
fn written(file: &File) -> io::Result<String> {
    let length = file.metadata()?.len();
    // Of too much, the end: that is where a program says what was wrong.
    let from = length.saturating_sub(MAX_BYTES as u64);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(MAX_BYTES)];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], from + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    bytes.truncate(read);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<String, CommandError> {
        run(30, &["sh", "-c", script])
    }

    #[test]
    fn a_daemon_that_keeps_the_outputs_open_keeps_nobody_waiting() {
        let said = sh("sleep 60 & echo $!").unwrap();
        let daemon = said.trim();
        // It runs, and may go on to write.
        assert!(std::path::Path::new("/proc").join(daemon).exists());
        assert!(succeeds(&["kill", daemon]));
    }

    #[test]
    fn what_is_said_is_the_output_or_of_a_failure_the_end_of_the_complaint() {
        assert_eq!(sh("echo told; echo complained >&2").unwrap(), "told\n");
        let why = |script: &str| sh(script).unwrap_err().to_string();
        let complained = why("seq 9; seq 20 >&2; exit 3");
        assert!(complained.ends_with("13\n    14\n    15\n    16\n    17\n    18\n    19\n    20"));
        assert!(complained.contains("exit status: 3") && !complained.contains("12"));
        assert!(why("echo told; exit 1").ends_with("told"));
        assert!(why("exec 2>&1; echo told; exit 1").ends_with("told"));
        let missing = run(30, &["/no/such/program"]).unwrap_err().to_string();
        assert!(missing.contains("not installed"), "{missing}");
    }
}
