//! The body of a message: a template of the operator, or the built-in `CloudEvent`.
//!
//! A template prints each value as JSON, so a text of a tenant cannot leave its place. A template that
//! does not make JSON of all examples is refused at the start. The work and the size of a body have
//! limits.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::de::IgnoredAny;

use super::message::Message;
use crate::model::text::shorten;

/// The longest template, in bytes. The ready ones have 2 KB.
pub const LONGEST_TEMPLATE: u64 = 64 << 10;

/// The longest body, in bytes. A message has 10 KB at most, and services refuse long bodies.
const LONGEST_BODY: usize = 64 << 10;

/// The most work to make one body: about 100,000 steps, or 6 MB of text. The ready templates take
/// less than a hundredth.
const FUEL: u64 = 100_000;

/// The deepest nesting at the time of rendering.
const DEEPEST: usize = 100;

/// The content type of the built-in body.
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// The content type of the body of a template, unless the headers of the operator set another.
const JSON: &str = "application/json";

/// What makes bodies.
pub struct Template {
    /// The template, and its name; `None` for the built-in body.
    file: Option<(Environment<'static>, String)>,
}

/// A body to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) text: String,
}

/// A template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template has a syntax error. The error names the file and the line.
    #[error("--notification-template-file: {0}. Correct the template: docs/notifications.md")]
    Syntax(String),
    /// The template makes no body of an example.
    #[error("--notification-template-file={file}: no body for {event}: {problem}")]
    Example {
        /// The file.
        file: String,
        /// The event of the example.
        event: &'static str,
        /// What is wrong, and what to do.
        problem: BodyError,
    },
}

/// A template makes no body of a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The template cannot be rendered. The error names the file and the line.
    #[error("{0}. docs/notifications.md lists the fields of a message")]
    Render(String),
    /// The body is not JSON.
    #[error(
        "the text is not JSON: {0}. Put no quotes around {{{{ }}}}, which prints JSON, and do not use \
         the filter safe"
    )]
    NotJson(String),
    /// The body is too long.
    #[error("the text has {0} bytes, more than {max}. Make the template shorter", max = LONGEST_BODY)]
    TooLong(usize),
}

impl Template {
    /// Returns the built-in body.
    #[must_use]
    pub fn built_in() -> Self {
        Self { file: None }
    }

    /// Compiles the text of a file, and renders an example of each event.
    pub fn compile(file: &str, text: String) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Json);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEEPEST);
        environment
            .add_template_owned(file.to_owned(), text)
            .map_err(|error| TemplateError::Syntax(shorten(&error.to_string())))?;
        let template = Self { file: Some((environment, file.to_owned())) };
        for example in Message::examples() {
            template.body(&example).map_err(|problem| TemplateError::Example {
                file: file.to_owned(),
                event: example.event(),
                problem,
            })?;
        }
        Ok(template)
    }

    /// Returns the body of a message.
    pub(super) fn body(&self, message: &Message) -> Result<Body, BodyError> {
        let Some((environment, name)) = &self.file else {
            return Ok(built_in(message));
        };
        let rendered = environment.get_template(name);
        let rendered = rendered.and_then(|template| template.render(Serde(message)));
        let text = rendered.map_err(|error| BodyError::Render(shorten(&error.to_string())))?;
        if text.len() > LONGEST_BODY {
            return Err(BodyError::TooLong(text.len()));
        }
        match serde_json::from_str::<IgnoredAny>(&text) {
            Ok(_) => Ok(Body { content_type: JSON, text }),
            Err(error) => Err(BodyError::NotJson(shorten(&error.to_string()))),
        }
    }
}

/// Returns the built-in body: the message as a `CloudEvent` in structured mode.
pub(super) fn built_in(message: &Message) -> Body {
    // A message holds texts and numbers, so that it can always be written.
    let text = serde_json::to_string(message).unwrap_or_default();
    Body { content_type: CLOUD_EVENT, text }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.file.as_ref().map_or("built-in", |(_, name)| name.as_str());
        f.debug_tuple("Template").field(&name).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::notification::NotificationKind;

    const SLACK: &str = include_str!("../../deploy/notifications/slack.json.j2");
    const TEAMS: &str = include_str!("../../deploy/notifications/teams.json.j2");
    const CLOUD_EVENTS: &str = include_str!("../../deploy/notifications/cloudevents.json.j2");

    /// Returns the bodies of all examples, each with its message.
    fn bodies(text: &str) -> Vec<(Value, Value)> {
        let template = Template::compile("a.json.j2", text.to_owned()).unwrap();
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let of = |message: &Message| {
            let body = template.body(message).unwrap();
            assert_eq!(body.content_type, JSON);
            (parse(&body.text), parse(&built_in(message).text))
        };
        Message::examples().iter().map(of).collect()
    }

    fn refusal(text: &str) -> String {
        let refused = Template::compile("/etc/a.json.j2", text.to_owned());
        refused.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_built_in_body_and_its_template_are_the_same() {
        assert!(bodies(CLOUD_EVENTS).iter().all(|(body, message)| body == message));
        let example = &Message::examples()[0];
        assert_eq!(Template::built_in().body(example).unwrap().content_type, CLOUD_EVENT);
    }

    #[test]
    fn slack_gets_plain_text() {
        let all = bodies(SLACK);
        assert_eq!(all.len(), NotificationKind::CHOICES.len() + 1);
        for (body, message) in all {
            let text = body["text"].as_str().unwrap();
            assert!(!text.contains(['<', '>']), "a mention would tell everybody: {text}");
            assert!(text.starts_with(message["data"]["title"].as_str().unwrap()), "{text}");
            assert_eq!(body["blocks"][1]["text"]["text"], message["data"]["message"]);
            let blocks = body["blocks"].as_array().unwrap();
            let texts = blocks.iter().map(|block| match &block["elements"] {
                Value::Null => &block["text"],
                elements => &elements[0],
            });
            for text in texts {
                assert_eq!(text["type"], "plain_text");
                let length = text["text"].as_str().unwrap().chars().count();
                assert!((1..=3_000).contains(&length), "{length}");
            }
        }
    }

    #[test]
    fn teams_gets_an_adaptive_card_without_markdown() {
        for (body, message) in bodies(TEAMS) {
            assert_eq!(body["type"], "message");
            let attachment = &body["attachments"][0];
            assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
            let card = &attachment["content"];
            assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.2")));
            assert_eq!(card["body"][1]["inlines"][0]["text"], message["data"]["message"]);
            for block in card["body"].as_array().unwrap() {
                assert_eq!(block["type"], "RichTextBlock");
                assert_eq!(block["inlines"][0]["type"], "TextRun");
            }
        }
    }

    #[test]
    fn a_template_that_cannot_be_used_is_refused_with_file_line_and_remedy() {
        let table = [
            ("{\n\"a\": {{ id }", "(in /etc/a.json.j2:2)"),
            ("{\n\"a\": {{ data.unknown }}}", "(in /etc/a.json.j2:2)"),
            ("{\n\"a\": {{ unknown }}}", "docs/notifications.md"),
            ("{\"a\": {{ id | unknown }}}", "(in /etc/a.json.j2:1)"),
            ("{% include \"/etc/passwd\" %}", "/etc/a.json.j2"),
            ("", "the text is not JSON"),
            ("{\"a\": {{ id }}, }", "the text is not JSON"),
            ("{\"a\": \"{{ data.message }}\"}", "Put no quotes around {{ }}, which prints JSON"),
            // A name of the example has quotes.
            ("{\"a\": \"{{ subject | safe }}\"}", "do not use the filter safe"),
            ("{{ \"x\" * 100000 }}", "more than 65536"),
            (
                "{% for a in range(5000) %}{% for b in range(5000) %}{% endfor %}{% endfor %}0",
                "fuel",
            ),
        ];
        for (text, expected) in table {
            let refusal = refusal(text);
            assert!(refusal.contains(expected), "{text}: {refusal}");
            assert!(refusal.starts_with("--notification-template-file"), "{refusal}");
        }
        assert_eq!(refusal("{{ data.message }}"), "");
        assert_eq!(refusal("[{% if data.workload %}{{ data.workload.name }}{% endif %}]"), "");
    }
}
