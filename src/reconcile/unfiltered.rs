//! Ports that nothing filters, or filters that are not what they should be, are down until that is mended.

use super::report::Line;
use crate::addr::IfName;
use crate::host::HostFile;
use crate::kernel::rtnl::Op;
use crate::kernel::{Kernel, fault};
use crate::kinds::port_attrs::PortAttrs;
use crate::model::{Facts, Kind, Pace};
use std::collections::BTreeSet;

/// Instances' devices that are up in bridges of ours, with their indexes.
pub fn ports(host: &HostFile, facts: &Facts) -> Vec<(IfName, u32)> {
    let bridges = host.networks.iter().filter_map(|n| facts.svi(n));
    let bridges: BTreeSet<u32> = bridges.map(|link| link.index).collect();
    let ports = facts.links().filter(|link| {
        let attached = link.master.is_some_and(|index| bridges.contains(&index));
        attached && link.up && link.kind.is_soft()
    });
    ports.map(|link| (link.name.clone(), link.index)).collect()
}

/// Puts them down. They come up again once there are filters.
pub fn put_down(ports: Vec<(IfName, u32)>, kernel: &mut Kernel) -> Vec<Line> {
    let ops: Vec<Op> = ports
        .iter()
        .map(|(_, index)| Op::LinkDown { index: *index })
        .collect();
    fault::point();
    let results = kernel.rtnl.apply(&ops);
    let lines = ports.iter().zip(results).map(|((port, _), result)| Line {
        kind: PortAttrs::NAME,
        text: format!(
            "- {} {port}: down, as its filters are not whole",
            PortAttrs::NAME
        ),
        // As a deletion: that it is brought up again puts right nothing that others did.
        object: Line::object::<PortAttrs>(port, true),
        pace: Pace::AtOnce,
        result: Some(result.map_err(|error| error.to_string())),
    });
    lines.collect()
}
