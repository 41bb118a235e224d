//! `lxmesh explain`: looks at LXD and at the kernel as a full pass does, and keeps of it what is
//! about one instance. Changes nothing.

use super::claims;
use super::look::{look_at_links, look_at_ports};
use super::preview::{PreviewError, remembered};
use super::report::Line;
use super::world::{Listed, World};
use crate::control::{Status, server};
use crate::host::{self, HostFile};
use crate::kernel::Kernel;
use crate::kinds::nft_element::{self, NftElement};
use crate::kinds::nft_table::{self, NftTable};
use crate::kinds::{KernelKind, KindError, Look, Scope, Visitor, visit_kinds};
use crate::lxd::{Client, Program, sockets};
use crate::model::explain::{Explanation, Known, Object, State, named};
use crate::model::{Found, Inputs, Kind, Nic, Table, compare};
use std::path::Path;

/// Explains the NICs of INSTANCE, or the one of INSTANCE/DEVICE.
pub async fn explain(host_path: &Path, name: &str) -> Result<Explanation, PreviewError> {
    let host = host::load(host_path)?;
    let agent = server::ask(&host.agent.control_socket).await;
    let (socket, _) = sockets::find(host.lxd.socket.as_deref(), None)?;
    let client = Client::new(&socket)?;
    let server = client.identify().await?;
    let program = Program::of(&server);
    let mut kernel = Kernel::open()?;
    let mut world = World::default();
    world.program = program;
    let mut facts = look_at_links(&mut kernel, &host)?;
    world.facts = Some(facts.clone());
    let listing = client.instances().await?;
    let elsewhere = listing.elsewhere.about(name);
    if let Listed::Incredible(why) = world.put_listing(listing) {
        return Err(PreviewError::Incredible(why));
    }
    world.resolved.nics = remembered(agent.as_ref().ok());
    claims::resolve(&mut world, &mut kernel, &host)?;
    let inventory = world
        .inventory
        .iter()
        .flat_map(|all| all.instances.values());
    let (instance, device) = named(inventory, name, program.name()).map_err(|none| {
        let unread = || world.unread.about(name, program);
        PreviewError::Name(elsewhere.or_else(unread).unwrap_or(none))
    })?;
    if !instance.id.is_possible() {
        // Nobody can be asked about it. What it asks for is in `lxmesh status`.
        let text = format!(
            "{} stands for an instance whose name cannot be one; rename it",
            instance.id
        );
        return Err(PreviewError::Name(text));
    }
    let gone = || PreviewError::Name(format!("{} is gone just now", instance.id));
    let details = client.details(&instance.id).await?.ok_or_else(gone)?;
    let resolved = world.resolved.nics.iter();
    let resolved = resolved.map(|nic| (&nic.port, nic.routes.as_slice()));
    look_at_ports(&mut kernel, &mut facts, resolved);
    let known = Known {
        host: &host,
        instance,
        details: &details,
        resolved: &world.resolved,
        facts: &facts,
        program,
    };
    let mut nics = known.nics(device);
    if let (true, Some(device)) = (nics.is_empty(), device) {
        let text = format!("{} has no NIC of the name {device:?}", instance.id);
        return Err(PreviewError::Name(text));
    }

    let ours: Vec<&Nic> = world
        .resolved
        .nics
        .iter()
        .filter(|nic| nic.id.instance == instance.id)
        .collect();
    let mut account = Account::new(&mut kernel, &host, &world, &facts, &ours);
    account.take();
    let mut accounts = account.found;
    let deferred = agent.as_ref().map_or(&[][..], |status| &status.deferred);
    put_off(&mut accounts, deferred);
    for (nic, (own, of_network)) in ours.iter().zip(accounts) {
        let mut same = nics.iter_mut();
        if let Some(explained) = same.find(|explained| explained.device == nic.id.device) {
            explained.put(own, of_network);
        }
    }

    let managed = nics.iter().filter(|nic| nic.managed);
    let in_step = managed.clone().count() > 0
        && managed.clone().all(|nic| nic.in_step())
        && (device.is_none() || nics.iter().all(|nic| nic.managed));
    Ok(Explanation {
        instance: instance.id.to_string(),
        state: known.state(),
        in_step,
        notes: notes(agent.as_ref(), program.server(), in_step),
        nics,
    })
}

fn notes(agent: Result<&Status, &server::AskError>, server: &str, in_step: bool) -> Vec<String> {
    match agent {
        Err(error) => vec![format!("nothing is put right meanwhile: {error}")],
        Ok(status) if !status.lxd.connected => vec![format!(
            "the agent does not reach {server}, and goes by what it knew: {}",
            status.lxd.error.as_deref().unwrap_or("it has just started")
        )],
        Ok(_) if !in_step => vec![
            "the agent puts right what it can within a second: ask again, or look into journalctl -u lxmesh-agent"
                .into(),
        ],
        Ok(_) => Vec::new(),
    }
}

/// What a NIC should have, and what its network should have.
type Objects = (Vec<Object>, Vec<Object>);

/// Says of objects that the agent put off that it did.
fn put_off(accounts: &mut [Objects], deferred: &[String]) {
    let objects = accounts
        .iter_mut()
        .flat_map(|(own, of_network)| own.iter_mut().chain(of_network));
    for object in objects {
        let name = format!("{} {}", object.kind, object.object);
        let more = format!("{name}: ");
        let mut whys = deferred.iter().filter_map(|line| {
            let why = line.strip_prefix(&more);
            why.or((*line == name).then_some("something else keeps undoing it"))
        });
        if let Some(why) = whys.next() {
            object.note = Some(format!("put off by the agent: {why}"));
        }
    }
}

/// Visits every kind as a pass does, and keeps what some NICs and their networks should have.
struct Account<'a> {
    look: Look<'a>,
    whole: Inputs<'a>,
    nics: &'a [&'a Nic],
    /// The host file with the NIC's network alone.
    hosts: Vec<HostFile>,
    found: Vec<Objects>,
}

impl<'a> Account<'a> {
    fn new(
        kernel: &'a mut Kernel,
        host: &'a HostFile,
        world: &'a World,
        facts: &'a crate::model::Facts,
        nics: &'a [&'a Nic],
    ) -> Self {
        let with_network_of = |nic: &&Nic| {
            let mut host = host.clone();
            host.networks.retain(|network| network.name == nic.network);
            host
        };
        Account {
            look: Look {
                kernel,
                host,
                facts,
            },
            whole: Inputs {
                host,
                nics: world.nics().unwrap_or_default(),
                refused: &world.resolved.refused,
                facts,
            },
            nics,
            hosts: nics.iter().map(with_network_of).collect(),
            found: vec![Objects::default(); nics.len()],
        }
    }

    fn take(&mut self) {
        let tables = nft_table::observe(&mut self.look);
        let elements = match &tables {
            Ok(tables) if tables.is_empty() => Ok(Table::<NftElement>::new()),
            _ => nft_element::observe(&mut self.look, &Scope::All).map(|found| found.elements),
        };
        self.add::<NftTable>(tables, &NftTable::derive(&self.whole));
        self.add::<NftElement>(elements, &NftElement::derive(&self.whole));
        visit_kinds(self);
    }

    /// Whatever a kind would want otherwise without the NIC is the NIC's; what it wants of the
    /// NIC's network without any NIC is the network's.
    fn add<K: Kind>(&mut self, observed: Result<Table<K>, KindError>, desired: &Table<K>) {
        let (whole, nics) = (self.whole, self.nics);
        let unreadable = observed.as_ref().err();
        let found = |key: &K::Key| observed.as_ref().ok()?.get(key);
        let without = K::derive(&Inputs { nics: &[], ..whole });
        for (place, nic) in nics.iter().enumerate() {
            let with = K::derive(&Inputs {
                nics: std::slice::from_ref(*nic),
                ..whole
            });
            let own = with
                .iter()
                .filter(|(key, want)| without.get(key) != Some(want));
            let own = own.filter_map(|(key, _)| {
                let want = K::share(desired.get(key)?, nic);
                let have = found(key).map(|have| K::share(have, nic));
                Some(object::<K>(key, &want, have.as_ref(), unreadable))
            });
            let own: Vec<Object> = own.collect();
            let of_network = K::derive(&Inputs {
                host: &self.hosts[place],
                nics: &[],
                ..whole
            });
            let of_network = of_network.keys().filter_map(|key| {
                let want = desired
                    .get(key)
                    .filter(|want| without.get(key) == Some(want))?;
                Some(object::<K>(key, want, found(key), unreadable))
            });
            let of_network: Vec<Object> = of_network.collect();
            self.found[place].0.extend(own);
            self.found[place].1.extend(of_network);
        }
    }
}

impl Visitor for Account<'_> {
    fn visit<K: KernelKind>(&mut self) {
        let desired = K::derive(&self.whole);
        let observed = K::observe(&mut self.look, &Scope::All, &desired);
        self.add::<K>(observed, &desired);
    }
}

fn object<K: Kind>(
    key: &K::Key,
    want: &K::Attrs,
    have: Option<&K::Attrs>,
    unreadable: Option<&KindError>,
) -> Object {
    let (state, have, note) = match (unreadable, compare(want, have)) {
        (Some(error), _) => (State::Unknown, None, Some(error.to_string())),
        (None, Found::Same) => (State::There, None, None),
        (None, Found::Missing) => (State::Missing, None, None),
        (None, Found::Other(have)) => (State::Different, Some(have.to_string()), None),
    };
    let name = Line::object::<K>(key, false);
    Object {
        kind: K::NAME,
        object: name[K::NAME.len() + 1..].to_string(),
        state,
        want: want.to_string(),
        have,
        note,
    }
}
