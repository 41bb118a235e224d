//! Differences between files, for people: unified, one file at a time. Pure.

use similar::TextDiff;
use std::path::Path;

/// One file before and after; `None` where there is no file.
#[derive(Debug, Clone, Copy)]
pub struct DiffText<'a> {
    pub path: &'a Path,
    pub before: Option<&'a [u8]>,
    pub after: Option<&'a [u8]>,
}

/// What stands in place of a line that must not be shown.
const HIDDEN: &str = "(not shown: a secret)";

/// The unified diff, with `/dev/null` for a file that is not there; empty if nothing differs.
/// Secrets are not shown.
pub fn unified(text: DiffText<'_>) -> String {
    if text.before == text.after {
        return String::new();
    }
    let name = |side: Option<&[u8]>| match side {
        Some(_) => text.path.display().to_string(),
        None => "/dev/null".into(),
    };
    let words = |side: Option<&[u8]>| hide_secrets(&String::from_utf8_lossy(side.unwrap_or(b"")));
    let (before, after) = (words(text.before), words(text.after));
    let diff = TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(3)
        .header(&name(text.before), &name(text.after))
        .to_string();
    match diff.is_empty() {
        true => format!("{}: differs in a secret only\n", text.path.display()),
        false => diff,
    }
}

/// `secret = …` of strongSwan, `neighbor … password …` of FRR.
fn hide_secrets(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let words = line.trim_start();
            let end = match words.starts_with("secret") {
                true => line.find('=').map(|at| at + 1),
                false if words.starts_with("neighbor ") => line
                    .find(" password ")
                    .map(|at| at + " password ".len() - 1),
                false => None,
            };
            match end {
                Some(end) => format!("{} {HIDDEN}\n", &line[..end]),
                None => line.to_string(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: Option<&str>, after: Option<&str>) -> String {
        unified(DiffText {
            path: Path::new("/etc/a"),
            before: before.map(str::as_bytes),
            after: after.map(str::as_bytes),
        })
    }

    #[test]
    fn a_changed_line_has_its_neighbours_and_a_missing_file_is_dev_null() {
        assert_eq!(
            diff(Some("a\nb\nc\n"), Some("a\nB\nc\n")),
            "--- /etc/a\n+++ /etc/a\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
        );
        assert_eq!(
            diff(None, Some("a\n")),
            "--- /dev/null\n+++ /etc/a\n@@ -0,0 +1 @@\n+a\n"
        );
        assert_eq!(diff(Some("a\n"), Some("a\n")), "");
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = diff(
            Some(" neighbor x password old\n"),
            Some(" neighbor x password new\n    secret = \"abc\"\n"),
        );
        for word in ["old", "new", "abc"] {
            assert!(!text.contains(word), "{text}");
        }
        assert_eq!(
            diff(Some("secret = a\n"), Some("secret = b\n")),
            "/etc/a: differs in a secret only\n"
        );
    }
}
