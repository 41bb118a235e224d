//! How large an IP packet in the overlay can be: a sum, line by line. Nothing is measured here.

use std::fmt;

/// The sum that ends in the MTU of the overlay, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtuSum {
    pub underlay: u32,
    /// What is taken away, and how much, from the outside in.
    pub less: Vec<(&'static str, u32)>,
}

impl MtuSum {
    /// `ipv6`: the family of the underlay. `ipsec`: ESP in transport mode with an AEAD cipher of
    /// 16-byte tags, possibly in UDP behind a NAT: RFC 4303 (header 8, trailer 2, the sum of
    /// payload and trailer a multiple of 4), RFC 4106 (IV 8, tag 16), RFC 3948 (UDP 8).
    pub fn new(underlay: u32, ipv6: bool, ipsec: bool) -> Self {
        let ip = if ipv6 {
            ("IPv6 header", 40)
        } else {
            ("IPv4 header", 20)
        };
        let mut less = vec![ip];
        if ipsec {
            less.push(("UDP of ESP behind a NAT (RFC 3948)", 8));
            less.push(("ESP header, IV and tag", 8 + 8 + 16));
            let taken: u32 = less.iter().map(|(_, bytes)| bytes).sum();
            less.push((
                "ESP trailer and alignment to 4",
                2 + underlay.saturating_sub(taken) % 4,
            ));
        }
        less.push(("UDP header", 8));
        less.push(("VXLAN header", 8));
        less.push(("Ethernet header inside", 14));
        MtuSum { underlay, less }
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
        assert_eq!(MtuSum::new(1500, false, false).overlay(), 1450);
        assert_eq!(MtuSum::new(1500, true, false).overlay(), 1430);
    }

    #[test]
    fn no_packet_of_the_computed_size_exceeds_the_underlay_with_esp() {
        for underlay in 1280..1600 {
            let esp_packet = |overlay: u32| {
                let payload = overlay + 14 + 8 + 8;
                20 + 8 + 8 + 8 + (payload + 2).div_ceil(4) * 4 + 16
            };
            let overlay = MtuSum::new(underlay, false, true).overlay();
            assert!(esp_packet(overlay) <= underlay, "{underlay}");
            assert!(esp_packet(overlay + 1) > underlay, "{underlay}");
        }
    }
}
