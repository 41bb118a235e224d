//! The same objects made by the usual tools in their fastest way: one `nft -f`, one `ip -batch`,
//! one `bridge -batch`.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::Plan;
use crate::fleet::{Fleet, IN_SERVICES, Nic, OUT_SERVICES};
use crate::{run, try_run};

const SETS: &str = include_str!("../../templates/datapath-sets.nft");
const RULES: &str = include_str!("../../templates/datapath-rules.nft");

/// Whether this kernel and this nft take the whole ruleset.
pub fn kernel_takes_the_rules() -> bool {
    let script = format!("{SETS}{RULES}");
    try_run("sh", &["-c", "nft -c -f - 2>/dev/null"], &script).success()
}

/// Wall time, and CPU time of the three programs.
pub fn create_everything(plan: &Plan, fleet: &Fleet<'_>) -> (Duration, Duration) {
    let (nft, ip, bridge) = (
        nft_script(plan, fleet),
        ip_script(fleet),
        bridge_script(fleet),
    );
    let (before, started) = (children_cpu(), Instant::now());
    run("nft", &["-f", "-"], &nft);
    run("ip", &["-batch", "-"], &ip);
    run("bridge", &["-batch", "-"], &bridge);
    (started.elapsed(), children_cpu() - before)
}

/// Ports, attributes and entries, without any rules.
pub fn create_devices(fleet: &Fleet<'_>) {
    run("ip", &["-batch", "-"], &ip_script(fleet));
    run("bridge", &["-batch", "-"], &bridge_script(fleet));
}

fn children_cpu() -> Duration {
    // Fields 16 and 17 of stat, in ticks of 10 ms (proc(5)).
    let text = std::fs::read_to_string("/proc/self/stat").expect("it is there");
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .expect("a name in brackets")
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[13..15]
        .iter()
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn nft_script(plan: &Plan, fleet: &Fleet<'_>) -> String {
    let mut script = String::from(SETS);
    if plan.whole_ruleset {
        script.push_str(RULES);
    }
    script.push_str(
        "add element bridge lxmesh svi_names { \"svi-vpc\" }\nadd element inet lxmesh svi_names { \"svi-vpc\" }\n\
         add element bridge lxmesh overlay_ports { \"vxlan-vpc\" }\nadd element bridge lxmesh overlay_zones { \"vxlan-vpc\" : 100 }\n\
         add element inet lxmesh zone_by_svi { \"svi-vpc\" : 100 }\n\
         add element bridge lxmesh svi_gateways4 { \"svi-vpc\" . 10.20.0.1 }\nadd element inet lxmesh svi_gateways4 { \"svi-vpc\" . 10.20.0.1 }\n\
         add element bridge lxmesh svi_gateways6 { \"svi-vpc\" . 2001:db8::1 }\nadd element inet lxmesh svi_gateways6 { \"svi-vpc\" . 2001:db8::1 }\n",
    );
    let mut set = |name: &str, element: &dyn Fn(&Nic) -> Vec<String>| {
        let elements: Vec<String> = fleet.nics.iter().flat_map(element).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(script, "add element {name} {{ {} }}", elements.join(", "));
    };
    let services = |nic: &Nic, services: &[&str]| -> Vec<String> {
        services
            .iter()
            .map(|service| format!("\"{}\" . {}", nic.port, service.replace('/', " . ")))
            .collect()
    };
    set("bridge lxmesh nic_ports", &|nic| {
        vec![format!("\"{}\"", nic.port)]
    });
    for ports in ["inet lxmesh nic_ports", "arp lxmesh nic_ports"] {
        set(ports, &|nic| vec![format!("\"{}\"", nic.port)]);
    }
    set("bridge lxmesh nic_macs", &|nic| {
        vec![format!("\"{}\" . {}", nic.port, nic.mac)]
    });
    set("bridge lxmesh payload_macs", &|nic| {
        vec![format!("\"{}\" . 0x{}", nic.port, nic.mac.replace(':', ""))]
    });
    set("bridge lxmesh nic_id4", &|nic| {
        vec![format!("\"{}\" . {} . {}", nic.port, nic.mac, nic.ipv4)]
    });
    set("bridge lxmesh nic_id6", &|nic| {
        nic.addresses()[1..]
            .iter()
            .map(|address| format!("\"{}\" . {} . {address}", nic.port, nic.mac))
            .collect()
    });
    set("bridge lxmesh zone_by_port", &|nic| {
        vec![format!("\"{}\" : 100", nic.port)]
    });
    set("bridge lxmesh port_zones", &|nic| {
        vec![format!("\"{}\" . 100", nic.port)]
    });
    let source = |nic: &Nic, ethertype| {
        format!(
            "\"{}\" . 0x{}{ethertype}",
            nic.port,
            nic.mac.replace(':', "")
        )
    };
    set("bridge lxmesh sender_zone4", &|nic| {
        let address = u32::from(nic.ipv4.parse::<Ipv4Addr>().expect("an address"));
        vec![format!("{} . {address:#x} : 100", source(nic, "0800"))]
    });
    set("bridge lxmesh sender_zone6", &|nic| {
        nic.addresses()[1..]
            .iter()
            .map(|address| {
                let address = u128::from(address.parse::<Ipv6Addr>().expect("an address"));
                format!("{} . {address:#x} : 100", source(nic, "86dd"))
            })
            .collect()
    });
    set("bridge lxmesh in_svc", &|nic| services(nic, &IN_SERVICES));
    set("bridge lxmesh served_svc4", &|nic| {
        IN_SERVICES
            .iter()
            .map(|service| {
                let service = service.replace('/', " . ");
                format!("\"{}\" . {} . {} . {service}", nic.port, nic.mac, nic.ipv4)
            })
            .collect()
    });
    set("bridge lxmesh out_svc", &|nic| services(nic, &OUT_SERVICES));
    script
}

fn ip_script(fleet: &Fleet<'_>) -> String {
    let mut script = String::from(
        "link set vxlan-vpc group 5003341\nlink set svi-vpc type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 mcast_mld_version 2 mcast_router 2 mcast_query_response_interval 100\n\
         link set vxlan-vpc type bridge_slave learning off flood off mcast_flood off bcast_flood off guard on mcast_router 0 neigh_suppress on\n",
    );
    for nic in &fleet.nics {
        let Nic {
            port,
            mac,
            ipv4,
            ipv6,
            ..
        } = nic;
        let _ = write!(
            script,
            "link set {port} addrgenmode none\nlink set {port} master svi-vpc\n\
             link set {port} type bridge_slave learning off flood off mcast_flood off bcast_flood off proxy_arp off proxy_arp_wifi on guard on mcast_router 0 neigh_suppress off isolated off hairpin off\n\
             link set {port} up\n"
        );
        for address in nic.addresses() {
            let _ = writeln!(
                script,
                "neigh replace {address} lladdr {mac} dev svi-vpc nud permanent protocol 242"
            );
        }
        let _ = write!(
            script,
            "route add {ipv4}/32 dev svi-vpc protocol 242 scope link\nroute add {ipv6}/128 dev svi-vpc protocol 242\n"
        );
    }
    script
}

fn bridge_script(fleet: &Fleet<'_>) -> String {
    let mut script = String::new();
    for nic in &fleet.nics {
        let Nic { port, mac, .. } = nic;
        let _ = writeln!(script, "fdb replace {mac} dev {port} master extern_learn");
        for group in nic.groups() {
            let _ = writeln!(
                script,
                "mdb add dev svi-vpc port {port} grp {group} permanent"
            );
        }
    }
    script
}
