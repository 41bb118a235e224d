//! Two instances on a bridge whose ports are checked, and what their kernels send one another.

use crate::frames::no_checksums;
use crate::support::Ns;
use lxmesh::kernel::checksums::Checks;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A network namespace that is an instance's.
struct Instance(Child);

impl Instance {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep 3600"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        let mut byte = [0];
        let out = child.stdout.as_mut().expect("it was piped");
        out.read_exact(&mut byte).expect("the namespace is there");
        Instance(child)
    }

    fn sh(&self, ns: &Ns, command: &str) -> String {
        ns.sh(&format!("nsenter -t {} -n sh -ec '{command}'", self.0.id()))
    }

    /// Runs `body` on a thread in the namespace.
    fn on<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.0.id());
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let there = File::open(path).expect("it lives");
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(there.as_fd(), kind)
                    .expect("tests run as root");
                body()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(ns: &Ns, checks: &Checks) {
    let instances = [Instance::new(), Instance::new()];
    ns.sh("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up");
    for (number, instance) in (1..).zip(&instances) {
        let pid = instance.0.id();
        ns.sh(&format!(
            "ip link add v{number} type veth peer name eth0 netns {pid}
             ip link set v{number} master br0 up"
        ));
        instance.sh(
            ns,
            &format!(
                "ip link set lo up; ip link set eth0 up
                 ip address add 192.0.2.{number}/24 dev eth0
                 ip address add 2001:db8::{number}/64 dev eth0 nodad"
            ),
        );
        checks.attach(ns.index(&format!("v{number}"))).unwrap();
    }
    no_checksums(&["v1", "v2"]);
    let [one, two] = &instances;
    for ping in ["ping", "ping -s 4000", "ping -6", "ping -6 -s 4000"] {
        let to = if ping.contains("-6") {
            "2001:db8::2"
        } else {
            "192.0.2.2"
        };
        one.sh(ns, &format!("{ping} -q -c 3 -i 0.2 -w 60 {to}"));
    }
    for to in ["192.0.2.2", "2001:db8::2"] {
        stream(one, two, to);
        datagrams(one, two, to);
    }
    assert_eq!(checks.dropped().unwrap(), 0);
    tunnel(ns, one, two);
    assert_eq!(checks.dropped().unwrap(), 0);
}

/// 3 MB by TCP, in large segments.
fn stream(from: &Instance, to: &Instance, address: &str) {
    let listener = to.on(|| TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let stream = from.on(|| TcpStream::connect((address, port)).unwrap());
    let (mut sent, (mut got, _)) = (stream, listener.accept().unwrap());
    got.set_read_timeout(Some(PATIENCE)).unwrap();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        got.read_to_end(&mut all).unwrap();
        all.len()
    });
    sent.write_all(&[b'x'; 3_000_000]).unwrap();
    drop(sent);
    assert_eq!(reader.join().unwrap(), 3_000_000, "{address}");
}

/// A small one, one in fragments, and one that the kernel cuts (UDP_SEGMENT).
fn datagrams(from: &Instance, to: &Instance, address: &str) {
    let receiver = to.on(|| UdpSocket::bind((address, 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let any = if address.contains(':') {
        "::"
    } else {
        "0.0.0.0"
    };
    let sender = from.on(|| UdpSocket::bind((any, 0)).unwrap());
    sender.connect((address, port)).unwrap();
    sender.send(&[1; 100]).unwrap();
    sender.send(&[2; 5000]).unwrap();
    let size: libc::c_int = 1000;
    // SAFETY: `size` has the four bytes that are announced.
    let result = unsafe {
        libc::setsockopt(
            sender.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            4,
        )
    };
    assert_eq!(result, 0);
    sender.send(&[3; 4000]).unwrap();
    let mut lengths = Vec::new();
    for _ in 0..6 {
        lengths.push(receiver.recv(&mut [0; 9000]).unwrap());
    }
    assert_eq!(lengths, [100, 5000, 1000, 1000, 1000, 1000], "{address}");
}

/// VXLAN between the instances: the inner checksums are deferred, those of the outer packets are not.
fn tunnel(ns: &Ns, one: &Instance, two: &Instance) {
    for (instance, own, other) in [(one, 1, 2), (two, 2, 1)] {
        instance.sh(
            ns,
            &format!(
                "ip link add vx type vxlan id 7 dstport 8472 local 192.0.2.{own} remote 192.0.2.{other}
                 ip link set vx up
                 ip address add 198.51.100.{own}/24 dev vx
                 ip address add 2001:db8:7::{own}/64 dev vx nodad"
            ),
        );
    }
    for to in ["198.51.100.2", "2001:db8:7::2"] {
        stream(one, two, to);
        datagrams(one, two, to);
    }
}
