//! Attributes of SVIs: multicast snooping with ourselves as the only querier and router, so that
//! groups are known before anybody asks and queries from containers are never needed.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of};
use crate::addr::IfName;
use crate::kernel::Kernel;
use crate::kernel::link::{BridgeData, LinkKind};
use crate::kernel::rtnl::{BridgeSet, Op};
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// The SVI's own multicast behaviour (include/uapi/linux/if_link.h, IFLA_BR_MCAST_*).
#[derive(Debug)]
pub struct BridgeAttrs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    pub snooping: bool,
    pub querier: bool,
    pub igmp_version: u8,
    pub mld_version: u8,
    /// 2 = always a multicast router.
    pub router: u8,
    /// Hundredths of a second. Below the default of 10 s, the first IPv6 packet between two
    /// containers of one host does not wait for a group report.
    pub query_response_interval_cs: u64,
}

const WANTED: Attrs = Attrs {
    snooping: true,
    querier: true,
    igmp_version: 3,
    mld_version: 2,
    router: 2,
    query_response_interval_cs: 100,
};

impl From<&BridgeData> for Attrs {
    fn from(data: &BridgeData) -> Self {
        Attrs {
            snooping: data.mcast_snooping,
            querier: data.mcast_querier,
            igmp_version: data.mcast_igmp_version,
            mld_version: data.mcast_mld_version,
            router: data.mcast_router,
            query_response_interval_cs: data.mcast_query_response_interval,
        }
    }
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "snooping {} querier {} igmp {} mld {} router {} response {} cs",
            self.snooping,
            self.querier,
            self.igmp_version,
            self.mld_version,
            self.router,
            self.query_response_interval_cs
        )
    }
}

impl Kind for BridgeAttrs {
    const NAME: &'static str = "bridge";
    const OWNS: Owns = Owns::AttributesOnly;
    type Key = IfName;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let networks = inputs.host.networks.iter();
        networks
            .map(|network| (network.bridge.clone(), WANTED))
            .collect()
    }
}

impl KernelKind for BridgeAttrs {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let networks = look.host.networks.iter();
        Ok(networks
            .filter(|network| scope.has(&network.bridge))
            .filter_map(|network| match &look.facts.svi(network)?.kind {
                LinkKind::Bridge(data) => Some((network.bridge.clone(), data.into())),
                _ => None,
            })
            .collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        apply_ops(kernel, changes, |change| {
            let Change::Update { key, have, want } = change else {
                return Ok(Vec::new());
            };
            let differs = |differs: bool| differs.then_some(());
            Ok(vec![Op::Bridge {
                index: index_of(facts, key)?,
                attrs: BridgeSet {
                    mcast_snooping: differs(have.snooping != want.snooping).map(|()| want.snooping),
                    mcast_querier: differs(have.querier != want.querier).map(|()| want.querier),
                    mcast_igmp_version: differs(have.igmp_version != want.igmp_version)
                        .map(|()| want.igmp_version),
                    mcast_mld_version: differs(have.mld_version != want.mld_version)
                        .map(|()| want.mld_version),
                    mcast_router: differs(have.router != want.router).map(|()| want.router),
                    mcast_query_response_interval: differs(
                        have.query_response_interval_cs != want.query_response_interval_cs,
                    )
                    .map(|()| want.query_response_interval_cs),
                },
            }])
        })
    }
}
