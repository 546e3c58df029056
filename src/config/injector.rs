//! The configuration of the check of the injector.

use clap::Args;

use super::error::{ConfigError, error};
use crate::rollouts::injector::{
    DEFAULT_WEBHOOKS, InjectorCheck, InjectorSettings, NamePattern, WebhookNames,
};

/// The most names of webhooks. Each is compared with the names of all webhooks of the cluster.
const MOST_NAMES: usize = 20;

/// The flags of the check.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are the text of --help")]
pub(super) struct InjectorFlags {
    /// Hold reloads while the webhook that injects secrets is away, since new pods would not get
    /// their secrets. `auto`: where such a webhook selects the namespace. `required`: also where none
    /// does. `off`: do not watch the webhook
    #[arg(long, value_name = "MODE", default_value = "auto")]
    injector_check: String,
    /// The webhooks that inject secrets: names of webhooks or of their
    /// MutatingWebhookConfigurations, with commas between them. One `*` in a name stands for any text.
    /// At most 20 names
    #[arg(long, value_name = "NAMES", default_value = DEFAULT_WEBHOOKS)]
    injector_webhooks: String,
}

impl InjectorFlags {
    /// Returns the settings of the check.
    pub(super) fn settings(&self) -> Result<InjectorSettings, ConfigError> {
        let Self { injector_check, injector_webhooks } = self;
        settings(injector_check, injector_webhooks)
    }
}

fn settings(check: &str, webhooks: &str) -> Result<InjectorSettings, ConfigError> {
    let check = match check {
        "auto" => InjectorCheck::Auto,
        "required" => InjectorCheck::Required,
        "off" => InjectorCheck::Off,
        _ => return Err(error("--injector-check", check, "write auto, required or off")),
    };
    let pattern = |text: &str| {
        let problem = "not a list of names; write names with commas between them, each with one * \
                       at most";
        let pattern = NamePattern::parse(text.trim());
        pattern.ok_or_else(|| error("--injector-webhooks", webhooks, problem))
    };
    let names: Vec<_> = webhooks.split(',').map(pattern).collect::<Result<_, _>>()?;
    if names.len() > MOST_NAMES {
        let problem = format!("must not have more than {MOST_NAMES} names");
        return Err(error("--injector-webhooks", webhooks, &problem));
    }
    Ok(InjectorSettings { check, webhooks: WebhookNames(names.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_names_are_checked() {
        for (check, expected) in [
            ("auto", InjectorCheck::Auto),
            ("required", InjectorCheck::Required),
            ("off", InjectorCheck::Off),
        ] {
            assert_eq!(settings(check, DEFAULT_WEBHOOKS).unwrap().check, expected);
        }
        assert!(settings("auto", "vswh, *.example.com").unwrap().webhooks.contain("a.example.com"));
        let many = vec!["a"; MOST_NAMES + 1].join(",");
        for (check, webhooks) in
            [("on", "a"), ("", "a"), ("auto", ""), ("auto", "a,"), ("auto", "*"), ("off", &many)]
        {
            assert!(settings(check, webhooks).is_err(), "{check} {webhooks}");
        }
    }
}
