//! How large an IP packet in the overlay can be: a sum, line by line. Nothing is measured here.

use std::fmt;

/// The sum that ends in the MTU of the overlay, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtuSum {
    pub underlay: u32,
    /// What is taken away, and how much, from the outside in.
    pub less: Vec<(&'static str, u32)>,
}

/// What encryption does to the packets of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Esp {
    /// They are not encrypted.
    None,
    /// ESP right after the IP header.
    Plain,
    /// ESP in UDP (RFC 3948).
    InUdp,
}

impl MtuSum {
    /// `ipv6`: the family of the underlay. ESP is in transport mode with an AEAD cipher, and all
    /// that `generate::strongswan` proposes need the same: an 8-byte IV and a 16-byte tag
    /// (RFC 4106, RFC 7634); beside them the header (8) and the trailer (2), padded so that
    /// payload and trailer are a multiple of 4 (RFC 4303 section 2.4; `esp_output()` of the
    /// kernel rounds to no more than that for a stream mode).
    pub fn new(underlay: u32, ipv6: bool, esp: Esp) -> Self {
        let ip = if ipv6 {
            ("IPv6 header", 40)
        } else {
            ("IPv4 header", 20)
        };
        let mut less = vec![ip];
        if esp == Esp::InUdp {
            less.push(("UDP header of ESP (RFC 3948)", 8));
        }
        if esp != Esp::None {
            less.push(("ESP header", 8));
            less.push(("ESP initialisation vector", 8));
            less.push(("ESP integrity check value", 16));
            let taken: u32 = less.iter().map(|(_, bytes)| bytes).sum();
            less.push((
                "ESP padding to a multiple of 4",
                underlay.saturating_sub(taken) % 4,
            ));
            less.push(("ESP pad length and next header", 2));
        }
        less.push(("UDP header", 8));
        less.push(("VXLAN header", 8));
        less.push(("Ethernet header inside", 14));
        MtuSum { underlay, less }
    }

    /// The sum for the tunnels of a checked host file.
    pub fn of(file: &super::HostFile) -> Self {
        let esp = match &file.ipsec {
            None => Esp::None,
            Some(ipsec) if ipsec.udp_encapsulation => Esp::InUdp,
            Some(_) => Esp::Plain,
        };
        MtuSum::new(file.fabric.underlay_mtu, file.fabric.is_ipv6(), esp)
    }

    /// The largest IP packet in the overlay, bytes.
    pub fn overlay(&self) -> u32 {
        let taken: u32 = self.less.iter().map(|(_, bytes)| bytes).sum();
        self.underlay.saturating_sub(taken)
    }
}

/// One line: "1500 - 20 IPv4 header - 8 UDP header … = 1450".
impl fmt::Display for MtuSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.underlay)?;
        for (what, bytes) in &self.less {
            write!(f, " - {bytes} {what}")?;
        }
        write!(f, " = {}", self.overlay())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_takes_50_bytes_over_ipv4_and_70_over_ipv6() {
        assert_eq!(MtuSum::new(1500, false, Esp::None).overlay(), 1450);
        assert_eq!(MtuSum::new(1500, true, Esp::None).overlay(), 1430);
    }

    #[test]
    fn no_packet_of_the_computed_size_exceeds_the_underlay_with_esp() {
        for (ipv6, esp) in [
            (false, Esp::Plain),
            (false, Esp::InUdp),
            (true, Esp::Plain),
            (true, Esp::InUdp),
        ] {
            let outer = if ipv6 { 40 } else { 20 } + if esp == Esp::InUdp { 8 } else { 0 };
            let esp_packet = |overlay: u32| {
                let payload = overlay + 14 + 8 + 8;
                outer + 8 + 8 + (payload + 2).div_ceil(4) * 4 + 16
            };
            for underlay in 1280..1600 {
                let overlay = MtuSum::new(underlay, ipv6, esp).overlay();
                assert!(esp_packet(overlay) <= underlay, "{underlay}");
                assert!(esp_packet(overlay + 1) > underlay, "{underlay}");
            }
        }
    }
}
