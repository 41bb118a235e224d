//! Taking away everything that LXMesh made in the kernel and in files: the only way it goes. What
//! keeps devices closed that nobody attached stays.

use super::announce;
use super::look::look_at_links;
use super::report::{Line, Report};
use crate::host::HostFile;
use crate::kernel::{Kernel, KernelError};
use crate::kinds::{KernelKind, Look, Scope, Visitor, nft_table, visit_kinds};
use crate::model::{Facts, Kind, Owns, Pace, Table, diff};

/// Detaches every port of ours, removes every entry of ours, and last the tables.
pub fn purge(kernel: &mut Kernel, host: &HostFile) -> Result<Report, KernelError> {
    let facts = look_at_links(kernel, host)?;
    let mut sweeper = Sweeper {
        kernel,
        host,
        facts: &facts,
        sweeps: Vec::new(),
    };
    visit_kinds(&mut sweeper);
    let Sweeper { sweeps, kernel, .. } = sweeper;
    let mut report = Report::default();
    for sweep in sweeps.into_iter().rev() {
        sweep(kernel, &mut report);
    }
    announce::withdraw(kernel, host, &facts, &report.follow_ups);
    let result = nft_table::remove(kernel).map_err(|error| error.to_string());
    report.lines.push(Line {
        kind: nft_table::NftTable::NAME,
        object: Line::object::<nft_table::NftTable>(&nft_table::Key, true),
        text: format!("- {} {}", nft_table::NftTable::NAME, nft_table::Key),
        pace: Pace::AtOnce,
        result: Some(result),
    });
    Ok(report)
}

type Sweep<'a> = Box<dyn FnOnce(&mut Kernel, &mut Report) + 'a>;

struct Sweeper<'a> {
    kernel: &'a mut Kernel,
    host: &'a HostFile,
    facts: &'a Facts,
    sweeps: Vec<Sweep<'a>>,
}

impl Visitor for Sweeper<'_> {
    fn visit<K: KernelKind>(&mut self) {
        if matches!(K::OWNS, Owns::AttributesOnly) || K::STAYS {
            return;
        }
        let facts = self.facts;
        let mut look = Look {
            kernel: self.kernel,
            host: self.host,
            facts,
        };
        let nothing = Table::<K>::new();
        let observed = K::observe(&mut look, &Scope::All, &nothing);
        self.sweeps
            .push(Box::new(move |kernel, report| match observed {
                Err(error) => report.unreadable.push((K::NAME, error.to_string())),
                Ok(observed) => {
                    let changes = diff::<K>(&Table::<K>::new(), &observed);
                    let results = K::apply(kernel, facts, &changes);
                    for (change, result) in changes.iter().zip(results) {
                        report.follow_ups.extend(K::follow_up(change));
                        report.lines.push(Line::of(
                            change,
                            Some(result.map_err(|error| error.to_string())),
                        ));
                    }
                }
            }));
    }
}
