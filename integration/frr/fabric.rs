//! Two supervisors and a reflector, and what is known of instances on them.

use std::process::Command;

use crate::host::{Guest, Host, Lines, run, until};

pub struct Fabric {
    pub a: Host,
    pub b: Host,
    pub reflector: Host,
}

impl Fabric {
    pub fn new() -> Self {
        Self::of_fleet(|file| file)
    }

    /// With something changed in the example fleet's host file.
    pub fn of_fleet(change: fn(String) -> String) -> Self {
        let reflector = Host::new("198.51.100.101");
        reflector.sh("ip link add fabric type bridge; ip address add 198.51.100.101/24 dev fabric; ip link set fabric up");
        let mut fabric = Fabric {
            a: Host::of_fleet("198.51.100.11", |file| by_prefix(change(file))),
            b: Host::of_fleet("198.51.100.12", change),
            reflector,
        };
        fabric.reflector.start_frr("zebra bgpd");
        for (host, cable) in [(&mut fabric.a, "to-a"), (&mut fabric.b, "to-b")] {
            // Process numbers are those of this test's own namespace, so only the network is entered.
            let target = fabric.reflector.pid().to_string();
            let link = format!(
                "ip link add name {cable} type veth peer name underlay netns {}",
                host.pid()
            );
            let plug = format!("{link}; ip link set {cable} master fabric up");
            run(Command::new("nsenter").args(["--net", "--target", &target, "sh", "-euc", &plug]));
            host.sh(&format!(
                "ip address add {}/24 dev underlay; ip link set underlay up",
                host.underlay
            ));
            host.make_devices();
            host.start_frr("zebra bgpd");
            host.start_agent();
        }
        fabric
    }

    /// Waits until everything that is known of the guests is where it should be: local entries on
    /// their own host, remote ones on the other, routes on the reflector, and no more than that.
    pub fn in_step(&self, on_a: &[&Guest], on_b: &[&Guest]) {
        let Fabric { a, b, reflector } = self;
        for (here, there, own, others) in [(a, b, on_a, on_b), (b, a, on_b, on_a)] {
            let at = here.underlay;
            let local = own
                .iter()
                .map(|g| format!("{} veth{} extern_learn", g.mac, g.number))
                .collect();
            until(&format!("FDB of instances on {at}"), &local, || {
                here.local_fdb()
            });
            until(
                &format!("neighbours by the agent on {at}"),
                &neighbours(own, "PERMANENT"),
                || here.neighbours("242"),
            );
            until(
                &format!("FDB of the tunnel on {at}"),
                &remote(there.underlay, others),
                || here.remote_fdb("vpc"),
            );
            let theirs = neighbours(others, "NOARP extern_learn");
            until(&format!("neighbours by zebra on {at}"), &theirs, || {
                here.neighbours("zebra")
            });
        }
        let mut routes: Vec<_> = on_a
            .iter()
            .chain(on_b)
            .flat_map(|guest| guest.routes())
            .collect();
        routes.sort();
        until("type-2 routes on the reflector", &routes, || {
            reflector.routes(2)
        });
    }
}

/// Which supervisors there are is not in the host file, so the packet filter has to be told.
fn by_prefix(file: String) -> String {
    let line = file.lines().find(|line| line.starts_with("supervisors"));
    let line = line.expect("the fleet has supervisors");
    file.replace(line, "supervisors = [\"198.51.100.0/24\"]")
}

fn neighbours(guests: &[&Guest], state: &str) -> Lines {
    let of_one = |guest: &&Guest| {
        guest
            .addresses()
            .map(|address| format!("{address} {} {state}", guest.mac))
    };
    guests.iter().flat_map(of_one).collect()
}

/// What is on a tunnel: where to flood, and for each guest an entry of the bridge and one of the device.
pub fn remote(vtep: &str, guests: &[&Guest]) -> Lines {
    let of_one = |guest: &&Guest| {
        [
            format!("{} extern_learn", guest.mac),
            format!("{} dst {vtep}", guest.mac),
        ]
    };
    let mut lines: Lines = guests.iter().flat_map(of_one).collect();
    lines.insert(format!("00:00:00:00:00:00 dst {vtep}"));
    lines
}

/// How often the bridge had the guest's MAC on its tap after it had had it elsewhere, since the host listens.
pub fn taken_back(host: &Host, guest: &Guest, tap: &str) -> u64 {
    let heard = host.heard_of(&[guest]);
    let entries = heard.iter().filter(|line| line.contains("master svi-vpc"));
    let mut on_tap: Vec<bool> = entries
        .filter(|line| !line.contains("Deleted"))
        .map(|line| line.contains(&format!("dev {tap}")))
        .collect();
    on_tap.dedup();
    assert!(
        on_tap.contains(&false),
        "it was never elsewhere: {heard:#?}"
    );
    on_tap.windows(2).filter(|pair| pair[1]).count() as u64
}
