//! The conversation with LXD, apart from everything else: however slow or broken LXD is, the
//! kernel is kept in order with what was last known. Events and the daemon ask for instances or a
//! listing; what was read goes to the daemon.

use super::whereabouts::Whereabouts;
use crate::dhcp::at;
use crate::lxd::events::{Events, Knock};
use crate::lxd::{Answer, Client, InstanceId, Listing, LxdError, Presence, Program, sockets};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What has been learned of LXD.
#[derive(Debug)]
pub enum Update {
    /// LXD answers; its name and version.
    Connected(String),
    /// What was answered about one instance.
    Instance(InstanceId, Answer),
    /// The last answer says that it runs here, and was asked for after the daemon wanted that confirmed.
    Confirmed(InstanceId),
    /// Every instance that a listing names. What it does not name may still be there.
    Listing(Listing),
    /// What was known stays in force.
    Failed(LxdError),
}

impl Update {
    /// Whether something in it could not be understood that may be understood soon.
    fn is_provisional(&self) -> bool {
        match self {
            Update::Instance(_, Answer::Unread(unread)) => unread.try_again,
            Update::Listing(listing) => listing.unread.iter().any(|unread| unread.try_again),
            Update::Connected(_)
            | Update::Instance(..)
            | Update::Confirmed(_)
            | Update::Failed(_) => false,
        }
    }
}

/// What the daemon asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Instances(BTreeSet<InstanceId>),
    /// The same, and [`Update::Confirmed`] if they run here, by answers that begin from now on.
    Confirm(BTreeSet<InstanceId>),
    Everything,
}

/// How many instances are read at the same time.
const CONCURRENT_READS: usize = 4;
/// Of these, so many may be such that have failed before.
const FAILING_READS: usize = 2;
/// Events that name more instances than this, while none of them is read, ask for all of them.
const MAX_WAITING: usize = 256;
/// A pause shorter than this is a snapshot's.
const PAUSE_GRACE: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(20);

/// Runs for ever. Ends when the daemon drops its ends of the channels.
pub async fn run(
    configured: Option<PathBuf>,
    mut asks: mpsc::Receiver<Ask>,
    updates: mpsc::Sender<Update>,
) {
    let mut past = Past {
        retry: FIRST_RETRY,
        program: None,
        whereabouts: Whereabouts::default(),
    };
    loop {
        match serve(configured.as_deref(), &mut asks, &updates, &mut past).await {
            Ok(()) => return,
            Err(error) => {
                if updates.send(Update::Failed(error)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(jittered(past.retry)).await;
        past.retry = (past.retry * 2).min(LONGEST_RETRY);
    }
}

/// What one connection leaves to the next.
struct Past {
    /// How long it waits.
    retry: Duration,
    /// Whose socket the agent has found for itself.
    program: Option<Program>,
    whereabouts: Whereabouts,
}

/// Up to a quarter more, so that a fleet does not act in step.
pub fn jittered(duration: Duration) -> Duration {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    duration + duration.mul_f64((random % 1000) as f64 / 4000.0)
}

/// One connection: until LXD fails (error) or the daemon is gone (Ok).
async fn serve(
    configured: Option<&std::path::Path>,
    asks: &mut mpsc::Receiver<Ask>,
    updates: &mpsc::Sender<Update>,
    past: &mut Past,
) -> Result<(), LxdError> {
    let Past {
        retry,
        program,
        whereabouts,
    } = past;
    let (socket, whose) = sockets::find(configured, *program)?;
    let client = Client::new(&socket)?;
    let server = client.identify().await?;
    let mut events = Events::open(&socket).await?;
    let mut reads = Reads::new(client.clone());
    // Whatever happened while nobody listened.
    reads.list();
    // Reads that waited have ended with the connection.
    for id in whereabouts.arriving() {
        reads.soon(id.clone());
    }
    let mut said_hello = false;
    loop {
        let due = reads.due();
        let mut out = tokio::select! {
            ask = asks.recv() => match ask {
                None => return Ok(()),
                Some(Ask::Instances(ids)) => { reads.instances(ids); continue }
                Some(Ask::Confirm(ids)) => { reads.confirm(ids); continue }
                Some(Ask::Everything) => { reads.list(); continue }
            },
            event = events.next() => {
                for knock in whereabouts.heed(event?, client.identity().as_ref()) {
                    reads.follow(knock);
                }
                continue
            }
            () = at(due) => { reads.start_delayed(); continue }
            update = reads.next() => match update {
                Ok((what, mut update)) => {
                    if let Update::Listing(listing) = &mut update {
                        reads.ask_again_of_older(listing);
                        reads.give_up(listing.elsewhere.ids());
                    }
                    for (id, pause) in whereabouts.learn(&update) {
                        reads.after(id, pause);
                    }
                    // A part of the answer was bad, and may be good soon: slowly, too.
                    if update.is_provisional() {
                        reads.again_later(what);
                    }
                    let confirmed = reads.confirmed.take().map(Update::Confirmed);
                    [update].into_iter().chain(confirmed).collect()
                }
                // Its member may be away for long, and what is not here matters to nobody here.
                Err((What::One(id), _)) if whereabouts.is_given_up(&id) => {
                    reads.give_up([&id]);
                    continue
                }
                Err((what, error)) => {
                    // The connection may be fine and one answer bad: try that again, slowly.
                    reads.again_later(what);
                    vec![Update::Failed(error)]
                }
            },
        };
        if !said_hello && !matches!(out[0], Update::Failed(_)) {
            said_hello = true;
            *retry = FIRST_RETRY;
            *program = whose.or(*program);
            out.insert(0, Update::Connected(server.clone()));
        }
        for update in out {
            if updates.send(update).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// What is being read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Listing,
    One(InstanceId),
}

type ReadResult = (What, Result<Update, LxdError>);

/// Whether an answer says that the instance runs here.
fn says_up(result: &Result<Update, LxdError>) -> bool {
    let Ok(Update::Instance(_, answer)) = result else {
        return false;
    };
    let instance = match answer {
        Answer::There(instance) => Some(instance),
        Answer::Unread(unread) => unread.but_acls.as_deref(),
        Answer::Gone | Answer::Elsewhere(_) => None,
    };
    instance.is_some_and(|instance| instance.presence == Presence::Up)
}

/// Reads under way, and those that wait for them. Nothing is read twice at the same time: an ask
/// for what is under way means reading it once more afterwards.
struct Reads {
    client: Client,
    running: JoinSet<ReadResult>,
    instances_running: BTreeSet<InstanceId>,
    listing_running: bool,
    instances_waiting: BTreeSet<InstanceId>,
    listing_waiting: bool,
    /// Reads to be tried again, or to wait for a moment, each with its time.
    delayed: BTreeMap<What, Instant>,
    /// Instances of which something was answered while all of them were being listed, which may take half a minute
    /// in a cluster: what the listing says of them may be from before.
    read_meanwhile: BTreeSet<InstanceId>,
    /// Of these it is to be confirmed that they run here: not yet asked for since, and asked for.
    to_confirm: BTreeSet<InstanceId>,
    confirming: BTreeSet<InstanceId>,
    /// What the read that `next` returned last confirms.
    confirmed: Option<InstanceId>,
    /// How long each that failed waits the next time: until it succeeds itself, whatever else does.
    pauses: BTreeMap<What, Duration>,
}

impl Reads {
    fn new(client: Client) -> Self {
        Reads {
            client,
            running: JoinSet::new(),
            instances_running: BTreeSet::new(),
            listing_running: false,
            instances_waiting: BTreeSet::new(),
            listing_waiting: false,
            delayed: BTreeMap::new(),
            read_meanwhile: BTreeSet::new(),
            to_confirm: BTreeSet::new(),
            confirming: BTreeSet::new(),
            confirmed: None,
            pauses: BTreeMap::new(),
        }
    }

    /// Reads what an event asks for; everything, if too much waits already. What the daemon asks for
    /// is bounded by what it knows, and an instance that is gone has to be asked for by name.
    fn follow(&mut self, knock: Knock) {
        let many = self.instances_waiting.len() + self.delayed.len() >= MAX_WAITING;
        match knock {
            Knock::Instance(id) if !many => self.instances([id]),
            Knock::InstanceSoon(id) if !many => self.soon(id),
            Knock::Identity => {
                self.client.doubt_identity();
                self.list();
            }
            Knock::Instance(_) | Knock::InstanceSoon(_) | Knock::Everything => self.list(),
        }
    }

    fn instances(&mut self, ids: impl IntoIterator<Item = InstanceId>) {
        self.instances_waiting.extend(ids);
        self.start();
    }

    fn list(&mut self) {
        self.listing_waiting = true;
        self.start();
    }

    fn start(&mut self) {
        if self.listing_waiting && !self.listing_running {
            (self.listing_waiting, self.listing_running) = (false, true);
            self.read_meanwhile.clear();
            let client = self.client.clone();
            self.running.spawn(async move {
                (What::Listing, client.instances().await.map(Update::Listing))
            });
        }
        // Those that have failed may take as long as a read may, and do not keep others from being read.
        let fails = |id: &&InstanceId| self.pauses.contains_key(&What::One((*id).clone()));
        let failing = self.instances_running.iter().filter(fails).count();
        let waiting = self.instances_waiting.difference(&self.instances_running);
        let (slow, first): (Vec<_>, Vec<_>) = waiting.partition(fails);
        let slow = slow.into_iter().take(FAILING_READS.saturating_sub(failing));
        let ready: Vec<InstanceId> = first
            .into_iter()
            .chain(slow)
            .take(CONCURRENT_READS.saturating_sub(self.instances_running.len()))
            .cloned()
            .collect();
        for id in ready {
            self.instances_waiting.remove(&id);
            self.instances_running.insert(id.clone());
            if self.to_confirm.remove(&id) {
                self.confirming.insert(id.clone());
            }
            let client = self.client.clone();
            self.running.spawn(async move {
                let result = client.instance(&id).await;
                let result = result.map(|answer| Update::Instance(id.clone(), answer));
                (What::One(id), result)
            });
        }
    }

    /// The next finished read; pending while there is none.
    async fn next(&mut self) -> Result<(What, Update), (What, LxdError)> {
        loop {
            match self.running.join_next().await {
                None => std::future::pending::<()>().await,
                Some(Err(_cancelled)) => {}
                Some(Ok((what, result))) => {
                    match &what {
                        What::Listing => {
                            self.listing_running = false;
                            self.confirmed = None;
                        }
                        What::One(id) => {
                            self.instances_running.remove(id);
                            let confirms = self.confirming.remove(id) && says_up(&result);
                            self.confirmed = confirms.then(|| id.clone());
                            if self.listing_running {
                                self.read_meanwhile.insert(id.clone());
                            }
                            // It came since: what is asked next says so.
                            let says_elsewhere =
                                matches!(result, Ok(Update::Instance(_, Answer::Elsewhere(_))));
                            if says_elsewhere && self.instances_waiting.contains(id) {
                                self.start();
                                continue;
                            }
                        }
                    }
                    self.start();
                    if result.as_ref().is_ok_and(|update| !update.is_provisional()) {
                        self.pauses.remove(&what);
                    }
                    return match result {
                        Ok(update) => Ok((what, update)),
                        Err(error) => Err((what, error)),
                    };
                }
            }
        }
    }

    /// Reads instances, to say which run here by answers that begin from now on.
    fn confirm(&mut self, ids: BTreeSet<InstanceId>) {
        self.to_confirm.extend(ids.iter().cloned());
        self.instances(ids);
    }

    /// What was read by name while all were listed is asked for by name once more: the listing may be older.
    fn ask_again_of_older(&mut self, listing: &mut Listing) {
        listing.older = std::mem::take(&mut self.read_meanwhile);
        self.instances(listing.older.iter().cloned());
    }

    /// No longer asks for those that could not be read.
    fn give_up<'a>(&mut self, ids: impl IntoIterator<Item = &'a InstanceId>) {
        if self.pauses.is_empty() {
            return;
        }
        for id in ids {
            let what = What::One(id.clone());
            if self.pauses.remove(&what).is_some() {
                self.delayed.remove(&what);
            }
        }
    }

    fn again_later(&mut self, what: What) {
        let pause = self.pauses.entry(what.clone()).or_insert(FIRST_RETRY);
        self.delayed.insert(what, Instant::now() + jittered(*pause));
        *pause = (*pause * 2).min(LONGEST_RETRY);
    }

    /// Reads an instance when what happened to it has lasted for a second.
    fn soon(&mut self, id: InstanceId) {
        self.after(id, PAUSE_GRACE);
    }

    fn after(&mut self, id: InstanceId, pause: Duration) {
        let due = Instant::now() + pause;
        let waits = self.delayed.entry(What::One(id)).or_insert(due);
        *waits = due.max(*waits);
    }

    /// When the first of those that wait is to be read.
    fn due(&self) -> Option<Instant> {
        self.delayed.values().min().copied()
    }

    fn start_delayed(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(_, due)| *due <= now);
        self.delayed = later;
        let due: BTreeMap<What, Instant> = due;
        for what in due.into_keys() {
            match what {
                What::Listing => self.list(),
                What::One(id) => self.instances([id]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxd::Unread;

    fn id(number: usize) -> InstanceId {
        InstanceId::of("default", &format!("c{number}"))
    }

    /// Reads of a server that is never asked: all places are taken.
    fn reads() -> Reads {
        let client = Client::new(std::path::Path::new("/nonexistent")).unwrap();
        let mut reads = Reads::new(client);
        reads.instances_running = (0..CONCURRENT_READS).map(|n| id(100_000 + n)).collect();
        reads.listing_running = true;
        reads
    }

    #[test]
    fn events_that_cannot_be_followed_ask_for_everything_once() {
        let mut reads = reads();
        for n in 0..10_000 {
            let knock = match n % 2 {
                0 => Knock::Instance(id(n)),
                _ => Knock::InstanceSoon(id(n)),
            };
            reads.follow(knock);
        }
        assert_eq!(
            reads.instances_waiting.len() + reads.delayed.len(),
            MAX_WAITING
        );
        assert!(reads.listing_waiting);
        // What the daemon asks for is asked for by name all the same: a listing would not tell.
        reads.instances((0..1000).map(id));
        assert!(reads.instances_waiting.contains(&id(999)));
    }

    /// A listing that some entry of keeps from being whole is not read the oftener for all that goes well.
    #[tokio::test]
    async fn what_fails_is_tried_again_ever_more_slowly_until_it_succeeds_itself() {
        let listing = |try_again: bool| {
            let mut unread = Unread::because(id(1), String::new());
            unread.try_again = try_again;
            let listing = Listing {
                unread: vec![unread],
                ..Listing::default()
            };
            (What::Listing, Ok(Update::Listing(listing)))
        };
        let one = |n: usize, well: bool| {
            let result = match well {
                true => Ok(Update::Instance(id(n), Answer::Gone)),
                false => Err(LxdError::Timeout {
                    path: String::new(),
                    seconds: 20,
                }),
            };
            (What::One(id(n)), result)
        };
        let mut reads = reads();
        // How often each of them in turn doubles its pause.
        for (result, what, doublings) in [
            (listing(true), What::Listing, Some(1)),
            (one(1, true), What::Listing, Some(1)),
            (one(2, false), What::Listing, Some(1)),
            (listing(true), What::Listing, Some(2)),
            (one(2, false), What::One(id(2)), Some(2)),
            (one(1, true), What::One(id(2)), Some(2)),
            (listing(false), What::Listing, None),
            (listing(false), What::One(id(2)), Some(2)),
            (one(2, true), What::One(id(2)), None),
        ] {
            reads.running.spawn(async move { result });
            match reads.next().await {
                Ok((what, update)) if update.is_provisional() => reads.again_later(what),
                Ok(_) => {}
                Err((what, _)) => reads.again_later(what),
            }
            let pause = doublings.map(|times| FIRST_RETRY * 2u32.pow(times));
            assert_eq!(reads.pauses.get(&what), pause.as_ref(), "{what:?}");
        }
        for _ in 0..100 {
            reads.again_later(What::Listing);
        }
        assert_eq!(reads.pauses[&What::Listing], LONGEST_RETRY);
        let waits = reads.delayed[&What::Listing] - Instant::now();
        assert!(waits > LONGEST_RETRY / 2, "{waits:?}");
        // What waits longer does not wait for the others, nor they for it.
        assert!(reads.due().unwrap() < Instant::now() + LONGEST_RETRY / 2);
    }

    fn instance(number: usize) -> crate::lxd::Instance {
        let entry = format!(
            r#"{{"name":"c{number}","status_code":103,"expanded_config":{{}},"expanded_devices":{{}}}}"#
        );
        let entry = serde_json::value::RawValue::from_string(entry).unwrap();
        crate::lxd::inventory::read(&entry).unwrap()
    }

    /// What was asked for before does not know what the daemon has seen since.
    #[tokio::test]
    async fn only_an_answer_that_begins_after_the_question_confirms() {
        let mut reads = reads();
        reads.instances_running.insert(id(1));
        reads.confirm([id(1)].into());
        let answer = |reads: &mut Reads, answer: Answer| {
            reads
                .running
                .spawn(async move { (What::One(id(1)), Ok(Update::Instance(id(1), answer))) });
        };
        answer(&mut reads, Answer::There(instance(1)));
        reads.next().await.unwrap();
        assert_eq!(reads.confirmed, None);
        // That one began since.
        for (said, confirms) in [
            (Answer::Gone, false),
            (Answer::There(instance(1)), true),
            (Answer::Elsewhere("m2".into()), false),
        ] {
            reads.running.abort_all();
            while reads.running.join_next().await.is_some() {}
            reads.instances_waiting.clear();
            reads.to_confirm.clear();
            reads.confirming.insert(id(1));
            answer(&mut reads, said);
            reads.next().await.unwrap();
            assert_eq!(reads.confirmed.is_some(), confirms);
        }
        // Nor does one that nobody has asked to confirm.
        answer(&mut reads, Answer::There(instance(1)));
        reads.next().await.unwrap();
        assert_eq!(reads.confirmed, None);
    }

    /// A listing takes as long as the slowest member of a cluster.
    #[tokio::test]
    async fn what_was_read_by_name_during_a_listing_is_asked_for_once_more() {
        let mut reads = reads();
        for (n, answer) in [
            (1, Answer::There(instance(1))),
            (2, Answer::Gone),
            (4, Answer::Elsewhere("m2".into())),
        ] {
            let update = Update::Instance(id(n), answer);
            reads
                .running
                .spawn(async move { (What::One(id(n)), Ok(update)) });
            reads.next().await.unwrap();
        }
        let mut listing = Listing::default();
        reads.ask_again_of_older(&mut listing);
        assert_eq!(listing.older, [1, 2, 4].map(id).into());
        assert_eq!(reads.instances_waiting, listing.older);
        // Once.
        reads.instances_waiting.clear();
        reads.ask_again_of_older(&mut listing);
        assert!(listing.older.is_empty() && reads.instances_waiting.is_empty());
    }

    #[tokio::test]
    async fn that_an_instance_is_elsewhere_is_not_said_while_it_is_asked_for_again() {
        let mut reads = reads();
        reads.instances_waiting.insert(id(1));
        for n in [1, 2] {
            let update = Update::Instance(id(n), Answer::Elsewhere("m2".into()));
            reads
                .running
                .spawn(async move { (What::One(id(n)), Ok(update)) });
        }
        let told = reads.next().await.unwrap();
        assert!(
            matches!(&told.1, Update::Instance(who, _) if *who == id(2)),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn those_that_fail_do_not_keep_others_from_being_read() {
        let mut reads = reads();
        reads.instances_running.clear();
        for n in 0..10 {
            reads.again_later(What::One(id(n)));
        }
        reads.instances((0..10).map(id));
        assert_eq!(reads.instances_running.len(), FAILING_READS);
        reads.instances([id(99)]);
        assert!(reads.instances_running.contains(&id(99)));
        // Of what is elsewhere nobody needs to know more.
        let gone = [id(3), id(4)];
        reads.give_up(&gone);
        for what in gone.map(What::One) {
            assert!(!reads.pauses.contains_key(&what) && !reads.delayed.contains_key(&what));
        }
        assert_eq!((reads.pauses.len(), reads.delayed.len()), (8, 8));
    }

    #[test]
    fn an_instance_that_is_paused_again_and_again_waits_once() {
        let mut reads = reads();
        for _ in 0..1000 {
            reads.follow(Knock::InstanceSoon(id(1)));
        }
        assert_eq!(reads.delayed.len(), 1);
        assert!(!reads.listing_waiting);
    }
}
