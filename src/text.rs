//! Text that others wrote: names, keys and values of instances, errors of other programs. How it is
//! shown, so that it can neither end its line nor change what stands around it; and how much of it
//! is kept. Pure.

/// Stands for what was left out. No name has it by itself.
pub const CUT: char = '…';

/// The most entries of a list that are read: 2 × 65536 × 3 would fit no NIC's needs.
pub const MAX_WORDS: usize = 1024;

/// The most of a list's text that is kept, bytes: MAX_WORDS words, each as long as they come.
pub const MAX_LIST: usize = 64 << 10;

/// Longest name that is shown whole, characters.
pub const NAME: usize = 64;

/// Longest sentence about something, characters.
pub const SENTENCE: usize = 600;

/// The text as it may stand in a line: at most `most` characters, with [`CUT`] behind them if there
/// were more. Characters that cannot be seen, move the cursor, or turn the direction of writing
/// are escaped as Rust escapes them: controls, formats, separators, marks that join what is before
/// them, and whatever has no meaning.
pub fn shown(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut room = most;
    for c in text.chars() {
        let length = if is_visible(c) {
            1
        } else {
            c.escape_debug().len()
        };
        if length > room {
            out.push(CUT);
            break;
        }
        room -= length;
        match length {
            1 => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// Whether the text is shown as it is, if it is not too long.
pub fn is_visible_text(text: &str) -> bool {
    text.chars().all(is_visible)
}

/// Whether a character is shown as it is, and in a place of its own.
pub fn is_visible(c: char) -> bool {
    // Quotes and backslashes do no harm; escaped, they would be escaped once more with every quoting.
    matches!(c, ' '..='~') || c.escape_debug().len() == 1
}

/// What is kept of a text: at most `most` bytes, and then [`CUT`], with which neither a name, an
/// address nor a word of a list ends that means something.
pub fn kept(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.into();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
    format!("{}{CUT}", &text[..end.unwrap_or(0)])
}

/// Whether a name can be one: not empty, not longer than `most` bytes, and whole and visible.
pub fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && is_visible_text(text) && !text.contains(CUT)
}

/// What is kept in place of a text that cannot be a name: never a name itself, nor the same for two
/// of them. It has no slash either.
pub fn stand_in(text: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    let beginning = shown(text, 32).replace('/', "\\u{2f}");
    format!("{beginning}{CUT}{:016x}", hash.finish())
}

/// Splits a list at commas and blanks.
pub fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        for (text, wanted) in [
            ("web-1 \"a\" 'b' c\\d", "web-1 \"a\" 'b' c\\d"),
            ("bücher 日本", "bücher 日本"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\0"),
            ("\u{7f}\u{85}\u{9b}", "\\u{7f}\\u{85}\\u{9b}"),
            // Writing from right to left, zero width, separators of lines, soft hyphen, byte order.
            ("\u{202e}\u{2066}\u{61c}", "\\u{202e}\\u{2066}\\u{61c}"),
            (
                "\u{200b}\u{200d}\u{2060}\u{feff}",
                "\\u{200b}\\u{200d}\\u{2060}\\u{feff}",
            ),
            ("\u{2028}\u{a0}\u{ad}", "\\u{2028}\\u{a0}\\u{ad}"),
            ("e\u{301}\u{e0041}\u{e000}", "e\\u{301}\\u{e0041}\\u{e000}"),
        ] {
            assert_eq!(shown(text, 100), wanted);
            assert_eq!(is_visible_text(text), text == wanted, "{text:?}");
            // Once is enough.
            assert_eq!(shown(wanted, 100), wanted);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_no_escape_is_halved() {
        assert_eq!(shown("abcd", 4), "abcd");
        assert_eq!(shown("abcde", 4), "abcd…");
        assert_eq!(shown("a\u{1b}b", 4), "a…");
        assert_eq!(shown("äöü", 2), "äö…");
        assert_eq!(kept("abcd", 4), "abcd");
        assert_eq!(kept("äöü", 3), "ä…");
    }

    #[test]
    fn what_is_no_name_has_a_stand_in_that_is_none_either() {
        for text in ["", "a\nb", "a…", &"x".repeat(64), "\u{202e}/"] {
            assert!(!is_name(text, 63), "{text:?}");
            let stand_in = stand_in(text);
            assert!(
                !is_name(&stand_in, 255) && !stand_in.contains('/'),
                "{stand_in}"
            );
            assert!(
                is_visible_text(&stand_in) && stand_in.len() < 120,
                "{stand_in}"
            );
        }
        assert!(is_name("web1", 63));
        let long = |last: &str| stand_in(&("x".repeat(100) + last));
        assert_ne!(long("a"), long("b"));
    }
}
