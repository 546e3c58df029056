//! The configuration of notifications.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use super::error::{ConfigError, error, error_without_value};
use super::value;
use crate::model::notification::NotificationKind;

/// The kinds that are sent by default: the ends of rotations, and what somebody should look at.
const DEFAULT_KINDS: &str =
    "rotation-complete,rotation-stopped,rotation-held,reload-taken-back,reload-failed";

/// The most messages a minute. Slack takes one a second.
const MOST_PER_MINUTE: u32 = 600;

/// The longest name of a controller.
const LONGEST_SOURCE: usize = 200;

/// The flags of notifications.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are the text of --help")]
pub(super) struct NotificationFlags {
    /// A file with the URL of a webhook that is told of rotations; no notifications unless set. The
    /// file is read for each message
    #[arg(long, value_name = "FILE")]
    notification_url_file: Option<String>,
    /// A file with headers for the webhook, one `Name: value` a line. The file is read for each
    /// message
    #[arg(long, value_name = "FILE")]
    notification_headers_file: Option<String>,
    /// A file with the CA of the webhook in PEM; the CAs of the system unless set
    #[arg(long, value_name = "FILE")]
    notification_ca_file: Option<String>,
    /// A file with a template of the JSON body; a CloudEvent unless set
    #[arg(long, value_name = "FILE")]
    notification_template_file: Option<String>,
    /// The name of this controller in notifications, such as the name of the cluster
    #[arg(long, value_name = "NAME", default_value = "vault-secrets-reloader")]
    notification_source: String,
    /// How many notifications may be sent a minute, at most 600. One message counts the others
    #[arg(long, value_name = "COUNT", default_value = "30")]
    notification_rate: String,
    /// Of what the webhook is told, separated by commas
    #[arg(long, value_name = "KINDS", default_value = DEFAULT_KINDS)]
    notify_on: String,
}

/// The settings of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notifications {
    /// The file with the URL of the webhook.
    pub url_file: PathBuf,
    /// The file with headers.
    pub headers_file: Option<PathBuf>,
    /// The file with the CA.
    pub ca_file: Option<PathBuf>,
    /// The file with the template of the body.
    pub template_file: Option<PathBuf>,
    /// The name of this controller in messages.
    pub source: String,
    /// How many messages may be sent a minute.
    pub per_minute: u32,
    /// What is told.
    pub kinds: BTreeSet<NotificationKind>,
}

/// Returns the settings of notifications. `None` if no webhook is set.
pub(super) fn notifications(
    flags: NotificationFlags,
) -> Result<Option<Notifications>, ConfigError> {
    let NotificationFlags {
        notification_url_file,
        notification_headers_file,
        notification_ca_file,
        notification_template_file,
        notification_source,
        notification_rate,
        notify_on,
    } = flags;
    let url_file = secret_file("--notification-url-file", notification_url_file)?;
    let headers_file = secret_file("--notification-headers-file", notification_headers_file)?;
    let ca_file = notification_ca_file
        .map(|file| value::file_path("--notification-ca-file", &file).map(PathBuf::from))
        .transpose()?;
    let template_file = notification_template_file.map(PathBuf::from);
    let source = source(notification_source)?;
    let per_minute = rate(&notification_rate)?;
    let kinds = kinds(&notify_on)?;
    let Some(url_file) = url_file else { return Ok(None) };
    Ok(Some(Notifications {
        url_file,
        headers_file,
        ca_file,
        template_file,
        source,
        per_minute,
        kinds,
    }))
}

/// Checks the path of a file that holds a secret. The URL of a webhook is one, and looks like a path.
fn secret_file(name: &str, file: Option<String>) -> Result<Option<PathBuf>, ConfigError> {
    let Some(file) = file else { return Ok(None) };
    if file.contains("://") {
        return Err(error_without_value(name, "holds a URL; give the path of a file with it"));
    }
    Ok(Some(value::secret_path(name, &file)?.into()))
}

/// Checks the name of the controller, which is the `source` of a `CloudEvent`: a reference to a URI.
fn source(text: String) -> Result<String, ConfigError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:/@".contains(c);
    if text.is_empty() || text.len() > LONGEST_SOURCE || !text.chars().all(is_allowed) {
        let problem = "write a name of up to 200 letters, digits and the characters -._~:/@";
        return Err(error("--notification-source", &text, problem));
    }
    Ok(text)
}

fn rate(text: &str) -> Result<u32, ConfigError> {
    match text.parse() {
        Ok(count) if (1..=MOST_PER_MINUTE).contains(&count) => Ok(count),
        _ => Err(error("--notification-rate", text, "not a whole number from 1 to 600")),
    }
}

fn kinds(text: &str) -> Result<BTreeSet<NotificationKind>, ConfigError> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let kinds: Option<BTreeSet<_>> = names.map(NotificationKind::choice).collect();
    kinds.filter(|kinds| !kinds.is_empty()).ok_or_else(|| {
        let all = NotificationKind::CHOICES.map(NotificationKind::name).join(", ");
        error("--notify-on", text, &format!("write one or more of {all}, separated by commas"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> NotificationFlags {
        NotificationFlags {
            notification_url_file: Some("/etc/hook/url".to_owned()),
            notification_headers_file: None,
            notification_ca_file: None,
            notification_template_file: None,
            notification_source: "vault-secrets-reloader".to_owned(),
            notification_rate: "30".to_owned(),
            notify_on: DEFAULT_KINDS.to_owned(),
        }
    }

    fn problem(flags: NotificationFlags) -> String {
        notifications(flags).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_file_with_a_url_switches_notifications_on() {
        let settings = notifications(flags()).unwrap().unwrap();
        assert_eq!(settings.url_file, PathBuf::from("/etc/hook/url"));
        assert_eq!((settings.kinds.len(), settings.per_minute), (5, 30));
        let off = NotificationFlags { notification_url_file: None, ..flags() };
        assert_eq!(notifications(off), Ok(None));
        let notify_on = " reloaded , rollout-failed,,reloaded".to_owned();
        let settings = notifications(NotificationFlags { notify_on, ..flags() }).unwrap().unwrap();
        let kinds: Vec<_> = settings.kinds.into_iter().map(NotificationKind::name).collect();
        assert_eq!(kinds, ["reloaded", "rollout-failed"]);
    }

    #[test]
    fn settings_that_cannot_be_used_are_refused() {
        for notify_on in ["", ",", "everything", "reloaded,rotated", "left-out"] {
            let flags = NotificationFlags { notify_on: notify_on.to_owned(), ..flags() };
            assert!(problem(flags).contains("write one or more of rotation-complete, rotation-"));
        }
        for notification_rate in ["0", "601", "-1", "x"] {
            let notification_rate = notification_rate.to_owned();
            let flags = NotificationFlags { notification_rate, ..flags() };
            assert!(problem(flags).contains("from 1 to 600"));
        }
        for notification_source in ["", "a b", "a\nb", &"a".repeat(201)] {
            let notification_source = notification_source.to_owned();
            let flags = NotificationFlags { notification_source, ..flags() };
            assert!(problem(flags).contains("--notification-source"));
        }
        // The URL itself, where the name of the file is expected, is a secret.
        let url = "https://hooks.slack.com/services/T/B/key".to_owned();
        let flags = NotificationFlags { notification_url_file: Some(url), ..flags() };
        let problem = problem(flags);
        assert!(problem.contains("give the path of a file with it") && !problem.contains("key"));
    }
}
