//! Elements of the policy sets: who may send what from which port, and what may reach it. A port
//! that is not in them passes nothing, so they are there before the port joins its bridge.

use super::nft_set::{Bytes, Set, TABLE, Value};
use super::{KindError, Look, Scope};
use crate::kernel::nft::{Element, ElementOp};
use crate::model::{Change, Inputs, Kind, Owns, Table};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// One element of a set or map of table `lxmesh`.
#[derive(Debug)]
pub struct NftElement;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub set: Set,
    pub key: Bytes,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "@{} {{ {} }}",
            self.set.name(),
            self.key.text(self.set.key())
        )
    }
}

/// What a map maps the key to; `None` in a plain set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attrs(pub Option<Bytes>);

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(data) => write!(f, ": {data:?}"),
            None => Ok(()),
        }
    }
}

impl Kind for NftElement {
    const NAME: &'static str = "nft_element";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let mut wanted = Table::<Self>::new();
        network_elements(inputs, &mut wanted);
        nic_elements(inputs, &mut wanted);
        wanted
    }
}

fn put(wanted: &mut Table<NftElement>, set: Set, key: &[Value<'_>], data: Option<Value<'_>>) {
    let key = Key {
        set,
        key: Bytes::of(key),
    };
    wanted.insert(key, Attrs(data.map(|value| Bytes::of(&[value]))));
}

/// What holds for a network as a whole, by name even before its devices exist.
fn network_elements(inputs: &Inputs<'_>, wanted: &mut Table<NftElement>) {
    let vxlan_port = Value::Port(inputs.host.fabric.vxlan_port);
    put(wanted, Set::VxlanUdp, &[vxlan_port], None);
    put(wanted, Set::InetVxlanUdp, &[vxlan_port], None);
    for network in &inputs.host.networks {
        let svi = Value::IfName(&network.bridge);
        put(wanted, Set::Svis, &[svi], None);
        put(wanted, Set::InetSvis, &[svi], None);
        if network.multicast {
            put(wanted, Set::Mcast, &[svi], None);
        }
        if let Some(tunnel) = inputs.facts.tunnel(network) {
            let tunnel = Value::IfIndex(tunnel.index);
            put(wanted, Set::Overlay, &[tunnel], None);
            put(
                wanted,
                Set::Routers,
                &[tunnel, Value::Mac(network.gateway_mac)],
                None,
            );
            put(
                wanted,
                Set::Zones,
                &[tunnel],
                Some(Value::Zone(network.conntrack_zone)),
            );
        }
    }
}

fn nic_elements(inputs: &Inputs<'_>, wanted: &mut Table<NftElement>) {
    // By name and whether or not the port is in its bridge: while it is in none, what it sends
    // would reach the host's own stack.
    for nic in inputs.nics {
        put(wanted, Set::InetPorts, &[Value::IfName(&nic.port)], None);
    }
    for (nic, network, at) in inputs.connectable() {
        let port = Value::IfIndex(at.port.index);
        let mac = Value::Mac(nic.mac);
        put(wanted, Set::Ports, &[port], None);
        put(wanted, Set::MacOf, &[port, mac], None);
        put(wanted, Set::MacRaw, &[port, mac], None);
        for address in nic.addresses() {
            let set = match address {
                IpAddr::V4(_) => Set::Id4,
                IpAddr::V6(_) => Set::Id6,
            };
            put(wanted, set, &[port, mac, Value::Ip(address)], None);
        }
        put(
            wanted,
            Set::Zones,
            &[port],
            Some(Value::Zone(network.conntrack_zone)),
        );
        if nic.tags != 0 {
            put(
                wanted,
                Set::Marks,
                &[port],
                Some(Value::Mark(nic.tags.into())),
            );
        }
        for (set, services) in [
            (Set::OutSvc, &nic.out_services),
            (Set::InSvc, &nic.in_services),
        ] {
            for service in services {
                let protocol = Value::Protocol(service.protocol.number());
                put(
                    wanted,
                    set,
                    &[port, protocol, Value::Port(service.port)],
                    None,
                );
            }
        }
    }
}

/// Reads the elements. `None`: a set is missing, so the table is not what we loaded.
pub fn observe(
    look: &mut Look<'_>,
    scope: &Scope<NftElement>,
) -> Result<Option<Table<NftElement>>, KindError> {
    let mut found = Table::<NftElement>::new();
    for set in Set::ALL {
        if set == Set::Stamp {
            continue;
        }
        let (family, name) = (set.family(), set.name());
        let elements: Vec<Element> = match scope {
            Scope::All => match look.kernel.nft.elements(family, TABLE, name)? {
                None => return Ok(None),
                Some(elements) => elements,
            },
            Scope::Keys(keys) => {
                let keys: Vec<Vec<u8>> = keys
                    .iter()
                    .filter(|key| key.set == set)
                    .map(|key| key.key.as_slice().to_vec())
                    .collect();
                if keys.is_empty() {
                    continue;
                }
                let looked_up = look.kernel.nft.lookup(family, TABLE, name, &keys)?;
                looked_up.into_iter().flatten().collect()
            }
        };
        for Element {
            key,
            data,
            comment: _,
        } in elements
        {
            let Some(key) = Bytes::from_kernel(&key) else {
                continue;
            };
            let data = data.as_deref().and_then(Bytes::from_kernel);
            found.insert(Key { set, key }, Attrs(data));
        }
    }
    Ok(Some(found))
}

/// The changes as operations of one transaction, deletions first: a map's value is replaced by
/// deleting and adding it in the same transaction.
pub fn ops(changes: &[Change<NftElement>]) -> Vec<ElementOp> {
    let delete = |key: &Key| ElementOp::Delete {
        family: key.set.family(),
        table: TABLE,
        set: key.set.name(),
        key: key.key.as_slice().to_vec(),
    };
    let add = |key: &Key, attrs: &Attrs| ElementOp::Add {
        family: key.set.family(),
        table: TABLE,
        set: key.set.name(),
        element: Element {
            key: key.key.as_slice().to_vec(),
            data: attrs.0.map(|data| data.as_slice().to_vec()),
            comment: None,
        },
    };
    let mut ops = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Delete { key, .. } | Change::Update { key, .. } => ops.push(delete(key)),
            Change::Create { .. } => {}
        }
    }
    for change in changes {
        match change {
            Change::Create { key, want } | Change::Update { key, want, .. } => {
                ops.push(add(key, want));
            }
            Change::Delete { .. } => {}
        }
    }
    ops
}

/// The elements as text for `nft -f`, for loading them together with the table.
pub fn script(elements: &Table<NftElement>) -> String {
    let mut by_set: BTreeMap<Set, Vec<String>> = BTreeMap::new();
    for (key, Attrs(data)) in elements {
        let mut text = key.key.text(key.set.key());
        if let (Some(field), Some(data)) = (key.set.data(), data) {
            text.push_str(" : ");
            text.push_str(&data.text(&[field]));
        }
        by_set.entry(key.set).or_default().push(text);
    }
    let mut out = String::new();
    for (set, elements) in by_set {
        out.push_str(&format!(
            "add element {} {TABLE} {} {{ {} }}\n",
            super::nft_table::family_name(set.family()),
            set.name(),
            elements.join(", ")
        ));
    }
    out
}
