//! `kernel::nflog` against the running kernel: what a rule of the bridge family logs is read with
//! the port that it is about, in both directions.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

mod support;

use lxmesh::kernel::nflog::{Logged, PacketLog};
use std::time::Duration;
use support::with_bridge;

/// What is logged, until the rule has been seen. The time limit only ends a test that would hang.
async fn until(log: &mut PacketLog, rule: &str) -> Logged {
    let found = async {
        loop {
            let read = log.next().await.unwrap();
            if let Some(logged) = read.into_iter().find(|logged| logged.rule == rule) {
                return logged;
            }
        }
    };
    let limited = tokio::time::timeout(Duration::from_secs(60), found);
    limited.await.expect("nothing was logged within a minute")
}

#[test]
fn what_rules_log_is_read_with_port_direction_rule_and_packet() {
    with_bridge(|ns, _| {
        ns.nft(
            "table bridge t {
                set r { type iface_index; size 100; flags dynamic; timeout 1m; }
                chain c {
                    type filter hook prerouting priority 0;
                    ether type ip update @r { iif limit rate 5/second burst 20 packets } log prefix \"out_denied\" group 242 snaplen 128
                    drop
                }
                chain d {
                    type filter hook output priority 0;
                    ether type ip update @r { oif limit rate 5/second burst 20 packets } log prefix \"in_denied\" group 242 snaplen 128
                }
            }",
        );
        ns.sh("ip address add 192.0.2.2/24 dev p0
             ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev p0
             ip address add 198.51.100.1/24 dev br0
             ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:19 dev br0
             bridge fdb add 02:00:00:00:00:19 dev v1 master static");
        let send = |target: &str| ns.sh(&format!("bash -c 'echo x > /dev/udp/{target}/5300'"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut log = PacketLog::open().unwrap();
            assert!(PacketLog::open().is_err(), "the group has one reader");
            send("192.0.2.9");
            let logged = until(&mut log, "out_denied").await;
            assert_eq!((logged.port, logged.from_nic), (ns.index("v0"), true));
            let own = ns.link("p0")["address"].as_str().unwrap().to_string();
            assert_eq!(logged.source_mac.unwrap().to_string(), own);
            let text = logged.packet.to_string();
            assert!(text.starts_with("udp from 192.0.2.2 port "), "{text}");
            assert!(text.ends_with(" to 192.0.2.9 port 5300"), "{text}");
            send("198.51.100.9");
            let logged = until(&mut log, "in_denied").await;
            assert_eq!((logged.port, logged.from_nic), (ns.index("v1"), false));
            let text = logged.packet.to_string();
            assert!(text.ends_with(" to 198.51.100.9 port 5300"), "{text}");
        });
    });
}
