//! Tables that a text makes as a whole, and how it is known that nobody has changed them since.
//!
//! The digest of what the text makes is known beforehand: the text is loaded once under another
//! name, dormant, so that no packet meets it, and is read and removed again. This digest and that of the text are
//! loaded together with the tables, in the same transaction, as the comment of the one element of their set
//! `load_stamp`. So there is no state of our own, and no moment at which somebody else's change could be taken for ours.

use crate::kernel::nft::{Family, Nft};
use crate::kernel::{Kernel, KernelError, fault};
use sha2::{Digest, Sha256};
use std::fmt;

const STAMP: &str = "load_stamp";
/// The set's name in tables that an older version has loaded. It is only read, by netlink, where any name will do.
const OLD_STAMP: &str = "stamp";
/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// What a stamp begins with. Digests of text and structure follow.
const FORM: &str = "2";

/// Tables of one name in several families; the first has the set `load_stamp`.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    pub name: &'static str,
    /// The name under which a text is tried out.
    pub reference: &'static str,
    pub families: &'static [Family],
}

/// What is loaded of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// First 16 hexadecimal digits of the SHA-256 of the text that was loaded; empty if no agent
    /// has loaded it, or one that stamped otherwise.
    pub text: String,
    /// False if chains, rules or sets have been changed since.
    pub intact: bool,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.text.as_str(), self.intact) {
            ("", _) => f.write_str("loaded by another"),
            (text, true) => write!(f, "ruleset {text} intact"),
            (text, false) => write!(f, "ruleset {text} altered"),
        }
    }
}

impl Attrs {
    /// What there should be.
    pub fn wanted(text: &str) -> Self {
        Attrs {
            text: digest(text),
            intact: true,
        }
    }
}

/// The first 16 hexadecimal digits of a text's SHA-256.
fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().take(8);
    digits.map(|byte| format!("{byte:02x}")).collect()
}

/// Texts whose result is kept: those of this version, and of others whose tables were found.
const KEPT: usize = 8;

/// Keeps what a text makes, so that it need not be tried out.
fn keep(kernel: &mut Kernel, text: &str, made: &str) {
    if kernel.made.len() >= KEPT {
        kernel.made.clear();
    }
    kernel.made.insert(text.into(), made.into());
}

impl Whole {
    /// What takes the tables away, if they are there. Adding before deleting makes the deletion succeed
    /// whether or not the table is there (`destroy` needs nft 1.0.7).
    pub fn removal(&self) -> String {
        self.lines(|family, name| format!("table {family} {name}\ndelete table {family} {name}\n"))
    }

    /// What takes away what an agent has left that was killed while it tried a text out.
    pub fn tried_out(&self) -> String {
        self.other().removal()
    }

    /// The same tables under the name by which a text is tried out.
    fn other(&self) -> Whole {
        Whole {
            name: self.reference,
            ..*self
        }
    }

    /// What makes them, empty, and fails if one is there.
    pub fn creation(&self) -> String {
        self.lines(|family, name| format!("create table {family} {name}\n"))
    }

    fn lines(&self, line: impl Fn(&str, &str) -> String) -> String {
        let families = self.families.iter();
        families
            .map(|family| line(family.name(), self.name))
            .collect()
    }

    /// Reads what is loaded; `None` if there is no table at all.
    pub fn observe(&self, kernel: &mut Kernel) -> Result<Option<Attrs>, KernelError> {
        let (found, any) = self.structure(&mut kernel.nft, 0)?;
        if !any {
            return Ok(None);
        }
        let mut stamp = None;
        for set in [STAMP, OLD_STAMP] {
            if stamp.is_none() {
                stamp = kernel.nft.elements(self.families[0], self.name, set)?;
            }
        }
        let comment = match stamp.unwrap_or_default().as_slice() {
            [only] => only.comment.clone().unwrap_or_default(),
            _ => String::new(),
        };
        let words: Vec<&str> = comment.split(' ').collect();
        let (text, intact) = match words.as_slice() {
            [FORM, text, made] => {
                let intact = found.is_some_and(|found| found == *made);
                if intact {
                    keep(kernel, text, made);
                }
                (*text, intact)
            }
            // Of a version that did not know beforehand. Whether it is intact cannot be told any more: it is replaced,
            // but not before it is known what it has to let through.
            [_, _] => ("", found.is_some()),
            _ => ("", false),
        };
        Ok(Some(Attrs {
            text: text.into(),
            intact,
        }))
    }

    /// Digest of what there is of the tables; `None` if one is missing or has other flags. Whether any is there.
    fn structure(&self, nft: &mut Nft, flags: u32) -> Result<(Option<String>, bool), KernelError> {
        let mut digest = Sha256::new();
        let (mut all, mut any) = (true, false);
        for family in self.families {
            let found = nft.structure(*family, self.name)?;
            any |= found.is_some();
            match found {
                Some(structure) if structure.flags == flags => digest.update(structure.digest),
                _ => all = false,
            }
        }
        Ok((all.then(|| hex(&digest.finalize())), any))
    }

    /// Loads a text that makes the tables, with the elements behind it, in one transaction. `before` is what goes in
    /// front of it.
    pub fn load(
        &self,
        kernel: &mut Kernel,
        before: &str,
        text: &str,
        elements: &str,
    ) -> Result<(), KernelError> {
        let of_text = digest(text);
        let made = match kernel.made.get(&of_text) {
            Some(made) => made.clone(),
            None => {
                let made = self.try_out(kernel, text)?;
                keep(kernel, &of_text, &made);
                made
            }
        };
        let stamp = format!(
            "add element {} {} {STAMP} {{ 0x1 comment \"{FORM} {of_text} {made}\" }}\n",
            self.families[0].name(),
            self.name,
        );
        fault::point();
        kernel.nft.run(&[before, text, elements, &stamp].concat())?;
        // Another version of nft may make something else of it: then it is to be tried out again.
        if self.structure(&mut kernel.nft, 0)?.0.as_ref() != Some(&made) {
            kernel.made.remove(&of_text);
        }
        Ok(())
    }

    /// Digest of what the text makes, from tables of another name that no packet meets.
    fn try_out(&self, kernel: &mut Kernel, text: &str) -> Result<String, KernelError> {
        let other = self.other();
        let mut script = self.tried_out();
        for line in text.lines() {
            let of_table = line.starts_with("table ") || line.starts_with("delete table ");
            match of_table {
                true => script += &line.replacen(self.name, other.name, 1),
                false => script += line,
            }
            script.push('\n');
            if of_table && line.ends_with('{') {
                script += "flags dormant;\n";
            }
        }
        fault::point();
        kernel.nft.run(&script)?;
        let (made, _) = other.structure(&mut kernel.nft, DORMANT)?;
        fault::point();
        kernel.nft.run(&self.tried_out())?;
        made.ok_or_else(|| {
            KernelError::ours(
                format_args!("trying the text of table {} out", self.name),
                libc::ENOENT,
                "somebody has removed or woken what it made",
            )
        })
    }
}
