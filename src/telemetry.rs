//! Log lines: logfmt or JSON, with the keys that users of this controller search for.
//!
//! `time=… level=… msg=… app=vault-secrets-reloader worker=…`; debug and info go to stdout, warn
//! and error to stderr. Only lines of this crate are written, since lines of libraries may hold
//! secrets.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::str::FromStr;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Span, Subscriber, error_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// The value of `app` in every line.
const APP: &str = "vault-secrets-reloader";

/// The prefix of the targets of this crate's lines.
const TARGET: &str = "vault_secrets_reloader";

/// The lowest level of lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Debug,
    /// Changes of state, and one line a poll.
    Info,
    /// States that somebody should look at.
    Warn,
    /// Failures.
    Error,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The lowest level of lines that are written.
    pub level: Level,
    /// Whether lines are JSON; otherwise they are logfmt.
    pub json: bool,
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            _ => Err(()),
        }
    }
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::DEBUG,
            Level::Info => Self::INFO,
            Level::Warn => Self::WARN,
            Level::Error => Self::ERROR,
        }
    }
}

/// Starts writing log lines.
pub fn init(settings: Settings) -> Result<(), TryInitError> {
    let filter = Targets::new().with_target(TARGET, tracing::Level::from(settings.level));
    let lines = Lines { json: settings.json, writer: Streams };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()
}

/// The layer that writes the lines.
struct Lines<W> {
    json: bool,
    writer: W,
}

/// Stdout or stderr, by level.
struct Streams;

impl<'a> MakeWriter<'a> for Streams {
    type Writer = Box<dyn Write>;

    fn make_writer(&'a self) -> Self::Writer {
        Box::new(io::stdout())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        if *meta.level() <= tracing::Level::WARN {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        }
    }
}

/// Returns a span that adds the name of a server to its lines. The default server has no such span.
#[must_use]
pub fn of_server(name: &str) -> Span {
    // Spans of the error level are enabled at each log level.
    error_span!("server", server = name)
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.others.extend(of_span.others.iter().cloned());
            }
        }
        let line = line(Timestamp::now(), *event.metadata().level(), fields, self.json);
        // A log that cannot be written does not stop reloads.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    worker: Option<String>,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "worker" => self.worker = Some(value.to_owned()),
            name => self.others.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn line(time: Timestamp, level: tracing::Level, fields: Fields, json: bool) -> String {
    let level = level.as_str().to_ascii_lowercase();
    let mut pairs = vec![
        ("time", format!("{time:.3}")),
        ("level", level),
        ("msg", fields.message),
        ("app", APP.to_owned()),
    ];
    pairs.extend(fields.worker.map(|worker| ("worker", worker)));
    pairs.extend(fields.others);
    let mut line = if json {
        // Written by hand to keep the order of the keys. A string always has a JSON form.
        let members: Vec<String> = pairs
            .iter()
            .map(|(key, value)| format!("{key:?}:{}", serde_json::Value::from(value.as_str())))
            .collect();
        format!("{{{}}}", members.join(","))
    } else {
        let pairs: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{key}={}", logfmt(value))).collect();
        pairs.join(" ")
    };
    line.push('\n');
    line
}

/// Formats a value for logfmt, with quotes where they are needed.
fn logfmt(value: &str) -> String {
    let is_bare = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(is_bare) {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(message: &str, json: bool) -> String {
        let fields = Fields {
            message: message.to_owned(),
            worker: Some("reloader".to_owned()),
            others: vec![("cause", "witnessed".to_owned())],
        };
        line("2026-11-22T05:51:00.1234Z".parse().unwrap(), tracing::Level::ERROR, fields, json)
    }

    #[test]
    fn logfmt_has_the_keys_that_users_grep_for() {
        assert_eq!(
            written("Vault secret path secret/data/mysql not found", false),
            "time=2026-11-22T05:51:00.123Z level=error \
             msg=\"Vault secret path secret/data/mysql not found\" app=vault-secrets-reloader \
             worker=reloader cause=witnessed\n"
        );
    }

    /// A writer that keeps all bytes.
    #[derive(Clone, Default)]
    struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_another_server_name_it_at_each_level() {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = Lines { json: false, writer: move || writer.clone() };
        let filter = Targets::new().with_target(TARGET, tracing::Level::ERROR);
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            of_server("team-b").in_scope(|| tracing::error!(worker = "reloader", "of b"));
            tracing::error!(worker = "reloader", "of the default one");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let ends: Vec<_> = text.lines().map(|line| line.split_once("msg=").unwrap().1).collect();
        assert_eq!(
            ends,
            [
                "\"of b\" app=vault-secrets-reloader worker=reloader server=team-b",
                "\"of the default one\" app=vault-secrets-reloader worker=reloader",
            ]
        );
    }

    #[test]
    fn json_has_the_same_keys() {
        let line = written("a \"b\"\n", true);
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], "a \"b\"\n");
        assert_eq!(value["level"], "error");
        assert_eq!(value["worker"], "reloader");
    }

    #[test]
    fn a_value_never_breaks_out_of_its_line() {
        for (value, expected) in [
            ("", "\"\""),
            ("plain", "plain"),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("a\nlevel=error", "\"a\\nlevel=error\""),
            ("say \"x\"", "\"say \\\"x\\\"\""),
            ("\u{1b}[31m", "\"\\u001b[31m\""),
        ] {
            assert_eq!(logfmt(value), expected);
        }
    }
}
