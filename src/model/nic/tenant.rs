//! What the host file lets the NICs of one project have: networks, addresses, tags. Everything else
//! that a NIC's keys say is the project's own matter.

use crate::addr::{IpAddr, IpNet};
use crate::host::{HostFile, Network, Tenant};
use crate::text;

/// What one project may have.
#[derive(Clone, Copy)]
pub struct Rights<'a> {
    host: &'a HostFile,
    project: &'a str,
    /// `None`: nothing is said of it.
    tenant: Option<&'a Tenant>,
}

impl<'a> Rights<'a> {
    pub fn of(host: &'a HostFile, project: &'a str) -> Self {
        Rights {
            host,
            project,
            tenant: host.tenant(project),
        }
    }

    /// Whether its NICs may be in the network. Err: why not, and what to do.
    pub fn network(&self, network: &Network) -> Result<(), String> {
        let refused = |change: String, who: &str, names: Vec<&str>| {
            let names = match names.is_empty() {
                true => "none".into(),
                false => names.join(", "),
            };
            Err(format!(
                "{} may not use network {}; name another one in user.lxmesh.parent, or add {change} in the host file; {who}: {names}",
                self.name(),
                network.name
            ))
        };
        if !network.is_for(self.project) {
            let projects = network.projects.iter().flatten();
            let change = "the project to projects of the network".into();
            return refused(
                change,
                "those that may",
                projects.map(String::as_str).collect(),
            );
        }
        if !self.may_use(network) {
            let all = self.host.networks.iter();
            let its = all.filter(|other| other.is_for(self.project) && self.may_use(other));
            let change = format!("the network to networks of {}", self.entry());
            return refused(
                change,
                "it may use",
                its.map(|own| own.name.as_str()).collect(),
            );
        }
        Ok(())
    }

    fn may_use(&self, network: &Network) -> bool {
        let networks = self.tenant.and_then(|tenant| tenant.networks.as_ref());
        networks.is_none_or(|networks| networks.contains(&network.name))
    }

    /// Whether its NICs in the network may have the address. Err: a clause that follows the
    /// address, with what to do.
    pub fn address(&self, network: &Network, address: IpAddr) -> Result<(), String> {
        let Some(own) = self.tenant.and_then(|tenant| tenant.addresses.as_ref()) else {
            return Ok(());
        };
        if own.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let here =
            |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4() && network.overlaps(**net);
        let choice: Vec<String> = own.iter().filter(here).map(IpNet::to_string).collect();
        let choice = match choice.is_empty() {
            true => "none".into(),
            false => choice.join(", "),
        };
        let or_add = match network.admits(address) {
            true => format!(
                ", or add it to addresses of {} in the host file",
                self.entry()
            ),
            false => String::new(),
        };
        Err(format!(
            "may not be used by {}; choose another one{or_add}; in network {} it may use: {choice}",
            self.name(),
            network.name
        ))
    }

    /// Those of the tags, bits of the packet mark, that its NICs may have; and what is wrong with the
    /// others.
    pub fn tags(&self, wanted: u16) -> (u16, Option<String>) {
        let Some(own) = self.tenant.and_then(|tenant| tenant.tags.as_ref()) else {
            return (wanted, None);
        };
        let bits = own.iter().filter_map(|name| self.host.tags.get(name));
        let granted = wanted & bits.fold(0, |mask, bit| mask | 1 << bit);
        let lost = |(_, bit): &(&String, &u8)| (wanted & !granted) >> **bit & 1 == 1;
        let lost: Vec<&str> = self
            .host
            .tags
            .iter()
            .filter(lost)
            .map(|(name, _)| name.as_str())
            .collect();
        let problem = format!(
            "{} may not use some of them; remove these, or add them to tags of {} in the host file: {}",
            self.name(),
            self.entry(),
            lost.join(", ")
        );
        (granted, (!lost.is_empty()).then_some(problem))
    }

    fn name(&self) -> String {
        format!("project \"{}\"", text::shown(self.project, text::NAME))
    }

    /// Where the host file says so.
    fn entry(&self) -> &'static str {
        match self.tenant {
            Some(tenant) if tenant.project == Tenant::OTHERS => "[[tenant]] \"*\"",
            _ => "its [[tenant]]",
        }
    }
}
