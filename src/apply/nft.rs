//! Loading the packet filter's text over one that made other chains: these go in the same transaction.
//!
//! What goes is named by its handle. Its name may be a word of nft's grammar by now, as `tunnel` has been since nft 1.1.7.

use super::commands::{CommandError, run};
use super::journal::{State, StateError};
use crate::generate::plan::Declared;
use std::collections::BTreeSet;
use std::path::Path;

/// Seconds.
const LIMIT: u32 = 60;

/// Loads the text; none of `leaves` is there afterwards. What is not there already, or is held by somebody else's
/// rules, is passed over: it has no rules.
pub fn load(
    path: &Path,
    leaves: &[Declared],
    state: &State,
) -> Result<Result<(), CommandError>, StateError> {
    if leaves.is_empty() {
        return Ok(run(LIMIT, &["nft", "-f", &path.to_string_lossy()]).map(drop));
    }
    let tables: BTreeSet<(&str, &str)> = leaves
        .iter()
        .map(|one| (one.family.as_str(), one.table.as_str()))
        .collect();
    let mut listings = Vec::new();
    for (family, table) in tables {
        // There may be no such table.
        let listing = run(LIMIT, &["nft", "-t", "-a", "list", "table", family, table]);
        if let Ok(listing) = listing {
            listings.push((family, table, listing));
        }
    }
    let (emptied, deleted) = scripts(&listings, leaves);
    let text = format!("include \"{}\"\n", path.display());
    if !deleted.is_empty() {
        let script = state.nft_script(&[&*emptied, &text, &deleted].concat())?;
        if run(LIMIT, &["nft", "-f", &script.to_string_lossy()]).is_ok() {
            return Ok(Ok(()));
        }
    }
    let script = state.nft_script(&(emptied + &text))?;
    Ok(run(LIMIT, &["nft", "-f", &script.to_string_lossy()]).map(drop))
}

/// What takes the rules away from the tables, and what deletes those of `leaves` that are there. Pure: a listing is what
/// `nft -a list table` prints.
fn scripts(listings: &[(&str, &str, String)], leaves: &[Declared]) -> (String, String) {
    let (mut emptied, mut deleted) = (String::new(), String::new());
    for (family, table, listing) in listings {
        emptied += &format!("flush table {family} {table}\n");
        for line in listing.lines() {
            // Rules stand further to the right.
            let Some(line) = line.strip_prefix('\t').filter(|l| !l.starts_with('\t')) else {
                continue;
            };
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, name, "{", "#", "handle", handle] = words[..] else {
                continue;
            };
            let goes = leaves.iter().any(|one| {
                (&*one.family, &*one.table, &*one.kind, &*one.name) == (*family, *table, kind, name)
            });
            if goes && handle.parse::<u64>().is_ok() {
                deleted += &format!("delete {kind} {family} {table} handle {handle}\n");
            }
        }
    }
    (emptied, deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(kind: &str, name: &str) -> Declared {
        Declared {
            family: "inet".into(),
            table: "ours".into(),
            kind: kind.into(),
            name: name.into(),
        }
    }

    #[test]
    fn what_goes_is_named_by_its_handle_and_nothing_else_goes() {
        let listing = "\
table inet ours { # handle 1
\tset tunnel { # handle 3
\t\ttype ipv4_addr
\t}

\tcounter tunnel { # handle 8
\t\tpackets 0 bytes 0
\t}

\tchain tunnel { # handle 5
\t\ttype filter hook input priority filter; policy accept;
\t\tcomment \"chain other { # handle 9\" # handle 11
\t}

\tchain other { # handle 6
\t}
}
";
        let listings = [("inet", "ours", listing.to_string())];
        let leaves = [
            declared("chain", "tunnel"),
            declared("set", "tunnel"),
            declared("chain", "gone"),
        ];
        let (emptied, deleted) = scripts(&listings, &leaves);
        assert_eq!(emptied, "flush table inet ours\n");
        assert_eq!(
            deleted,
            "delete set inet ours handle 3\ndelete chain inet ours handle 5\n"
        );
        assert_eq!(scripts(&[], &leaves), Default::default());
    }
}
