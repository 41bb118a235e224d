//! From LXD's answer about one instance to the last object of it in the kernel. The kernel's own
//! events give the time, and a look at every object of the instance shows that it was the last.

use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lxmesh::addr::{IfName, Mac};
use lxmesh::kernel::Kernel;
use lxmesh::kernel::monitor::{Monitor, MonitorFilter};
use lxmesh::kernel::nft::Family;
use lxmesh::kernel::rtnl::PROTOCOL;

use crate::fleet::{Fleet, Nic, OUT_SERVICES};
use crate::support::fake_lxd::Status;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between two events, so that each stands alone.
const PAUSE: Duration = Duration::from_millis(120);

/// Milliseconds of each event, by kind.
pub fn events(fleet: &Fleet<'_>, count: usize) -> Vec<(&'static str, Vec<f64>)> {
    let ticks = listen(fleet);
    let mut kernel = Kernel::open().expect("the kernel can be asked");
    let mut times = [const { Vec::new() }; 3];
    for n in 0..count {
        // All over the fleet.
        let nic = &fleet.nics[n * 7919 % fleet.nics.len()];
        let mut one = |kind: usize, action: &str, done: &dyn Fn(&mut Kernel) -> bool| {
            thread::sleep(PAUSE);
            while ticks.try_recv().is_ok() {}
            let emitted = Instant::now();
            fleet.lxd.emit(action, "default", &nic.instance);
            times[kind].push(wait(&ticks, emitted, &mut kernel, fleet, nic, done));
        };
        let other = ["tcp/8443", "udp/123"];
        fleet.put(nic, Status::Running, &other);
        one(0, "instance-updated", &|kernel| services(kernel, nic) == 2);
        fleet.put(nic, Status::Frozen, &OUT_SERVICES);
        one(1, "instance-paused", &|kernel| is_gone(kernel, nic));
        fleet.put(nic, Status::Running, &OUT_SERVICES);
        one(2, "instance-resumed", &|kernel| is_there(kernel, nic));
    }
    ["config set", "stop", "start"]
        .into_iter()
        .zip(times)
        .collect()
}

/// The times at which the kernel told of something.
fn listen(fleet: &Fleet<'_>) -> mpsc::Receiver<Instant> {
    let (out, ticks) = mpsc::channel();
    let _ = fleet;
    let (ready, is_ready) = mpsc::channel();
    // A new thread is in the namespace of the one that makes it.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut monitor = Monitor::open(&MonitorFilter::default()).expect("events can be had");
            let _ = ready.send(());
            while monitor.next().await.is_ok() {
                if out.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    });
    is_ready.recv().expect("the listener is there");
    ticks
}

fn wait(
    ticks: &mpsc::Receiver<Instant>,
    emitted: Instant,
    kernel: &mut Kernel,
    fleet: &Fleet<'_>,
    nic: &Nic,
    done: &dyn Fn(&mut Kernel) -> bool,
) -> f64 {
    let path = format!("/1.0/instances/{}?", nic.instance);
    loop {
        let tick = ticks
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{} is never complete", nic.instance));
        // Only the last of those that came together.
        let tick = ticks.try_iter().last().unwrap_or(tick);
        if done(kernel) {
            let answer = fleet.lxd.last_answer(&path).expect("it was asked for");
            assert!(answer.at >= emitted, "the answer is an old one");
            return tick.saturating_duration_since(answer.at).as_secs_f64() * 1000.0;
        }
        assert!(
            emitted.elapsed() < PATIENCE,
            "{} is never complete",
            nic.instance
        );
    }
}

struct Names {
    svi: u32,
    port: Option<lxmesh::kernel::link::Link>,
    mac: Mac,
}

fn names(kernel: &mut Kernel, nic: &Nic) -> Names {
    let svi: IfName = "svi-vpc".parse().expect("a name");
    let port: IfName = nic.port.parse().expect("a name");
    Names {
        svi: kernel
            .rtnl
            .link(&svi)
            .expect("links can be read")
            .expect("it is there")
            .index,
        port: kernel.rtnl.link(&port).expect("links can be read"),
        mac: nic.mac.parse().expect("a MAC"),
    }
}

/// How many objects of the NIC there are: port, FDB entry, neighbours, groups, routes, identity.
fn objects(kernel: &mut Kernel, nic: &Nic) -> usize {
    let Names { svi, port, mac } = names(kernel, nic);
    let Some(port) = port else { return 0 };
    let addresses: Vec<IpAddr> = nic
        .addresses()
        .iter()
        .map(|address| address.parse().expect("an address"))
        .collect();
    let mut count = usize::from(port.master == Some(svi) && port.up);
    let entry = kernel
        .rtnl
        .fdb_entry(svi, mac)
        .expect("the FDB can be read");
    count += usize::from(entry.is_some_and(|entry| entry.port == port.index));
    for address in &addresses {
        let neighbour = kernel
            .rtnl
            .neighbour(svi, *address)
            .expect("neighbours can be read");
        count += usize::from(neighbour.is_some_and(|neighbour| neighbour.protocol == PROTOCOL));
    }
    let routes = kernel.rtnl.routes(PROTOCOL).expect("routes can be read");
    count += routes
        .iter()
        .filter(|route| addresses.contains(&route.destination.addr()))
        .count();
    let groups = kernel.rtnl.mdb().expect("groups can be read");
    count += groups
        .iter()
        .filter(|group| group.port == port.index && group.permanent)
        .count();
    let identity = element(port.index, &[&padded_mac(mac)]);
    let found = kernel
        .nft
        .lookup(Family::Bridge, "lxmesh", "nic_macs", &[(identity, None)])
        .expect("sets can be read");
    count + found.iter().flatten().count()
}

fn is_there(kernel: &mut Kernel, nic: &Nic) -> bool {
    objects(kernel, nic) == 1 + 1 + 3 + 2 + nic.groups().len() + 1
}

fn is_gone(kernel: &mut Kernel, nic: &Nic) -> bool {
    objects(kernel, nic) == 0
}

/// How many of the other services there are.
fn services(kernel: &mut Kernel, nic: &Nic) -> usize {
    let port = names(kernel, nic).port.expect("it is there").index;
    let service = |protocol: u8, number: u16| {
        let number = number.to_be_bytes();
        element(port, &[&[protocol, 0, 0, 0], &[number[0], number[1], 0, 0]])
    };
    let keys = [(service(6, 8443), None), (service(17, 123), None)];
    let found = kernel
        .nft
        .lookup(Family::Bridge, "lxmesh", "out_svc", &keys)
        .expect("sets can be read");
    found.iter().flatten().count()
}

fn element(port: u32, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = port.to_ne_bytes().to_vec();
    parts.iter().for_each(|part| key.extend(*part));
    key
}

fn padded_mac(mac: Mac) -> [u8; 8] {
    let mut padded = [0; 8];
    padded[..6].copy_from_slice(&mac.0);
    padded
}
