//! `lxmesh status`: once, or again and again.

use super::{CHANGES, fail, say};
use lxmesh::control::server::{self, AskError};
use lxmesh::control::{Status, screen};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Shows what the agent at the socket says; `watch` is the pause between two screens, in seconds.
pub async fn show(socket: &Path, json: bool, watch: Option<u64>) -> ExitCode {
    if let Some(pause_s) = watch {
        return follow(socket, json, Duration::from_secs(pause_s)).await;
    }
    match server::ask(socket).await {
        Ok(status) => {
            if json {
                say(&serde_json::to_string_pretty(&status).expect("a status is plain data"));
            } else {
                say(&screen::render(&status));
            }
            match status.in_step {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(CHANGES),
            }
        }
        Err(error) => fail(&error),
    }
}

/// Until interrupted, or until nobody reads any more. An agent that does not answer may do so
/// later.
async fn follow(socket: &Path, json: bool, pause: Duration) -> ExitCode {
    let terminal = std::io::stdout().is_terminal();
    loop {
        let answer = server::ask(socket).await;
        let text = match json {
            true => line(&answer),
            false => frame(&answer, terminal),
        };
        let mut out = std::io::stdout().lock();
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return ExitCode::SUCCESS;
        }
        drop(out);
        tokio::time::sleep(pause).await;
    }
}

fn line(answer: &Result<Status, AskError>) -> String {
    let document = match answer {
        Ok(status) => serde_json::to_string(status).expect("a status is plain data"),
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
    };
    format!("{document}\n")
}

/// One screen. A terminal is written over from its first line, and what is left of the screen
/// before is cleared line by line, so that nothing flickers; elsewhere screens follow one another.
fn frame(answer: &Result<Status, AskError>, terminal: bool) -> String {
    let screen = match answer {
        Ok(status) => screen::render(status),
        Err(error) => format!("lxmesh: {error}\n"),
    };
    match terminal {
        true => format!("\x1b[H{}\x1b[J", screen.replace('\n', "\x1b[K\n")),
        false => format!("{screen}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_is_written_over() {
        let answer = Ok(Status::default());
        let plain = frame(&answer, false);
        assert!(!plain.contains('\x1b') && plain.ends_with("\n\n"));
        let over = frame(&answer, true);
        assert!(over.starts_with("\x1b[H") && over.ends_with("\x1b[J"));
        assert_eq!(
            over.matches("\x1b[K\n").count(),
            plain.matches('\n').count() - 1
        );
    }

    #[test]
    fn a_line_of_json_is_one_line_also_when_the_agent_is_gone() {
        let gone = Err(AskError::Answer("a\nb".into()));
        for answer in [Ok(Status::default()), gone] {
            let line = line(&answer);
            assert_eq!(line.matches('\n').count(), 1);
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
        }
    }
}
