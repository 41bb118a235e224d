//! One pass: look at the links, derive what should be there, look at what is there, plan, apply.
//! Planning decides everything; applying chooses nothing.

use super::look::{look_at_links, look_at_ports, look_at_some};
use super::repairs::Repairs;
use super::report::{Line, Report};
use super::unfiltered;
use super::world::World;
use crate::addr::IfName;
use crate::host::HostFile;
use crate::kernel::{Kernel, KernelError, fault};
use crate::kinds::nft_element::{self, Found, NftElement};
use crate::kinds::nft_table::{self, NftTable};
use crate::kinds::nft_whole::Attrs;
use crate::kinds::{KernelKind, KindError, Look, Scope, Visitor, visit_kinds};
use crate::model::nic::Refused;
use crate::model::{About, Change, Contest, Facts, Inputs, Kind, Nic, NicId, Pace, Table, diff};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How much to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    All,
    /// These NICs only: what they had in the last pass, and what they should have now.
    Nics(BTreeSet<NicId>),
    /// The nftables tables and their elements, because somebody made a transaction.
    Nftables,
}

/// What the desired state is made from.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub host: &'a HostFile,
    /// `None` while LXD has never been read: then nothing is deleted, and only what concerns
    /// networks as a whole is put in order.
    pub nics: Option<&'a [Nic]>,
    /// NICs that ask to be connected and cannot be.
    pub refused: &'a [Refused],
    /// LXD's event stream is open, so that `nics` is how things are now.
    pub current: bool,
    /// NICs and links of the last pass, for finding what is no longer wanted.
    pub before: Option<(&'a [Nic], &'a Facts)>,
    /// What `nics` were resolved with.
    pub claims: &'a World,
}

/// What is to be done, and what could not be read.
pub struct Plan {
    pub facts: Facts,
    steps: Vec<Box<dyn Step>>,
    nft: NftPlan,
    report: Report,
}

enum NftPlan {
    Nothing,
    /// Replace the tables with these elements.
    Replace {
        change: Change<NftTable>,
        elements: Table<NftElement>,
        /// Ports that are not to be trusted to the tables that there are; empty if these are whole.
        open: Vec<(IfName, u32)>,
    },
    Elements(Vec<Change<NftElement>>),
    /// The tables could not be read: no port may join its bridge.
    Unknown,
}

/// Makes a plan. Fails only if the links cannot be read, without which nothing else means much.
pub fn plan(
    kernel: &mut Kernel,
    wanted: Wanted<'_>,
    extent: &Extent,
    repairs: Option<&mut Repairs>,
) -> Result<Plan, KernelError> {
    let nics = wanted.nics.unwrap_or_default();
    match (extent, wanted.before) {
        (Extent::Nics(ids), Some((nics_before, facts_before))) if wanted.nics.is_some() => {
            let among = |nics: &[Nic]| -> Vec<Nic> {
                nics.iter()
                    .filter(|nic| ids.contains(&nic.id))
                    .cloned()
                    .collect()
            };
            let (before, now) = (among(nics_before), among(nics));
            let both = || before.iter().chain(&now);
            let networks: BTreeSet<&str> = both().map(|nic| nic.network.as_str()).collect();
            let mut host = wanted.host.clone();
            host.networks
                .retain(|network| networks.contains(network.name.as_str()));
            let refused = wanted.refused.iter().map(|nic| &nic.port);
            let ports = both().map(|nic| &nic.port).chain(refused);
            let ports = ports.cloned().collect();
            let mut facts = look_at_some(kernel, &host, facts_before, ports)?;
            let named = now.iter().map(|nic| (&nic.port, nic.routes.as_slice()));
            // A look at all routes takes long. Of the others it is known, and a change of theirs asks for a full pass.
            let refused = wanted.refused.iter().filter(|nic| ids.contains(&nic.id));
            let named = named.chain(refused.map(|nic| (&nic.port, nic.routes.as_slice())));
            look_at_ports(kernel, &mut facts, named);
            let planner = Planner {
                look: Look {
                    kernel,
                    host: &host,
                    facts: &facts,
                },
                inputs: Inputs {
                    host: &host,
                    nics: &now,
                    refused: &[],
                    facts: &facts,
                },
                before: Some(Inputs {
                    host: &host,
                    nics: &before,
                    refused: &[],
                    facts: facts_before,
                }),
                whole: Inputs {
                    host: wanted.host,
                    nics,
                    refused: wanted.refused,
                    facts: &facts,
                },
                known: true,
                nftables_only: false,
                current: wanted.current,
                claims: wanted.claims,
                repairs,
                steps: Vec::new(),
                report: Report::default(),
            };
            let (steps, nft, report) = planner.run();
            Ok(Plan {
                facts,
                steps,
                nft,
                report,
            })
        }
        _ => {
            let mut facts = look_at_links(kernel, wanted.host)?;
            let named = nics.iter().map(|nic| (&nic.port, nic.routes.as_slice()));
            let named = named.chain(
                wanted
                    .refused
                    .iter()
                    .map(|nic| (&nic.port, nic.routes.as_slice())),
            );
            look_at_ports(kernel, &mut facts, named);
            let inputs = Inputs {
                host: wanted.host,
                nics,
                refused: wanted.refused,
                facts: &facts,
            };
            let planner = Planner {
                look: Look {
                    kernel,
                    host: wanted.host,
                    facts: &facts,
                },
                inputs,
                before: None,
                whole: inputs,
                known: wanted.nics.is_some(),
                nftables_only: *extent == Extent::Nftables,
                current: wanted.current,
                claims: wanted.claims,
                repairs,
                steps: Vec::new(),
                report: Report::default(),
            };
            let (steps, nft, report) = planner.run();
            Ok(Plan {
                facts,
                steps,
                nft,
                report,
            })
        }
    }
}

/// Visits every kind: derive, observe, diff.
struct Planner<'a> {
    look: Look<'a>,
    inputs: Inputs<'a>,
    /// `Some` in a scoped pass: what the NICs in scope had before.
    before: Option<Inputs<'a>>,
    /// All NICs, for kinds that cannot be scoped.
    whole: Inputs<'a>,
    /// Whether LXD has been read.
    known: bool,
    nftables_only: bool,
    current: bool,
    claims: &'a World,
    repairs: Option<&'a mut Repairs>,
    steps: Vec<Box<dyn Step>>,
    report: Report,
}

impl Planner<'_> {
    fn run(mut self) -> (Vec<Box<dyn Step>>, NftPlan, Report) {
        let nft = self.plan_nft();
        visit_kinds(&mut self);
        (self.steps, nft, self.report)
    }

    fn scope<K: Kind>(&self, desired: &Table<K>) -> Scope<K> {
        match &self.before {
            None => Scope::All,
            Some(before) => Scope::Keys(
                desired
                    .keys()
                    .cloned()
                    .chain(K::derive(before).into_keys())
                    .collect(),
            ),
        }
    }

    fn unreadable<K: Kind>(&mut self, error: &KindError) {
        self.report.unreadable.push((K::NAME, error.to_string()));
    }

    fn plan_nft(&mut self) -> NftPlan {
        if let Some(before) = &self.before {
            let desired = nft_element::of_networks(&self.inputs);
            let was = nft_element::of_networks(before).into_keys();
            let scope = Scope::Keys(desired.keys().cloned().chain(was).collect());
            return match nft_element::observe(&mut self.look, &scope) {
                Ok(Found {
                    damaged: Some(_), ..
                }) => NftPlan::Unknown,
                Ok(found) => elements_plan(diff(&desired, &found.elements)),
                Err(error) => {
                    self.unreadable::<NftElement>(&error);
                    NftPlan::Unknown
                }
            };
        }
        let mut desired = NftElement::derive(&self.inputs);
        let tables = match nft_table::observe(&mut self.look) {
            Ok(tables) => tables,
            Err(error) => {
                self.unreadable::<NftTable>(&error);
                return NftPlan::Unknown;
            }
        };
        let found = if tables.is_empty() {
            Default::default()
        } else {
            match nft_element::observe(&mut self.look, &Scope::All) {
                Ok(found) => found,
                Err(error) => {
                    self.unreadable::<NftElement>(&error);
                    return NftPlan::Unknown;
                }
            }
        };
        let wanted = NftTable::derive(&self.inputs);
        let mut change = diff::<NftTable>(&wanted, &tables).pop();
        // Another version's rules are good enough until LXD has told us of the NICs.
        change = change.filter(|change| {
            self.known || !matches!(change, Change::Update { have, .. } if have.intact)
        });
        if change.is_none() && found.damaged.is_some() {
            change = damage(&wanted, tables);
        }
        match (change, found) {
            (Some(change), found) => {
                let ours = |have: &Attrs| !have.text.is_empty();
                if !self.known && matches!(&change, Change::Update { have, .. } if ours(have)) {
                    // Nobody knows which elements are still wanted: all of them stay.
                    for (key, attrs) in found.elements {
                        desired.entry(key).or_insert(attrs);
                    }
                }
                let open = match &change {
                    // Another version's rules.
                    Change::Update { have, .. } if have.intact => Vec::new(),
                    _ => unfiltered::ports(self.whole.host, self.whole.facts),
                };
                NftPlan::Replace {
                    change,
                    elements: desired,
                    open,
                }
            }
            (
                None,
                Found {
                    elements,
                    complete: true,
                    damaged: _,
                },
            ) => {
                let mut changes = diff(&desired, &elements);
                self.drop_deletes_if_unknown(&mut changes);
                elements_plan(changes)
            }
            // Another version's tables lack a set.
            (
                None,
                Found {
                    complete: false, ..
                },
            ) => NftPlan::Unknown,
        }
    }

    fn drop_deletes_if_unknown<K: Kind>(&self, changes: &mut Vec<Change<K>>) {
        if !self.known {
            changes.retain(|change| !matches!(change, Change::Delete { .. }));
        }
    }

    /// Leaves out deletions whose time has not come. Without a memory none has.
    fn let_linger<K: Kind>(&mut self, changes: &mut Vec<Change<K>>) {
        let lingers = K::lingers();
        if lingers.is_zero() {
            return;
        }
        let name = |change: &Change<K>| Line::object::<K>(change.key(), true);
        let is_deletion = |change: &Change<K>| matches!(change, Change::Delete { .. });
        let unwanted: BTreeSet<String> = changes
            .iter()
            .filter(|c| is_deletion(c))
            .map(name)
            .collect();
        let due = match &mut self.repairs {
            Some(repairs) => repairs.unwanted(K::NAME, unwanted, lingers, Instant::now()),
            None => BTreeSet::new(),
        };
        changes.retain(|change| !is_deletion(change) || due.contains(&name(change)));
    }

    /// What is wanted otherwise than in the last pass is no repair: LXD re-creates a device at each
    /// change of its keys, and nobody undoes anything then.
    fn forget_what_is_new<K: Kind>(&mut self, desired: &Table<K>) {
        let (Some(before), Some(repairs)) = (&self.before, &mut self.repairs) else {
            return;
        };
        let was = K::derive(before);
        for key in was.keys().chain(desired.keys()) {
            if was.get(key) != desired.get(key) {
                repairs.forget(&format!("{} {key}", K::NAME));
                repairs.forget(&format!("-{} {key}", K::NAME));
            }
        }
    }

    /// Whether the change would take something from another host before it is known whose it is. An address that was
    /// announced between the resolving of claims and this look: they have to be resolved again. The MAC of a NIC that
    /// has it here: its instance may have gone there while it ran, and LXD has to say that it has not.
    fn is_too_early<K: Kind>(&mut self, change: &Change<K>) -> bool {
        let network_at = |svi: &IfName| {
            let mut networks = self.whole.host.networks.iter();
            networks.find(|network| network.bridge == *svi)
        };
        match K::contest(change) {
            None => false,
            Some(Contest::Address { svi, address }) => {
                let early = network_at(&svi)
                    .is_some_and(|network| self.claims.may_be_elsewhere(&network.name, address));
                self.report.resolve_again |= early;
                early
            }
            // Without a memory: LXD has just told of all instances.
            Some(Contest::Mac { .. }) if self.repairs.is_none() => false,
            Some(Contest::Mac { svi, mac }) => {
                let instance = network_at(&svi).and_then(|network| {
                    self.claims
                        .may_have_left(&network.name, mac, Instant::now())
                });
                let Some(instance) = instance else {
                    return false;
                };
                self.report.ask.insert(instance.clone());
                self.report.deferred.push(format!(
                    "{}: another host has it, and LXD or Incus is asked where its instance is",
                    Line::object::<K>(change.key(), false)
                ));
                true
            }
        }
    }

    /// Whether the change may be made now, or is put off because somebody keeps undoing it.
    fn may<K: Kind>(&mut self, asked: &Change<K>) -> bool {
        let key = asked.key();
        let pace = K::pace_of(asked);
        if matches!(pace, Pace::Expected | Pace::AtOnce) {
            return true;
        }
        let Some(repairs) = &self.repairs else {
            return true;
        };
        let change = Line::object::<K>(key, matches!(asked, Change::Delete { .. }));
        if pace == Pace::Contested && !self.current {
            self.report.deferred.push(format!(
                "{change}: claimed by another host, and LXD or Incus cannot be asked"
            ));
            return false;
        }
        let Some(wait) = repairs.wait(&change, pace, Instant::now()) else {
            return true;
        };
        self.report.deferred.push(change);
        let soonest = self.report.retry_in.map_or(wait, |other| other.min(wait));
        self.report.retry_in = Some(soonest);
        false
    }
}

fn elements_plan(changes: Vec<Change<NftElement>>) -> NftPlan {
    if changes.is_empty() {
        NftPlan::Nothing
    } else {
        NftPlan::Elements(changes)
    }
}

impl Visitor for Planner<'_> {
    fn visit<K: KernelKind>(&mut self) {
        let due = match K::ABOUT {
            About::Nic => !self.nftables_only,
            About::AllNics => !self.nftables_only && self.known,
            About::Host => self.before.is_none(),
        };
        if !due {
            return;
        }
        let (desired, scope) = match K::ABOUT {
            About::Nic => {
                let desired = K::derive(&self.inputs);
                let scope = self.scope::<K>(&desired);
                (desired, scope)
            }
            About::AllNics | About::Host => (K::derive(&self.whole), Scope::All),
        };
        let observed = match K::observe(&mut self.look, &scope, &desired) {
            Ok(observed) => observed,
            Err(error) => return self.unreadable::<K>(&error),
        };
        self.forget_what_is_new::<K>(&desired);
        let mut changes = diff::<K>(&desired, &observed);
        self.drop_deletes_if_unknown(&mut changes);
        self.let_linger(&mut changes);
        changes.retain(|change| self.may::<K>(change) && !self.is_too_early::<K>(change));
        let (deletes, rest) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::Delete { .. }));
        self.steps.push(Box::new(KindStep::<K> { deletes, rest }));
    }
}

/// The changes of one kind, without its type.
trait Step: Send {
    fn guards(&self) -> bool;
    fn lines(&self) -> Vec<Line>;
    fn apply_deletes(&self, kernel: &mut Kernel, facts: &Facts, report: &mut Report);
    fn apply_rest(&self, kernel: &mut Kernel, facts: &Facts, report: &mut Report);
}

struct KindStep<K: Kind> {
    deletes: Vec<Change<K>>,
    rest: Vec<Change<K>>,
}

impl<K: KernelKind> KindStep<K>
where
    Change<K>: Send,
{
    fn apply(changes: &[Change<K>], kernel: &mut Kernel, facts: &Facts, report: &mut Report) {
        if changes.is_empty() {
            return;
        }
        let results = K::apply(kernel, facts, changes);
        for (change, result) in changes.iter().zip(results) {
            if result.is_ok() {
                report.follow_ups.extend(K::follow_up(change));
            }
            report.lines.push(Line::of(
                change,
                Some(result.map_err(|error| error.to_string())),
            ));
        }
    }
}

impl<K: KernelKind> Step for KindStep<K> {
    fn guards(&self) -> bool {
        K::GUARDS
    }

    fn lines(&self) -> Vec<Line> {
        let all = self.deletes.iter().chain(&self.rest);
        all.map(|change| Line::of(change, None)).collect()
    }

    fn apply_deletes(&self, kernel: &mut Kernel, facts: &Facts, report: &mut Report) {
        Self::apply(&self.deletes, kernel, facts, report);
    }

    fn apply_rest(&self, kernel: &mut Kernel, facts: &Facts, report: &mut Report) {
        Self::apply(&self.rest, kernel, facts, report);
    }
}

impl Plan {
    /// What would be done, changing nothing.
    pub fn preview(&self) -> Report {
        let mut report = self.report.clone();
        match &self.nft {
            NftPlan::Replace { change, .. } => report.lines.push(Line::of(change, None)),
            NftPlan::Elements(changes) => {
                report
                    .lines
                    .extend(changes.iter().map(|change| Line::of(change, None)));
            }
            NftPlan::Nothing | NftPlan::Unknown => {}
        }
        report
            .lines
            .extend(self.steps.iter().flat_map(|step| step.lines()));
        report
    }

    /// Does it: withdraws what is announced and attached, changes the filters in one
    /// transaction, then attaches and announces. Without filters nothing is attached.
    pub fn apply(self, kernel: &mut Kernel) -> (Facts, Report) {
        let Plan {
            facts,
            steps,
            nft,
            mut report,
        } = self;
        let started = Instant::now();
        for step in steps.iter().rev() {
            step.apply_deletes(kernel, &facts, &mut report);
        }
        let (before, after): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.guards());
        for step in before {
            step.apply_rest(kernel, &facts, &mut report);
        }
        if apply_nft(nft, kernel, &mut report) {
            for step in after {
                step.apply_rest(kernel, &facts, &mut report);
            }
        }
        report.took = started.elapsed();
        (facts, report)
    }
}

/// Tables in one of whose sets is what no element of ours is like.
fn damage(wanted: &Table<NftTable>, tables: Table<NftTable>) -> Option<Change<NftTable>> {
    let (key, mut have) = tables.into_iter().next()?;
    let want = wanted.get(&key)?.clone();
    have.intact = false;
    Some(Change::Update { key, have, want })
}

/// Returns whether the filters are in force.
fn apply_nft(nft: NftPlan, kernel: &mut Kernel, report: &mut Report) -> bool {
    match nft {
        NftPlan::Nothing => true,
        NftPlan::Unknown => {
            report.escalate = true;
            report.retry_in = Some(report.retry_in.unwrap_or(Duration::from_secs(1)));
            false
        }
        NftPlan::Replace {
            change,
            elements,
            open,
        } => {
            let result = nft_table::replace(kernel, &elements).map_err(|error| error.to_string());
            let done = result.is_ok();
            if !done {
                report.lines.extend(unfiltered::put_down(open, kernel));
            }
            report.new_rules = done
                && matches!(&change, Change::Update { have, want, .. } if have.text != want.text);
            report.lines.push(Line::of(&change, Some(result)));
            done
        }
        NftPlan::Elements(changes) => {
            fault::point();
            let result = kernel
                .nft
                .transaction(&nft_element::ops(&changes))
                .map_err(|error| error.to_string());
            let done = result.is_ok();
            report.escalate |= !done;
            let lines = changes
                .iter()
                .map(|change| Line::of(change, Some(result.clone())));
            report.lines.extend(lines);
            done
        }
    }
}
