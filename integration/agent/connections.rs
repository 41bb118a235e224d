//! How the agent talks with LXD, which takes connections one after the other, each when it has sent something.

use super::support::in_netns;
use super::support::world::World;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Whoever connects and sends nothing keeps everybody from LXD.
#[test]
fn many_questions_at_once_keep_nobody_else_from_lxd() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        for n in 1..=6 {
            world.launch(&format!("c{n}"), "vpc");
        }
        let mut world = world.started();
        for _ in 0..30 {
            let listings = world.lxd.requests("/1.0/instances?");
            for n in 1..=6 {
                world
                    .lxd
                    .emit("instance-updated", "default", &format!("c{n}"));
            }
            world.lxd.emit("profile-updated", "default", "p");
            world.until("the agent has asked", |world| {
                (world.lxd.requests("/1.0/instances?") > listings).then_some(())
            });
            let mut other = UnixStream::connect(world.lxd.socket()).expect("LXD listens");
            other
                .set_read_timeout(Some(super::support::world::PATIENCE))
                .expect("a limit can be set");
            let question = b"GET /1.0 HTTP/1.1\r\nHost: lxd\r\nConnection: close\r\n\r\n";
            other.write_all(question).expect("LXD reads");
            let answered = other.read(&mut [0; 64]);
            assert!(answered.expect("LXD answers others while the agent asks") > 0);
        }
        world.in_step();
        assert_eq!(world.lxd.silent(), 0);
    });
}
