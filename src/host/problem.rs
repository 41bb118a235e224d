//! What is wrong with a host file, where, and what to do: collected, never only the first one.
//! Knows text positions; knows nothing of keys and rules.

use crate::text;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing wrong with a host file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As the user named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Which key, which value, why not.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// The line itself, printable; empty when there is none.
    source: String,
    /// Characters to underline.
    width: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            file,
            line,
            column,
            message,
            remedy,
            source,
            width,
        } = self;
        write!(f, "{file}:{line}:{column}: {message}")?;
        if !source.trim().is_empty() {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(column - 1);
            let carets = "^".repeat((*width).max(1));
            write!(f, "\n  {number} | {source}\n  {margin} | {indent}{carets}")?;
        }
        write!(f, "\n  remedy: {remedy}")
    }
}

/// All that is wrong with a host file, in the order of its lines. Never empty in an `Err`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why a host file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not there, no permission, a directory, not text.
    #[error("cannot read the host file {}: {source}\n  remedy: {}", .path.display(), remedy(.path, .source))]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Invalid(#[from] Problems),
}

fn remedy(path: &Path, source: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::NotFound => {
            format!(
                "write {}, or name another file with --host-file",
                path.display()
            )
        }
        ErrorKind::PermissionDenied => {
            format!(
                "run as root, or make {} readable for this user",
                path.display()
            )
        }
        ErrorKind::InvalidData => "save the file as UTF-8 text of less than 4 MiB".into(),
        _ => "name a readable file of TOML text with --host-file".into(),
    }
}

/// A text under examination and what was found wrong with it so far.
pub struct Findings<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
    /// False after a syntax error: what seems to be missing may only be unreadable.
    pub complete: bool,
    /// How many there were beyond [`MOST`].
    more: usize,
}

/// Nobody reads more problems at once than this, and each costs time and memory.
const MOST: usize = 200;

impl<'a> Findings<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Findings {
            file,
            text,
            problems: Vec::new(),
            complete: true,
            more: 0,
        }
    }

    /// Notes a problem with the bytes `span` of the text. Beyond [`MOST`] only counts it.
    pub fn add(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.problems.len() >= MOST {
            self.more += 1;
            return;
        }
        let (line, column, source, width) = self.locate(span);
        self.problems.push(Problem {
            file: self.file.into(),
            line,
            column,
            message: message.into(),
            remedy: remedy.into(),
            source,
            width,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// True if a problem with the key was noted, so that its value or a part of it is not known.
    pub fn about(&self, path: &str) -> bool {
        let of_key = |problem: &Problem| {
            problem
                .message
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(':'))
        };
        self.problems.iter().any(of_key)
    }

    /// True if the key is neither there nor spoiled by another problem: its absence is meant.
    pub fn lacks<T>(&self, path: &str, value: &Option<T>) -> bool {
        self.complete && value.is_none() && !self.about(path)
    }

    /// The line, from 1, in which the byte lies.
    pub fn line_of(&self, byte: usize) -> usize {
        self.locate(byte..byte).0
    }

    /// Keeps only the problems for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&Problem) -> bool) {
        self.problems.retain(keep);
    }

    pub fn lines(&self) -> Vec<usize> {
        self.problems.iter().map(|problem| problem.line).collect()
    }

    /// All problems by line, column and message; each once.
    pub fn finish(mut self) -> Problems {
        self.problems
            .sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
        self.problems.dedup();
        if let (Some(last), more @ 1..) = (self.problems.last(), self.more) {
            self.problems.push(Problem {
                message: format!("and {more} more problems"),
                remedy: "correct the ones above first".into(),
                source: String::new(),
                ..last.clone()
            });
        }
        Problems(self.problems)
    }

    /// Line, column, the printable line, characters to underline in it.
    fn locate(&self, span: Range<usize>) -> (usize, usize, String, usize) {
        let start = floor_boundary(self.text, span.start);
        let end = floor_boundary(self.text, span.end).max(start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        let rest = &self.text[line_start..];
        let content = rest
            .split('\n')
            .next()
            .unwrap_or(rest)
            .trim_end_matches('\r');
        let in_line = end.min(line_start + content.len()).max(start);
        let width = self.text[start..in_line].chars().count();
        let printable = match content.chars().count() {
            0..=160 => content
                .chars()
                .map(|c| if text::is_visible(c) { c } else { ' ' })
                .collect(),
            _ => String::new(),
        };
        (line, column, printable, width)
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

/// A value quoted for a message: shortened, and without control characters.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!(
        "\"{}{dots}\"",
        short.escape_debug().to_string().replace("\\'", "'")
    )
}
