//! Host-side devices of NICs that are to be connected and are not: refused, or without their bridge.
//! They are down. What is attached is `port_attrs.rs`'s; devices of other NICs are nobody's here, and
//! so is what cannot be an instance's device (`Facts::unfit`), and what somebody put into a bridge,
//! whatever LXD says whose it is.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of};
use crate::addr::IfName;
use crate::kernel::Kernel;
use crate::kernel::rtnl::Op;
use crate::model::{About, Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// That such a device is down.
#[derive(Debug)]
pub struct Shut;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attrs {
    pub up: bool,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.up { "up" } else { "down" })
    }
}

impl Kind for Shut {
    const NAME: &'static str = "shut";
    const OWNS: Owns = Owns::AttributesOnly;
    const ABOUT: About = About::AllNics;
    type Key = IfName;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let without_bridge = inputs.nics.iter().filter(|nic| {
            let network = inputs.network(nic);
            network.is_none_or(|network| inputs.facts.svi(network).is_none())
        });
        let ports = without_bridge.map(|nic| &nic.port);
        let refused = inputs.refused.iter().map(|nic| &nic.port);
        let links = ports
            .chain(refused)
            .filter_map(|port| inputs.facts.link(port));
        links
            .filter(|link| link.master.is_none())
            .filter(|link| inputs.facts.unfit(link).is_none())
            .map(|link| (link.name.clone(), Attrs { up: false }))
            .collect()
    }
}

impl KernelKind for Shut {
    fn observe(
        look: &mut Look<'_>,
        _: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let links = desired.keys().filter_map(|port| look.facts.link(port));
        Ok(links
            .map(|link| (link.name.clone(), Attrs { up: link.up }))
            .collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        apply_ops(kernel, changes, |change| {
            let index = index_of(facts, change.key())?;
            Ok(vec![Op::LinkDown { index }])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Mac;
    use crate::host;
    use crate::kernel::link::{Link, LinkKind};
    use crate::model::nic::{Nic, Refused};

    const HOST: &str = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
        supervisors = [\"203.0.113.11\"]\n[[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"192.0.2.1/24\"]\n";

    fn refused(port: &str) -> Refused {
        Refused {
            id: Nic::sample(2).id,
            port: port.parse().unwrap(),
            routes: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_attached_is_down_unless_it_is_somebody_elses() {
        let host = host::parse("host.toml", HOST).unwrap();
        let mut links = [
            Link::sample(1, "veth1", LinkKind::Veth, None),
            Link::sample(2, "tap2", LinkKind::Tun, None),
            // Of whatever name LXD was given: these are none of its devices, or in use.
            Link::sample(3, "eth0", LinkKind::Other, None),
            Link::sample(4, "veth4", LinkKind::Veth, Some(9)),
            Link::sample(6, "veth6", LinkKind::Veth, None),
            Link::sample(7, "vpn7", LinkKind::Veth, None),
            Link::sample(8, "veth8", LinkKind::Veth, None),
            Link::sample(9, "tun9", LinkKind::Tun, None),
            Link::sample(10, "veth10", LinkKind::Veth, None),
        ];
        for link in &mut links {
            link.peer_netns &= link.name.as_str() != "veth8";
            link.mac = (link.name.as_str() != "tun9").then_some(Mac([2, 0, 0, 0, 0, 1]));
        }
        let mut facts = Facts::new(links);
        facts.uplinks.insert("vpn*".into());
        let used = facts
            .used
            .insert("veth10".parse().unwrap(), "has a route".into());
        assert_eq!(used, None);
        let names = [
            "tap2", "eth0", "veth4", "veth5", "vpn7", "veth8", "tun9", "veth10",
        ]
        .map(refused);
        let inputs = Inputs {
            host: &host,
            // Its bridge is not there.
            nics: &[Nic::sample(1)],
            refused: &names,
            facts: &facts,
        };
        let ports: Vec<String> = Shut::derive(&inputs)
            .keys()
            .map(IfName::to_string)
            .collect();
        assert_eq!(ports, ["tap2", "veth1"]);
    }
}
