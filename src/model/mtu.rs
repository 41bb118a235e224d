//! NICs whose device has a larger MTU than their network. It is no fault that keeps one from being connected,
//! and the instance may have set its own end to less, by DHCP or router advertisements; but nothing tells it if not.
//! Pure.

use super::facts::Facts;
use super::nic::Nic;
use crate::host::HostFile;

/// Of a NIC with a larger MTU than its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargerMtu {
    /// Of the host-side device. LXD and Incus set both ends to the same.
    pub device: u32,
    /// Of the network.
    pub network: u32,
}

impl LargerMtu {
    /// `None` if the device fits, or is not there.
    pub fn of(nic: &Nic, host: &HostFile, facts: &Facts) -> Option<LargerMtu> {
        let network = host.network(&nic.network)?.mtu;
        let device = facts.link(&nic.port)?.mtu;
        (device > network).then_some(LargerMtu { device, network })
    }

    /// What it means and what to do, for a person who reads which NIC it is about. `client` is `lxc` or `incus`.
    pub fn remark(self, nic: &Nic, client: &str) -> String {
        let LargerMtu { device, network } = self;
        let instance = &nic.id.instance;
        let project = match instance.project.as_str() {
            "default" => String::new(),
            other => format!(" --project {other}"),
        };
        let (name, eth) = (&instance.name, &nic.id.device);
        format!(
            "its MTU is {device}, and network {} carries {network}: larger packets to other hosts get lost without a word, unless the instance \
             takes its MTU from DHCP or router advertisements; {client} config device set{project} {name} {eth} mtu={network}, \
             which makes the device anew, or, if a profile gives the device, {client} config device override{project} {name} {eth} mtu={network}",
            nic.network
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use crate::kernel::link::{Link, LinkKind};

    #[test]
    fn a_device_that_is_larger_than_its_network_is_remarked_on() {
        let text = include_str!("../../integration/golden/fleets/lab/host.toml");
        let mut host = host::parse("x", text).unwrap_or_else(|problems| panic!("{problems}"));
        host.networks[0].name = "vpc".into();
        host.networks[0].mtu = 1450;
        let mut nic = Nic::sample(1);
        let of = |nic: &Nic, mtu| {
            let link = Link {
                mtu,
                ..Link::sample(3, "veth1", LinkKind::Veth, Some(1))
            };
            LargerMtu::of(nic, &host, &Facts::new([link]))
        };
        assert_eq!((of(&nic, 1280), of(&nic, 1450)), (None, None));
        let larger = of(&nic, 1451).unwrap();
        assert_eq!((larger.device, larger.network), (1451, 1450));
        assert_eq!(LargerMtu::of(&nic, &host, &Facts::default()), None);
        let remark = larger.remark(&nic, "lxc");
        for part in [
            "its MTU is 1451, and network vpc carries 1450",
            "lxc config device set c1 eth0 mtu=1450",
            "lxc config device override c1 eth0 mtu=1450",
        ] {
            assert!(remark.contains(part), "{remark}");
        }
        nic.id.instance.project = "shop".into();
        let remark = larger.remark(&nic, "incus");
        for verb in ["set", "override"] {
            let command = format!("incus config device {verb} --project shop c1 eth0 mtu=1450");
            assert!(remark.contains(&command), "{remark}");
        }
    }
}
