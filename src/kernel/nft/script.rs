//! Scripts for the `nft` program: the way to make tables, chains, rules and sets. Bounded in time
//! and in what is kept of its complaints. The program gets the whole script or is not started, and it ends
//! with the process that started it: half a script could be another one that is valid, and one that is loaded later would
//! undo what others have made meanwhile.

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::Nft;
use crate::kernel::KernelError;

const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];
/// So that two of them end before systemd's watchdog loses patience with the agent.
const TIME_LIMIT: Duration = Duration::from_secs(12);
const STDERR_BYTES: u64 = 16 * 1024;

impl Nft {
    /// Runs a script (`nft -f -`) in the calling thread's network namespace: all of it or none.
    /// The error's text is what the program wrote to standard error.
    pub fn run(&mut self, script: &str) -> Result<(), KernelError> {
        nft("running an nft script", &["-f", "-"], script)
    }

    /// Checks a script against the tables that there are, without running it (`nft -c -f -`).
    pub fn check(&mut self, script: &str) -> Result<(), KernelError> {
        nft("checking an nft script", &["-c", "-f", "-"], script)
    }
}

fn nft(attempt: &str, arguments: &[&str], script: &str) -> Result<(), KernelError> {
    for program in PROGRAMS {
        match start(program, arguments, script) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(broken(attempt, &error)),
            Ok(child) => return finish(attempt, child, TIME_LIMIT),
        }
    }
    Err(KernelError::ours(
        attempt,
        libc::ENOENT,
        "the program nft is not installed",
    ))
}

fn broken(attempt: &str, error: &io::Error) -> KernelError {
    KernelError::new(attempt, error.raw_os_error(), Some(error.to_string()))
}

fn start(program: &str, arguments: &[&str], script: &str) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(whole(script)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let parent = getpid();
    // SAFETY: between fork and exec there are two system calls only, and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before that.
            match getppid() == Some(parent) {
                true => Ok(()),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
    command.spawn()
}

/// A file in memory, to be read from its beginning.
fn whole(script: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("nft script", MemfdFlags::CLOEXEC)?);
    file.write_all(script.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn finish(attempt: &str, mut child: Child, limit: Duration) -> Result<(), KernelError> {
    let deadline = Instant::now() + limit;
    let outcome = watch(&mut child, deadline);
    if outcome.is_err() {
        // Its pipe closes with it, which ends the thread. It may have ended by itself meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (status, complaints) = outcome.map_err(|error| broken(attempt, &error))?;
    if status.success() {
        return Ok(());
    }
    let text = match complaints.trim() {
        "" => status.to_string(),
        text => text.to_owned(),
    };
    Err(KernelError::new(attempt, None, Some(text)))
}

/// Keeps the beginning of standard error, and waits for the end.
fn watch(child: &mut Child, deadline: Instant) -> io::Result<(ExitStatus, String)> {
    let Some(mut stderr) = child.stderr.take() else {
        return Err(io::Error::other("no pipe to the child process"));
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let read = stderr.by_ref().take(STDERR_BYTES).read_to_end(&mut kept);
        // Read on, so that it does not stop writing; nobody may be waiting any more.
        let _ = io::copy(&mut stderr, &mut io::sink());
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&kept).into_owned()));
    });
    let late = || io::Error::from_raw_os_error(libc::ETIMEDOUT);
    let left = deadline.saturating_duration_since(Instant::now());
    let complaints = receiver.recv_timeout(left).map_err(|_| late())??;
    // It has closed standard error, so it ends at once, or it is no nft.
    loop {
        match child.try_wait()? {
            Some(status) => return Ok((status, complaints)),
            None if Instant::now() >= deadline => return Err(late()),
            // The whole pass waits for this transaction anyway.
            #[allow(clippy::disallowed_methods)]
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<(), KernelError> {
        finish("trying", start("sh", &[], script).unwrap(), limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_that_hangs_is_stopped_at_the_time_limit() {
        let error = sh("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ETIMEDOUT));
        let error = sh("exec 2>&-; exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ETIMEDOUT));
    }

    #[test]
    fn complaints_are_kept_up_to_a_limit_and_silence_gives_the_status() {
        let error = sh("echo no such thing >&2; exit 1", LONG).unwrap_err();
        assert_eq!(error.to_string(), "trying: no such thing");
        let error = sh("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", LONG).unwrap_err();
        assert_eq!(error.text().unwrap().len() as u64, STDERR_BYTES);
        assert_eq!(
            sh("exit 3", LONG).unwrap_err().to_string(),
            "trying: exit status: 3"
        );
        sh("echo a warning >&2", LONG).unwrap();
    }

    #[test]
    fn a_script_larger_than_a_pipe_goes_through_and_an_unread_one_does_no_harm() {
        sh(&format!("exit 0\n{}", "#\n".repeat(1_000_000)), LONG).unwrap();
        sh(&format!("{}exit 0\n", "#\n".repeat(1_000_000)), LONG).unwrap();
    }
}
