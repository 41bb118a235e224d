//! LXD's event stream, reduced to knocks: "read instance X again" or "read everything again".
//! What an event says happened is not believed; only its name is used.

use super::client::{LxdError, socket_error};
use super::cluster::{Identity, Place};
use super::inventory::InstanceId;
use super::wire::{self, Location};
use crate::text::{self, SENTENCE};
use futures_util::StreamExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// What to read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knock {
    Instance(InstanceId),
    /// The same, but not at once: LXD pauses an instance for a moment to take a snapshot, and its
    /// routes should not be withdrawn and announced again for that.
    InstanceSoon(InstanceId),
    Everything,
    /// Everything, and who the server is in its cluster.
    Identity,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub knocks: Vec<Knock>,
    location: Location,
    /// The instance may have come here, although another member tells of it.
    pub may_bring: bool,
}

impl Event {
    /// Whether it happened on another member of the cluster. As long as it is not known who the server is, or
    /// where it happened, it may have been here.
    pub fn is_elsewhere(&self, own: Option<&Identity>) -> bool {
        let place = own.map(|own| own.place(&self.location));
        matches!(place, Some(Place::Elsewhere(_)))
    }
}

/// An open event stream.
pub struct Events {
    stream: WebSocketStream<UnixStream>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_EVENT: usize = 1 << 20;

impl Events {
    /// Connects. Whatever happened before is not told: the caller lists everything once after.
    pub async fn open(socket: &Path) -> Result<Self, LxdError> {
        let path = "/1.0/events?type=lifecycle&all-projects=true";
        let connect = async {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|error| socket_error(socket, &error))?;
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_EVENT))
                .max_frame_size(Some(MAX_EVENT))
                .read_buffer_size(16 << 10);
            let (stream, _) =
                client_async_with_config(format!("ws://lxd{path}"), stream, Some(config))
                    .await
                    .map_err(|error| LxdError::Garbage {
                        path: path.into(),
                        why: text::shown(&error.to_string(), SENTENCE),
                    })?;
            Ok(Events { stream })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(result) => result,
            Err(_) => Err(LxdError::Timeout {
                path: path.into(),
                seconds: CONNECT_TIMEOUT.as_secs(),
            }),
        }
    }

    /// The next event. An error or the end of the stream means a gap.
    pub async fn next(&mut self) -> Result<Event, LxdError> {
        let broken = |why: String| LxdError::Garbage {
            path: "/1.0/events".into(),
            why: text::shown(&why, SENTENCE),
        };
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Ok(read(text.as_bytes())),
                Some(Ok(Message::Binary(bytes))) => return Ok(read(&bytes)),
                Some(Ok(Message::Close(_))) | None => {
                    return Err(broken("the server closed the event stream".into()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error.to_string())),
            }
        }
    }
}

/// An event that we do not understand may be anything.
pub(crate) fn read(text: &[u8]) -> Event {
    let Ok(event) = serde_json::from_slice::<wire::Event>(text) else {
        return Event {
            knocks: vec![Knock::Everything],
            location: Location::Absent,
            may_bring: false,
        };
    };
    let location = event.location.clone();
    let action = event.metadata.as_ref().map(|lifecycle| &*lifecycle.action);
    // A virtual machine that is moved while it runs is started by its new member without a word. The member
    // that it leaves says this, just before the database is changed.
    let may_bring = action == Some("instance-migrated");
    Event {
        knocks: knocks(event),
        location,
        may_bring,
    }
}

/// What one event asks us to read.
fn knocks(event: wire::Event) -> Vec<Knock> {
    if event.kind != "lifecycle" {
        return Vec::new();
    }
    let Some(lifecycle) = event.metadata else {
        return vec![Knock::Everything];
    };
    let wire::Lifecycle {
        action,
        source,
        name,
        project,
        context,
    } = lifecycle;
    // A profile's change reaches each instance by an event of its own in LXD 5.0, but not
    // everywhere; a renamed project changes every instance's identity; an access list is part of
    // every instance that refers to it.
    if matches!(
        action.as_str(),
        "profile-updated" | "profile-renamed" | "project-renamed"
    ) || action.starts_with("network-acl-")
    {
        return vec![Knock::Everything];
    }
    if matches!(
        action.as_str(),
        "cluster-enabled"
            | "cluster-disabled"
            | "cluster-member-added"
            | "cluster-member-removed"
            | "cluster-member-renamed"
    ) {
        return vec![Knock::Identity];
    }
    let Some(what) = action.strip_prefix("instance-") else {
        return Vec::new();
    };
    let harmless = [
        "exec", "console", "log", "file", "snapshot", "backup", "metadata",
    ];
    if harmless.iter().any(|prefix| what.starts_with(prefix)) {
        return Vec::new();
    }
    let project = project
        .or(event.project)
        .unwrap_or_else(|| "default".into());
    let from_source = source
        .strip_prefix("/1.0/instances/")
        .and_then(|rest| rest.split(['/', '?']).next())
        .map(str::to_string);
    let Some(name) = name.or(from_source) else {
        return vec![Knock::Everything];
    };
    let old_name = context
        .as_ref()
        .and_then(|context| context.get("old_name"))
        .and_then(|value| value.as_str())
        .map(str::to_string);
    if what == "renamed" && old_name.is_none() {
        return vec![Knock::Everything];
    }
    let knock = if what == "paused" {
        Knock::InstanceSoon
    } else {
        Knock::Instance
    };
    let named = std::iter::once(name).chain(old_name);
    let named: Vec<InstanceId> = named
        .map(|name| InstanceId {
            project: project.clone(),
            name,
        })
        .collect();
    // What cannot be asked for by name is found in a listing.
    if named.iter().any(|id| !id.is_possible()) {
        return vec![Knock::Everything];
    }
    named.into_iter().map(knock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Knock {
        Knock::Instance(InstanceId {
            project: "default".into(),
            name: name.into(),
        })
    }

    fn event(action: &str, rest: &str) -> Vec<Knock> {
        read(
            format!(r#"{{"type":"lifecycle","project":"default","metadata":{{"action":"{action}","source":"/1.0/instances/c3"{rest}}}}}"#)
                .as_bytes(),
        )
        .knocks
    }

    #[test]
    fn an_event_names_its_instance_and_a_rename_names_both() {
        assert_eq!(event("instance-started", r#","name":"c3""#), [id("c3")]);
        assert_eq!(event("instance-started", ""), [id("c3")]);
        assert_eq!(
            event(
                "instance-renamed",
                r#","name":"c5","context":{"old_name":"c4"}"#
            ),
            [id("c5"), id("c4")]
        );
        assert_eq!(
            event("instance-renamed", r#","name":"c5""#),
            [Knock::Everything]
        );
    }

    #[test]
    fn a_name_that_cannot_be_one_is_not_kept() {
        for name in [
            "x".repeat(64),
            "a\\nb".into(),
            "a\\u001b[2J".into(),
            String::new(),
        ] {
            let named = format!(r#","name":"{name}""#);
            assert_eq!(
                event("instance-started", &named),
                [Knock::Everything],
                "{name}"
            );
            assert_eq!(
                event("instance-paused", &named),
                [Knock::Everything],
                "{name}"
            );
            let project = format!(r#","name":"c3","project":"{}""#, name.repeat(4));
            assert_eq!(
                event("instance-started", &project),
                [Knock::Everything],
                "{name}"
            );
        }
        let longest = "x".repeat(63);
        assert_eq!(
            event("instance-started", &format!(r#","name":"{longest}""#)),
            [id(&longest)]
        );
    }

    #[test]
    fn a_pause_is_looked_at_only_when_it_lasts() {
        let Knock::Instance(id) = id("c3") else {
            unreachable!()
        };
        assert_eq!(event("instance-paused", ""), [Knock::InstanceSoon(id)]);
    }

    #[test]
    fn what_cannot_change_a_nic_does_not_wake_us() {
        assert_eq!(event("instance-exec", ""), []);
        assert_eq!(event("instance-snapshot-created", ""), []);
        assert_eq!(event("image-created", ""), []);
        assert_eq!(read(br#"{"type":"logging","metadata":null}"#).knocks, []);
    }

    #[test]
    fn what_is_not_understood_means_read_everything() {
        assert_eq!(read(b"{cut off").knocks, [Knock::Everything]);
        assert_eq!(event("profile-updated", ""), [Knock::Everything]);
        assert_eq!(event("network-acl-updated", ""), [Knock::Everything]);
    }

    #[test]
    fn who_the_server_is_is_asked_again_when_its_cluster_changes() {
        for action in [
            "cluster-enabled",
            "cluster-disabled",
            "cluster-member-added",
            "cluster-member-removed",
            "cluster-member-renamed",
        ] {
            assert_eq!(event(action, ""), [Knock::Identity], "{action}");
        }
        for action in ["cluster-member-updated", "cluster-token-created"] {
            assert_eq!(event(action, ""), [], "{action}");
        }
    }

    #[test]
    fn an_event_is_elsewhere_only_if_it_says_so_of_another_member() {
        let own = Identity {
            clustered: true,
            name: "m1".into(),
        };
        let alone = Identity {
            clustered: false,
            name: "m1".into(),
        };
        for (location, elsewhere) in [
            (r#","location":"m2""#, true),
            (r#","location":"m1""#, false),
            (r#","location":"none""#, false),
            (r#","location":"""#, false),
            (r#","location":null"#, false),
            (r#","location":7"#, false),
            ("", false),
        ] {
            let text = format!(
                r#"{{"type":"lifecycle","metadata":{{"action":"instance-started","name":"c3"}}{location}}}"#
            );
            let event = read(text.as_bytes());
            assert_eq!(event.knocks, [id("c3")], "{location}");
            assert_eq!(event.is_elsewhere(Some(&own)), elsewhere, "{location}");
            assert!(!event.is_elsewhere(Some(&alone)) && !event.is_elsewhere(None));
        }
        assert!(!read(b"{cut off").is_elsewhere(Some(&own)));
    }
}
