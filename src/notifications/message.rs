//! Messages: what the webhook is told of an event, in the form of a `CloudEvent`.
//!
//! A message holds names of workloads, paths and versions of secrets, and sentences. Each text and
//! each list in it has a limit. Templates and the built-in body show the same fields, which
//! `docs/notifications.md` lists.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use siphasher::sip::SipHasher13;

use crate::decide::hold::Hold;
use crate::events::event::{Change, Event, Held};
use crate::events::{owners, text};
use crate::model::notification::NotificationKind;
use crate::model::secret::{SecretId, Version};
use crate::model::text::shorten;
use crate::model::workload::WorkloadId;
use crate::rollouts::rotation::RotationState;

/// The start of each `CloudEvent` type.
const TYPE_PREFIX: &str = "io.bank-vaults.secrets-reloader.";

/// The longest sentence, in bytes. Slack shows 3,000 characters.
const LONGEST_TEXT: usize = 2_000;

/// What to do about a rotation. The command has no path of a tenant, because people copy commands.
const ASK_STATUS: &str = "The command `vault-secrets-reloader status secret` shows each workload";

/// The most secrets that a message lists. A workload may refer to thousands.
const MOST_SECRETS: usize = 10;

/// A message, with the attributes of a `CloudEvent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    specversion: &'static str,
    id: String,
    #[serde(serialize_with = "as_text")]
    source: Arc<str>,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    data: Data,
}

/// The content of a message. All fields are always there, so that a template can test them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Data {
    event: &'static str,
    severity: &'static str,
    title: &'static str,
    message: String,
    reason: Option<&'static str>,
    workload: Option<WorkloadName>,
    secrets: Vec<SecretVersions>,
    secrets_left_out: usize,
    rotation: Option<Rotation>,
    left_out: BTreeMap<&'static str, u64>,
    /// What the message is about, for the attribute `subject`.
    #[serde(skip)]
    subject: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct WorkloadName {
    #[serde(serialize_with = "as_text")]
    namespace: Arc<str>,
    kind: &'static str,
    #[serde(serialize_with = "as_text")]
    name: Arc<str>,
}

/// A secret, with the versions before and after a reload or rotation, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct SecretVersions {
    #[serde(serialize_with = "as_text")]
    server: Arc<str>,
    namespace: Option<String>,
    path: String,
    from: Option<u64>,
    to: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Rotation {
    from: Option<&'static str>,
    to: &'static str,
    seconds: Option<u64>,
    users: BTreeMap<&'static str, u64>,
}

/// Writes a shared text.
fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Message {
    /// Returns the message of a replica about something that happened at this time. `source` names
    /// the controller.
    pub(super) fn new(data: Data, source: Arc<str>, time: Timestamp) -> Self {
        Self {
            specversion: "1.0",
            id: id(&data, time),
            source,
            kind: format!("{TYPE_PREFIX}{}", data.event),
            subject: data.subject.clone(),
            time: time.to_string(),
            datacontenttype: "application/json",
            data,
        }
    }

    /// The name of the kind, for log lines.
    #[must_use]
    pub fn event(&self) -> &'static str {
        self.data.event
    }

    /// Returns an example of each kind. The names in them hold quotes and the like, so a template
    /// that does not escape them makes no JSON.
    pub(super) fn examples() -> Vec<Self> {
        let source: Arc<str> = "vault-secrets-reloader".into();
        let new = |data| Self::new(data, Arc::clone(&source), Timestamp::UNIX_EPOCH);
        let mut examples: Vec<_> = example_data().into_iter().map(new).collect();
        examples.push(new(Data::left_out(BTreeMap::from([("reload-held", 7)]), 60)));
        examples
    }
}

/// Returns the id of a message. All attempts to send the message have the same id, and no other
/// message has it.
fn id(data: &Data, time: Timestamp) -> String {
    let mut hasher = SipHasher13::new();
    let mut write = |part: &str| {
        hasher.write(part.as_bytes());
        hasher.write_u8(0);
    };
    write(data.event);
    write(&data.subject);
    write(&data.message);
    for SecretVersions { path, from, to, .. } in &data.secrets {
        write(path);
        write(&format!("{from:?} {to:?}"));
    }
    write(&time.to_string());
    format!("{:016x}", hasher.finish())
}

impl Data {
    /// Returns what the webhook is told of an event. `None` for an event without a notification.
    pub(super) fn of(event: &Event<'_>) -> Option<(NotificationKind, Self)> {
        use NotificationKind as Told;
        let about = |kind: Told, workload, text: String| (kind, Self::about(kind, workload, &text));
        let (kind, data) = match *event {
            Event::RotationChanged { secret, version, from, to, took, users } => {
                let rotation = Rotation {
                    from: from.map(RotationState::name),
                    to: to.name(),
                    seconds: took.as_ref().map(Duration::as_secs),
                    users: users.clone(),
                };
                return Self::about_rotation(secret, version, to, rotation);
            }
            Event::Reloaded { workload, changes, .. } => {
                let text = format!("{workload}: {}", owners::reloaded(changes));
                let (kind, data) = about(Told::Reloaded, workload, text);
                (kind, data.with_secrets(changes.iter().map(SecretVersions::changed)))
            }
            Event::RolloutEnded { workload, failure: None } => {
                let text = format!("All pods of {workload} run with the versions of its reload");
                about(Told::RolloutComplete, workload, text)
            }
            Event::RolloutEnded { workload, failure: Some(failure) } => {
                let text = format!("{workload}: {}", failure.advice());
                let (kind, data) = about(Told::RolloutFailed, workload, text);
                (kind, Self { reason: Some(failure.code()), ..data })
            }
            Event::Held { workload, hold, changed, gone } => {
                let text = text::held(workload, hold, changed, gone)?;
                let (kind, data) = about(Told::ReloadHeld, workload, text);
                let data = Self { reason: Some(reason(hold)), ..data };
                (kind, data.with_secrets(changed.iter().map(|secret| SecretVersions::of(secret))))
            }
            Event::Released { workload } => {
                let text = format!("The reload of {workload} is no longer held");
                about(Told::ReloadReleased, workload, text)
            }
            Event::TakenBack { workload, secrets, again: false, owner } if !secrets.is_empty() => {
                let text = text::taken_back(workload, secrets, owner);
                let (kind, data) = about(Told::ReloadTakenBack, workload, text);
                (kind, data.with_secrets(secrets.iter().map(|secret| SecretVersions::of(secret))))
            }
            Event::ReloadFailed { workload, error, again: false, .. } => {
                let error = shorten(error);
                let text = format!("The reload of {workload} failed, and is tried again: {error}");
                about(Told::ReloadFailed, workload, text)
            }
            _ => return None,
        };
        Some((kind, data))
    }

    /// Returns what the webhook is told of the notifications that the rate limit left out.
    pub(super) fn left_out(counts: BTreeMap<&'static str, u64>, per_minute: u32) -> Self {
        let all: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let text = format!(
            "More notifications came than --notification-rate={per_minute} lets through. Left out: \
             {}. The status and the Events of the workloads show what they told",
            all.join(", ")
        );
        let data = Self::new(NotificationKind::LeftOut, "notifications".to_owned(), &text);
        Self { left_out: counts, ..data }
    }

    /// The group that the message counts for in the rate limit: the namespace of the workload. All
    /// rotations are one group.
    pub(super) fn group(&self) -> &str {
        self.workload.as_ref().map_or("", |workload| &*workload.namespace)
    }

    fn new(kind: NotificationKind, subject: String, text: &str) -> Self {
        Self {
            event: kind.name(),
            severity: if kind.is_warning() { "warning" } else { "info" },
            title: kind.title(),
            message: limited(text),
            reason: None,
            workload: None,
            secrets: Vec::new(),
            secrets_left_out: 0,
            rotation: None,
            left_out: BTreeMap::new(),
            subject,
        }
    }

    fn about(kind: NotificationKind, workload: &WorkloadId, text: &str) -> Self {
        let WorkloadId { kind: workload_kind, namespace, name } = workload;
        let workload_name = WorkloadName {
            namespace: Arc::clone(namespace),
            kind: workload_kind.name(),
            name: Arc::clone(name),
        };
        let data = Self::new(kind, workload.to_string(), text);
        Self { workload: Some(workload_name), ..data }
    }

    fn about_rotation(
        secret: &SecretId,
        version: Option<Version>,
        state: RotationState,
        rotation: Rotation,
    ) -> Option<(NotificationKind, Self)> {
        let version = version.and_then(number);
        let number = version.map_or_else(|| "its version".to_owned(), |it| format!("version {it}"));
        let (kind, text) = match state {
            RotationState::Complete => (
                NotificationKind::RotationComplete,
                format!("Each workload that gives a signal runs with {number} of {secret}"),
            ),
            RotationState::Stopped => (
                NotificationKind::RotationStopped,
                format!(
                    "The rotation of {secret} to {number} stopped: a rollout failed, or a reload was \
                     taken back. {ASK_STATUS}"
                ),
            ),
            RotationState::Held => (
                NotificationKind::RotationHeld,
                format!(
                    "The rotation of {secret} to {number} does not go on: reloads are held. \
                     {ASK_STATUS}"
                ),
            ),
            _ => return None,
        };
        let users = rotation.users.iter().filter(|(_, count)| **count > 0);
        let users: Vec<_> = users.map(|(state, count)| format!("{count} {state}")).collect();
        let text = if users.is_empty() {
            text
        } else {
            format!("{text}. Workloads: {}", users.join(", "))
        };
        let data = Self::new(kind, shorten(&secret.to_string()), &text);
        let versions = SecretVersions { to: version, ..SecretVersions::of(secret) };
        let data = data.with_secrets(std::iter::once(versions));
        Some((kind, Self { rotation: Some(rotation), ..data }))
    }

    fn with_secrets(self, all: impl ExactSizeIterator<Item = SecretVersions>) -> Self {
        let secrets_left_out = all.len().saturating_sub(MOST_SECRETS);
        Self { secrets: all.take(MOST_SECRETS).collect(), secrets_left_out, ..self }
    }
}

impl SecretVersions {
    fn of(secret: &SecretId) -> Self {
        Self {
            server: Arc::clone(&secret.connection),
            namespace: secret.namespace.as_deref().map(shorten),
            path: shorten(&secret.path),
            from: None,
            to: None,
        }
    }

    fn changed(change: &Change) -> Self {
        let Change { secret, from, to } = change;
        Self { from: from.and_then(number), to: to.and_then(number), ..Self::of(secret) }
    }
}

/// Returns the number of a version. A missing secret has no number.
fn number(version: Version) -> Option<u64> {
    (version != Version::MISSING).then_some(version.number)
}

/// Returns the reason code of a hold, as in the status.
fn reason(hold: Held<'_>) -> &'static str {
    match hold {
        Held::Stripped { .. } => Hold::Stripped.code(),
        // The code of the other hold for the injector is rarer, and the message says which it is.
        Held::Injector(_) => Hold::InjectorAway.code(),
        Held::For(hold) => hold.code(),
    }
}

/// Returns a text, cut if it is too long.
fn limited(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(LONGEST_TEXT)])
}

/// Returns an example of each kind that can be chosen.
fn example_data() -> Vec<Data> {
    use crate::decide::plan::Cause;
    use crate::model::kind::Kind;
    use crate::model::progress::RolloutFailure;
    use crate::model::secret::DEFAULT_CONNECTION;
    use crate::model::strategy::Rollout;

    let workload = &WorkloadId {
        kind: Kind::DEPLOYMENT,
        namespace: "shop".into(),
        name: "an \"odd\" \\ name\n<!here>".into(),
    };
    let secret = Arc::new(SecretId {
        connection: DEFAULT_CONNECTION.into(),
        namespace: Some("team".into()),
        path: "secret/data/an \"odd\" \\ path <!here>".into(),
    });
    let version = |number| Some(Version { number, created: Timestamp::UNIX_EPOCH });
    let changes = &[Change { secret: Arc::clone(&secret), from: version(1), to: version(2) }];
    let secrets = &[Arc::clone(&secret)];
    let (secret, users) = (&*secret, &BTreeMap::from([("complete", 3), ("silent", 1)]));
    let (error, cause, again) = ("the API server says \"no\"", Cause::Witnessed, false);
    let (from, took) = (Some(RotationState::Running), Some(Duration::from_secs(93)));
    let version = version(2);
    let rotation = |to| Event::RotationChanged { secret, version, from, to, took, users };
    let (hold, rollout) = (Held::For(Hold::SecretGone), Rollout::Automatic);
    let events = [
        rotation(RotationState::Complete),
        rotation(RotationState::Stopped),
        rotation(RotationState::Held),
        Event::Reloaded { workload, count: 1, cause, rollout, changes, delay: None },
        Event::Held { workload, hold, changed: secrets, gone: secrets },
        Event::Released { workload },
        Event::TakenBack { workload, secrets, again, owner: None },
        Event::ReloadFailed { workload, cause, error, again },
        Event::RolloutEnded { workload, failure: None },
        Event::RolloutEnded { workload, failure: Some(RolloutFailure::FailedCreate) },
    ];
    events.iter().filter_map(Data::of).map(|(_, data)| data).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::decide::plan::Cause;
    use crate::model::fixtures::{secret, version, workload};

    fn message(event: &Event<'_>, time: Timestamp) -> Value {
        let (_, data) = Data::of(event).unwrap();
        serde_json::to_value(Message::new(data, "cluster-a".into(), time)).unwrap()
    }

    #[test]
    fn each_kind_has_an_example_and_its_name() {
        let names: Vec<_> = Message::examples().iter().map(Message::event).collect();
        let choices = NotificationKind::CHOICES.map(NotificationKind::name);
        assert_eq!(names[..10], choices);
        assert_eq!(names[10..], ["left-out"]);
        for kind in NotificationKind::CHOICES {
            assert_eq!(NotificationKind::choice(kind.name()), Some(kind));
        }
        assert_eq!(NotificationKind::choice("left-out"), None);
    }

    #[test]
    fn a_message_is_a_cloud_event() {
        let (path, users) = (secret("secret/data/mysql"), BTreeMap::from([("complete", 12)]));
        let event = Event::RotationChanged {
            secret: &path,
            version: Some(version(7, 100)),
            from: Some(RotationState::Running),
            to: RotationState::Complete,
            took: Some(Duration::from_secs(93)),
            users: &users,
        };
        let mut message = message(&event, Timestamp::UNIX_EPOCH);
        let id = message["id"].take();
        assert_eq!(id.as_str().map(str::len), Some(16));
        let text = "Each workload that gives a signal runs with version 7 of secret/data/mysql. \
                    Workloads: 12 complete";
        assert_eq!(
            message,
            json!({
                "specversion": "1.0",
                "id": null,
                "source": "cluster-a",
                "type": "io.bank-vaults.secrets-reloader.rotation-complete",
                "subject": "secret/data/mysql",
                "time": "1970-01-01T00:00:00Z",
                "datacontenttype": "application/json",
                "data": {
                    "event": "rotation-complete",
                    "severity": "info",
                    "title": "Rotation complete",
                    "message": text,
                    "reason": null,
                    "workload": null,
                    "secrets": [{
                        "server": "default",
                        "namespace": null,
                        "path": "secret/data/mysql",
                        "from": null,
                        "to": 7,
                    }],
                    "secretsLeftOut": 0,
                    "rotation": {
                        "from": "running",
                        "to": "complete",
                        "seconds": 93,
                        "users": {"complete": 12},
                    },
                    "leftOut": {},
                },
            })
        );
    }

    /// Adds the paths of all fields of a value. The keys of a map of counts are no fields.
    fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) if !path.ends_with("users") && !path.ends_with("leftOut") => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    found.insert(path.clone());
                    fields(value, &path, found);
                }
            }
            Value::Array(items) => {
                for item in items {
                    fields(item, path, found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_field_is_documented_once() {
        let page = include_str!("../../docs/notifications.md");
        let (_, page) = page.split_once("## Fields of a message").unwrap();
        let (table, _) = page.split_once("\n## ").unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        let cells = rows.filter_map(|row| row.split('|').next());
        let documented: Vec<_> = cells.flat_map(|cell| cell.trim_end().split("`, `")).collect();
        let documented: Vec<_> = documented.iter().map(|name| name.trim_matches('`')).collect();
        let mut found = BTreeSet::new();
        for example in Message::examples() {
            fields(&serde_json::to_value(example).unwrap(), "", &mut found);
        }
        found.remove("data");
        let once: BTreeSet<String> = documented.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!((once, documented.len()), (found.clone(), found.len()));
    }

    #[test]
    fn ids_differ_by_what_is_told_and_when() {
        let (web, api) = (workload("web", &["a"]).id, workload("api", &["a"]).id);
        let second = |second| Timestamp::from_second(second).unwrap();
        let id = |event: &Event<'_>, time| message(event, second(time))["id"].clone();
        let of = |workload| Event::ReloadFailed {
            workload,
            cause: Cause::Found,
            error: "no",
            again: false,
        };
        assert_eq!(id(&of(&web), 1), id(&of(&web), 1));
        assert_ne!(id(&of(&web), 1), id(&of(&web), 2));
        assert_ne!(id(&of(&web), 1), id(&of(&api), 1));
        let failure = None;
        assert_ne!(id(&of(&web), 1), id(&Event::RolloutEnded { workload: &web, failure }, 1));
    }

    #[test]
    fn texts_of_tenants_and_lists_have_an_end() {
        let web = workload("web", &["a"]).id;
        let secrets: Vec<_> = (0..500).map(|_| secret(&"ä".repeat(2_000))).collect();
        let event =
            Event::TakenBack { workload: &web, secrets: &secrets, again: false, owner: None };
        let message = message(&event, Timestamp::UNIX_EPOCH);
        assert_eq!(message["data"]["secrets"].as_array().map(Vec::len), Some(10));
        assert_eq!(message["data"]["secretsLeftOut"], 490);
        assert!(message.to_string().len() < 10_000, "{}", message.to_string().len());
        let again =
            Event::TakenBack { workload: &web, secrets: &secrets, again: true, owner: None };
        assert!(Data::of(&again).is_none());
    }
}
