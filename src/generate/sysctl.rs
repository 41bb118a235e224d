//! Kernel settings that are the host's as a whole, sized for the fabric, and the modules that must
//! be there before them.

use super::template::{self, Templates};
use super::{OutputFile, RenderError};
use crate::host::HostFile;
use serde::Serialize;

pub fn render(host: &HostFile, templates: &Templates) -> Result<Vec<OutputFile>, RenderError> {
    Ok(vec![
        templates.output(
            "sysctl/lxmesh.conf",
            &Settings {
                sizes: Sizes::new(host.fabric.instances),
                vrfs: host.networks.iter().any(|network| network.vrf.is_some()),
            },
            '#',
            "/etc/sysctl.d/60-lxmesh.conf".into(),
            0o644,
        )?,
        templates.output(
            "sysctl/modules.conf",
            &template::NOTHING,
            '#',
            "/etc/modules-load.d/lxmesh.conf".into(),
            0o644,
        )?,
    ])
}

#[derive(Debug, Serialize)]
struct Settings {
    #[serde(flatten)]
    sizes: Sizes,
    /// Whether networks are in VRFs.
    vrfs: bool,
}

/// Tables of the kernel, in entries.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Sizes {
    neighbours_kept: u32,
    neighbours_tidied: u32,
    neighbours_most: u32,
    connections: u32,
}

impl Sizes {
    /// Three neighbours for a NIC (IPv4, IPv6, link-local) and a hundred connections, both rounded
    /// up to powers of two, and never less than a small fabric wants.
    fn new(instances: u32) -> Self {
        let neighbours = (instances * 3).next_power_of_two().max(4096);
        Sizes {
            neighbours_kept: neighbours / 8,
            neighbours_tidied: neighbours / 2,
            neighbours_most: neighbours,
            connections: (instances * 100).next_power_of_two().max(262_144),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_the_number_of_instances() {
        let sizes = Sizes::new(10_000);
        assert_eq!(
            (sizes.neighbours_most, sizes.connections),
            (32_768, 1_048_576)
        );
        let most = Sizes::new(1_000_000);
        assert_eq!(
            (most.neighbours_most, most.connections),
            (4_194_304, 134_217_728)
        );
        assert_eq!(Sizes::new(1).neighbours_kept, 512);
    }
}
