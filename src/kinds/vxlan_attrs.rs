//! Attributes of tunnels as bridge ports: nothing is learned (zebra installs what is behind
//! them), nothing unknown is flooded, and ARP and ND for remote addresses are answered here.
//!
//! And that packets with tags arrive. From Linux 6.14 on a tunnel whose settings are changed drops them as malformed, and only
//! one that is made anew takes them again; systemd-networkd changes tunnels when it starts (262).

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of, write};
use crate::addr::IfName;
use crate::host::{HostFile, Network};
use crate::kernel::Kernel;
use crate::kernel::link::{LinkKind, PortSettings, VxlanData};
use crate::kernel::rtnl::Op;
use crate::model::{Change, Facts, Inputs, Kind, Owns, Pace, Table};
use std::fmt;

/// Device group of tunnels ("LXM"): the rules tell by it at once what comes from a tunnel and goes to
/// one, and look into the set `overlay_ports` where it is missing. The set decides what is let in.
pub const TUNNEL_GROUP: u32 = 0x4c584d;

/// A network's VXLAN device.
#[derive(Debug)]
pub struct VxlanAttrs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// The VXLAN device's own learning of VTEPs from packets.
    pub learning: bool,
    /// See [`TUNNEL_GROUP`].
    pub group: u32,
    pub port: PortSettings,
    /// Whether packets with tags are let in; None where there are none.
    pub tags: Option<bool>,
}

/// [`Attrs::tags`] of a tunnel. One without Group Based Policy is the host's to mend.
fn lets_tags_in(host: &HostFile, network: &Network, data: &VxlanData) -> Option<bool> {
    has_tags(host, network).then_some(!data.gbp || data.drops_marked != Some(true))
}

/// Whether NICs may have tags, and their packets carry them between hosts.
fn has_tags(host: &HostFile, network: &Network) -> bool {
    network.gbp && !host.tags.is_empty()
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.learning {
            f.write_str("VTEP learning, ")?;
        }
        if self.group != TUNNEL_GROUP {
            write!(f, "device group {}, ", self.group)?;
        }
        if self.tags == Some(false) {
            f.write_str("drops packets with tags, ")?;
        }
        write!(f, "{}", self.port)
    }
}

impl Kind for VxlanAttrs {
    const NAME: &'static str = "tunnel";
    const OWNS: Owns = Owns::AttributesOnly;
    type Key = IfName;
    type Attrs = Attrs;

    fn pace(have: &Attrs) -> Pace {
        match have.tags {
            Some(false) => Pace::Costly,
            _ => Pace::Quick,
        }
    }

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let networks = inputs.host.networks.iter();
        networks
            .map(|network| {
                let port = PortSettings {
                    proxy_arp_wifi: false,
                    mcast_flood: network.multicast,
                    neigh_suppress: true,
                    // Remote hosts' groups are theirs to limit; zero is the kernel's "no limit".
                    mcast_max_groups: inputs.facts.has_group_limit().then_some(0),
                    ..PortSettings::of_nic(None)
                };
                (
                    network.tunnel.clone(),
                    Attrs {
                        learning: false,
                        group: TUNNEL_GROUP,
                        port,
                        tags: has_tags(inputs.host, network).then_some(true),
                    },
                )
            })
            .collect()
    }
}

impl KernelKind for VxlanAttrs {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let networks = look.host.networks.iter();
        Ok(networks
            .filter(|network| scope.has(&network.tunnel))
            .filter_map(|network| {
                let link = look.facts.tunnel(network)?;
                let LinkKind::Vxlan(data) = &link.kind else {
                    return None;
                };
                let attrs = Attrs {
                    learning: data.learning,
                    group: link.group,
                    port: link.port?,
                    tags: lets_tags_in(look.host, network, data),
                };
                Some((network.tunnel.clone(), attrs))
            })
            .collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        let mut apply_one = |change: &Change<Self>| match change {
            Change::Update { key, have, want } if is_to_be_renewed(facts, key, have, want) => {
                renew(kernel, facts, key, want)
            }
            _ => {
                let one = std::slice::from_ref(change);
                let mut results = apply_ops(kernel, one, |change| changed(facts, change));
                results.pop().expect("one for each")
            }
        };
        changes.iter().map(&mut apply_one).collect()
    }
}

fn changed(facts: &Facts, change: &Change<VxlanAttrs>) -> Result<Vec<Op>, KindError> {
    let Change::Update { key, have, want } = change else {
        return Ok(Vec::new());
    };
    let index = index_of(facts, key)?;
    let mut ops = Vec::new();
    if have.learning != want.learning {
        ops.push(Op::Vxlan {
            index,
            learning: want.learning,
        });
    }
    if have.group != want.group {
        ops.push(Op::LinkGroup {
            index,
            group: want.group,
        });
    }
    if have.port != want.port {
        ops.push(Op::Port {
            index,
            attrs: want.port.from_other(Some(&have.port)),
        });
    }
    Ok(ops)
}

/// Whether it drops packets with tags, or would if it were changed.
fn is_to_be_renewed(facts: &Facts, tunnel: &IfName, have: &Attrs, want: &Attrs) -> bool {
    let would = || {
        let link = facts.link(tunnel);
        link.is_some_and(|link| {
            let is_lost = |data: &VxlanData| data.gbp && data.drops_marked.is_some();
            matches!(&link.kind, LinkKind::Vxlan(data) if is_lost(data))
        })
    };
    have.tags == Some(false) || have.learning != want.learning && want.tags == Some(true) && would()
}

/// Makes the tunnel anew, with the same index, so that the filters know it from its first packet. All of it is one request
/// to the kernel: a process that ends meanwhile leaves the old one or the new one. zebra hears of both, and tells the other hosts
/// anew what is here.
fn renew(
    kernel: &mut Kernel,
    facts: &Facts,
    tunnel: &IfName,
    want: &Attrs,
) -> Result<(), KindError> {
    let gone = || KindError::Gone(tunnel.to_string());
    let index = index_of(facts, tunnel)?;
    let copy = kernel.rtnl.tunnel(index)?;
    let copy = copy.filter(|copy| copy.link.name == *tunnel);
    let copy = copy.ok_or_else(gone)?.with(want.group);
    let (master, addr_gen_mode) = (copy.link.master, copy.link.addr_gen_mode);
    let attrs = want.port.from_other(None);
    let port = match copy.link.up {
        true => Op::PortUp { index, attrs },
        false => Op::Port { index, attrs },
    };
    let make = |least| Op::TunnelMake {
        tunnel: Box::new(copy.clone()),
        least,
    };
    let batch = [
        Op::LinkDelete { index },
        make(false),
        // Is there already if the first could be made.
        make(true),
        Op::Join {
            index,
            master: master.ok_or_else(gone)?,
            addr_gen_mode,
        },
        port,
    ];
    let mut results = write(kernel, &batch);
    if results[1].is_ok() || results[2].is_ok() {
        results.drain(1..3);
    }
    Ok(results.into_iter().collect::<Result<(), _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use crate::kernel::link::Link;

    #[test]
    fn a_tunnel_is_made_anew_where_there_may_be_tags_that_it_drops_or_would_drop() {
        let table = [
            // tags in the host file, what the kernel says, its learning; whether it differs, whether it is made anew
            (true, Some(false), false, false, false),
            (true, Some(true), false, true, true),
            (false, Some(true), false, false, false),
            (true, None, false, false, false),
            (true, Some(false), true, true, true),
            (false, Some(false), true, true, false),
            (true, None, true, true, false),
        ];
        for (tags, drops_marked, learning, differs, renewed) in table {
            let mut file = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
                supervisors = [\"203.0.113.11\"]\n[[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"192.0.2.1/24\"]\n"
                .to_string();
            if tags {
                file += "[tags]\nweb = 0\n";
            }
            let host = host::parse("host.toml", &file).unwrap();
            let data = VxlanData {
                vni: 100,
                local: None,
                port: 4789,
                learning,
                gbp: true,
                drops_marked,
            };
            let mut link = Link::sample(2, "vxlan-vpc", LinkKind::Vxlan(data), Some(1));
            link.group = TUNNEL_GROUP;
            let facts = Facts::new([link]);
            let inputs = Inputs {
                host: &host,
                nics: &[],
                refused: &[],
                facts: &facts,
            };
            let (tunnel, want) = VxlanAttrs::derive(&inputs).into_iter().next().unwrap();
            let have = Attrs {
                learning,
                tags: lets_tags_in(&host, &host.networks[0], &data),
                ..want.clone()
            };
            let found = is_to_be_renewed(&facts, &tunnel, &have, &want);
            assert_eq!(
                (have != want, found),
                (differs, renewed),
                "{tags} {drops_marked:?} {learning}"
            );
        }
    }

    #[test]
    fn the_rules_know_the_device_group() {
        let rules = include_str!("../../templates/datapath-rules.nft");
        let group = format!("define tunnel_group = {:#x}\n", super::TUNNEL_GROUP);
        assert!(rules.contains(&group));
    }
}
