//! From nothing to everything, and then nothing more.

use super::support::fake_lxd::Status;
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::World;

#[test]
fn a_cold_start_creates_every_object_and_nothing_else() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let strangers = world.strangers();
        world.launch("c1", "vpc");
        let mut tagged = world.nic("c2", "vpc");
        tagged.mark = 9;
        world.run(&tagged);
        world.launch("c3", "dmz");
        let mut four = world.nic("c4", "dmz");
        four.ipv6 = None;
        world.run(&four);
        let mut world = world.started();
        world.strangers_are(&strangers);
        world.settle();
    });
}

/// A host with instances in both networks and an agent that has done all it has to.
pub fn busy_world(ns: &super::support::Ns) -> World<'_> {
    let mut world = World::new(ns);
    for n in 1..=3 {
        world.launch(&format!("c{n}"), "vpc");
    }
    let mut tagged = world.nic("c4", "dmz");
    tagged.mark = 8;
    world.run(&tagged);
    world.started()
}

pub fn dnsmasq_listens(world: &mut World<'_>) -> Option<()> {
    let sockets = world.ns.sh("ss -Hlnup sport = 67; ss -Hlnup sport = 547");
    (sockets.matches("dnsmasq").count() >= 2).then_some(())
}

#[test]
fn a_crash_and_restart_change_nothing() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let listeners = Listeners::new(&world);
        world.kill();
        world.start();
        world.until("the agent has looked at everything", |world| {
            let status = world.status()?;
            (status["in_step"] == true && status["passes"]["full"].as_u64()? >= 1).then_some(())
        });
        world.until("dnsmasq listens", dnsmasq_listens);
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
        assert_eq!(world.logged("changed:"), [""; 0]);
    });
}

#[test]
fn an_idle_pass_changes_nothing() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let full = |world: &mut World<'_>| world.status()?["passes"]["full"].as_u64();
        let before = world.until("a status", full);
        let listeners = Listeners::new(&world);
        for more in 1..=3 {
            world.signal("HUP");
            world.until("another full pass", |world| {
                (full(world)? >= before + more).then_some(())
            });
        }
        assert_eq!(listeners.heard(&world), [""; 0]);
    });
}

#[test]
fn a_stop_leaves_everything_in_the_kernel() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let listeners = Listeners::new(&world);
        world.stop();
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}

#[test]
fn instances_that_stopped_while_no_agent_ran_are_withdrawn() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.kill();
        let (stopped, gone) = (world.nics[0].clone(), world.nics[1].clone());
        world.set(&stopped, Status::Stopped);
        world.unplug(&stopped);
        world.forget(&stopped);
        // Its device is still there.
        world.lxd.remove(&gone.project, &gone.instance);
        world.forget(&gone);
        world.launch("new", "dmz");
        world.start();
        world.in_step();
    });
}

#[test]
fn dnsmasq_runs_stops_with_the_agent_and_is_replaced_after_a_crash() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let pid = world.until("dnsmasq runs", |world| {
            let text = world.status()?["dhcp"].as_str()?.to_string();
            text.strip_prefix("dnsmasq running (pid ")?
                .strip_suffix(')')
                .map(str::to_string)
        });
        // Of a dead one that nobody has buried yet, nothing but the name is left.
        let alive = |pid: &str| {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            program.file_name()?.to_str().map(str::to_string)
        };
        assert_eq!(alive(&pid).as_deref(), Some("dnsmasq"));
        world.until("dnsmasq listens", dnsmasq_listens);
        let options = std::fs::read_to_string(world.path("dnsmasq/dnsmasq.conf")).unwrap();
        assert!(
            options.contains("\ninterface=svi-dmz\n") && options.contains(",static,"),
            "{options}"
        );
        // It comes back by itself, ...
        world.ns.sh(&format!("kill {pid}"));
        world.until_logged("dnsmasq is not running");
        let other = world.until("dnsmasq runs again", |world| {
            let text = world.status()?["dhcp"].as_str()?.to_string();
            let now = text
                .strip_prefix("dnsmasq running (pid ")?
                .strip_suffix(')')?;
            (now != pid).then(|| now.to_string())
        });
        // ... one that a crashed agent left behind makes way for the next agent's, ...
        world.kill();
        world.start();
        world.until("dnsmasq of the crashed agent ends", |_| {
            alive(&other).is_none().then_some(())
        });
        let last = world.until("dnsmasq of the new agent runs", |world| {
            let text = world.status()?["dhcp"].as_str()?.to_string();
            let pid = text
                .strip_prefix("dnsmasq running (pid ")?
                .strip_suffix(')')?;
            Some(pid.to_string())
        });
        world.until("it listens", dnsmasq_listens);
        // ... and it goes when the agent is stopped.
        world.signal("TERM");
        world.until("dnsmasq ends", |_| alive(&last).is_none().then_some(()));
    });
}
