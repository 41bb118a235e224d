//! A VXLAN device that is made anew as it was. Some of what it has cannot be changed while it is there: the kernel says no, or
//! loses it in changing something else (`vxlan_changelink()` in drivers/net/vxlan/vxlan_core.c works out anew which bits of the
//! header are reserved, from what the one request names).

use super::link::{
    IFF_UP, IFINFOMSG, IFLA_ADDRESS, IFLA_GROUP, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_LINKINFO, IFLA_MTU, Link, LinkKind, vxlan,
};
use super::tlv::{Message, Writer};

/// What is needed to make it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelCopy {
    pub link: Link,
    /// Its `IFLA_VXLAN_*`, but for what the kernel works out for itself.
    data: Vec<(u16, Vec<u8>)>,
}

impl TunnelCopy {
    /// Reads an `RTM_NEWLINK`; None if it is of another kind of device.
    pub(super) fn parse(message: &Message<'_>) -> Option<TunnelCopy> {
        let link = Link::parse(message)?;
        let LinkKind::Vxlan(_) = link.kind else {
            return None;
        };
        let info = message.attrs(IFINFOMSG).find(IFLA_LINKINFO)?;
        let data = info.attrs().find(IFLA_INFO_DATA)?.attrs();
        let data = data.filter(|attr| match attr.kind {
            vxlan::RESERVED_BITS => false,
            // To name them is to use their bits of the header, also if they are off.
            vxlan::REMCSUM_TX | vxlan::REMCSUM_RX | vxlan::TTL_INHERIT => attr.flag(),
            _ => true,
        });
        let data = data.map(|attr| match attr.kind {
            // The kernel tells it as a byte, and wants it without a value.
            vxlan::TTL_INHERIT => (attr.kind, Vec::new()),
            kind => (kind, attr.payload.to_vec()),
        });
        Some(TunnelCopy {
            data: data.collect(),
            link,
        })
    }

    /// The body of the `RTM_NEWLINK` that makes it, down and in no bridge, with the same index; `least`: with only what
    /// it cannot do without, should the kernel not take back all that it has told.
    pub(super) fn write(&self, w: &mut Writer, least: bool) {
        const LEAST: [u16; 8] = [
            vxlan::ID,
            vxlan::LOCAL,
            vxlan::TTL,
            vxlan::LEARNING,
            vxlan::PORT,
            vxlan::LOCAL6,
            vxlan::GBP,
            vxlan::TTL_INHERIT,
        ];
        super::op::link(w, self.link.index, 0, IFF_UP);
        w.text(IFLA_IFNAME, self.link.name.as_str());
        w.u32(IFLA_MTU, self.link.mtu);
        w.u32(IFLA_GROUP, self.link.group);
        if let Some(mac) = self.link.mac {
            w.attr(IFLA_ADDRESS, &mac.0);
        }
        w.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "vxlan");
            info.nest(IFLA_INFO_DATA, |data| {
                for (kind, payload) in &self.data {
                    if !least || LEAST.contains(kind) {
                        data.attr(*kind, payload);
                    }
                }
            });
        });
    }

    /// The same with this device group, and without learning of VTEPs from packets.
    pub fn with(mut self, group: u32) -> Self {
        self.link.group = group;
        for (kind, payload) in &mut self.data {
            if *kind == vxlan::LEARNING {
                *payload = vec![0];
            }
        }
        self
    }
}
