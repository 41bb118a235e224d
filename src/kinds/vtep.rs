//! The tunnel end points that EVPN has told of (zebra installs where to flood), in the sets
//! `vteps4` and `vteps6` of the host's packet filter. That filter is the generator's: its table, its
//! rules and other people's elements in these sets are left alone, and no table is no fault. Our
//! elements bear a comment.
//!
//! An element stays for minutes after its tunnel end point went: when FRR restarts, everything that
//! it told of is gone for seconds, while the other hosts go on to send.

use super::{KernelKind, KindError, Look, Scope};
use crate::addr::IpAddr;
use crate::host::Firewall;
use crate::kernel::nft::{Element, ElementOp, Family};
use crate::kernel::{Kernel, fault};
use crate::model::{About, Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// One element.
#[derive(Debug)]
pub struct Vtep;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub IpAddr);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// That it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in table inet {}", Firewall::TABLE)
    }
}

const SETS: [&str; 2] = ["vteps4", "vteps6"];
/// The comment of elements that are ours.
const MARK: &str = "lxmesh agent";
const LINGERS: Duration = Duration::from_secs(300);

/// Tests do not wait for minutes.
#[cfg(feature = "test-hooks")]
fn lingers() -> Duration {
    let seconds = std::env::var("LXMESH_TEST_VTEP_LINGERS_S");
    let seconds = seconds.ok().and_then(|text| text.parse().ok());
    seconds.map_or(LINGERS, Duration::from_secs)
}
#[cfg(not(feature = "test-hooks"))]
fn lingers() -> Duration {
    LINGERS
}

impl Kind for Vtep {
    const NAME: &'static str = "vtep";
    const OWNS: Owns = Owns::WholeObjects;
    const ABOUT: About = About::Host;
    type Key = Key;
    type Attrs = Known;

    fn lingers() -> Duration {
        lingers()
    }

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        match &inputs.facts.vteps {
            Some(Ok(vteps)) => vteps.iter().map(|vtep| (Key(*vtep), Known)).collect(),
            // Nobody asks for them, or `observe` says that they are not known.
            None | Some(Err(_)) => Table::<Self>::new(),
        }
    }
}

impl KernelKind for Vtep {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        if let Some(Err(why)) = &look.facts.vteps {
            return Err(KindError::File {
                what: "where tunnels flood to".into(),
                why: why.clone(),
            });
        }
        let mut found = Table::<Self>::new();
        for set in SETS {
            let elements = look
                .kernel
                .nft
                .elements(Family::Inet, Firewall::TABLE, set)?;
            let Some(elements) = elements else {
                // Nothing is wanted where nothing can be.
                return Ok(desired.clone());
            };
            found.extend(elements.iter().filter_map(|element| {
                let key = Key(address_of(&element.key)?);
                let ours = element.comment.as_deref() == Some(MARK);
                (scope.has(&key) && (ours || desired.contains_key(&key))).then_some((key, Known))
            }));
        }
        Ok(found)
    }

    fn apply(
        kernel: &mut Kernel,
        _: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        let ops: Vec<ElementOp> = changes.iter().map(op).collect();
        fault::point();
        let done = kernel
            .nft
            .transaction(&ops)
            .map_err(|error| KindError::File {
                what: format!("changing table inet {}", Firewall::TABLE),
                why: error.to_string(),
            });
        changes.iter().map(|_| done.clone()).collect()
    }
}

/// An address of either set: a single key is not padded.
fn address_of(key: &[u8]) -> Option<IpAddr> {
    match key.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(key).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(key).ok()?).into()),
        _ => None,
    }
}

fn op(change: &Change<Vtep>) -> ElementOp {
    let (set, key) = match change.key().0 {
        IpAddr::V4(address) => (SETS[0], address.octets().to_vec()),
        IpAddr::V6(address) => (SETS[1], address.octets().to_vec()),
    };
    let (family, table) = (Family::Inet, Firewall::TABLE);
    match change {
        Change::Create { .. } | Change::Update { .. } => ElementOp::Add {
            family,
            table,
            set,
            element: Element {
                key,
                end: None,
                data: None,
                comment: Some(MARK.into()),
                special: false,
            },
        },
        Change::Delete { .. } => ElementOp::Delete {
            family,
            table,
            set,
            key,
            end: None,
        },
    }
}
