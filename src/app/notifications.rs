//! Notifications: which parts are made, and the task that sends.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config;
use crate::credentials::files::Files;
use crate::election::leadership::Leadership;
use crate::events::metrics::Metrics;
use crate::events::sink::Sink;
use crate::notifications::client::{Client, ClientSettings};
use crate::notifications::metrics::{Counts, NotificationMetrics};
use crate::notifications::notifier::{Notifier, Settings};
use crate::notifications::sender::Sender;
use crate::notifications::template::{LONGEST_TEMPLATE, Template};

/// The sink and the counts of notifications.
pub(super) struct Notifications {
    notifier: Arc<Notifier>,
    counts: Arc<Counts>,
}

impl Notifications {
    /// Checks the settings, and spawns the task that sends. A template that cannot be used is an error.
    /// A URL or a header that cannot be used is a warning. `None` if no webhook is set.
    pub(super) async fn start(
        settings: Option<config::Notifications>,
        leadership: Arc<OnceLock<Leadership>>,
        tasks: &mut JoinSet<&'static str>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let Some(config::Notifications {
            url_file,
            headers_file,
            ca_file,
            template_file,
            source,
            per_minute,
            kinds,
        }) = settings
        else {
            return Ok(None);
        };
        let template = match template_file {
            Some(file) => compile(file).await?,
            None => Template::built_in(),
        };
        let mut client = Client::new(ClientSettings { url_file, headers_file, ca_file });
        // A Secret that is edited must not keep the controller from its next start.
        if let Err(error) = client.check().await {
            warn!("No notification can be sent yet: {error}");
        }
        let counts = Arc::<Counts>::default();
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        info!(kinds = names.join(","), "Sending notifications to a webhook");
        let settings = Settings { kinds, source: source.into(), per_minute };
        let (notifier, queue) =
            Notifier::new(settings, leadership, Timestamp::now, Arc::clone(&counts));
        let notifier = Arc::new(notifier);
        let sender =
            Sender::new(queue, Arc::clone(&notifier), client, template, Arc::clone(&counts));
        tasks.spawn(async move {
            sender.run(shutdown).await;
            "sender of notifications"
        });
        Ok(Some(Self { notifier, counts }))
    }

    /// Returns the sink of events.
    pub(super) fn sink(&self) -> Box<dyn Sink> {
        Box::new(Arc::clone(&self.notifier))
    }

    /// Returns the metrics with that of notifications, if there are any.
    pub(super) fn count(this: Option<&Self>, metrics: Metrics) -> Metrics {
        match this {
            Some(Self { counts, .. }) => metrics.with(NotificationMetrics(Arc::clone(counts))),
            None => metrics,
        }
    }
}

/// Reads and compiles a template.
async fn compile(file: PathBuf) -> anyhow::Result<Template> {
    let name = file.to_string_lossy().into_owned();
    let text = Files::default().read(move || read_template(&file)).await;
    let text = text
        .flatten()
        .with_context(|| format!("--notification-template-file={name} cannot be read"))?;
    ensure!(
        text.len() as u64 <= LONGEST_TEMPLATE,
        "--notification-template-file={name} is longer than {LONGEST_TEMPLATE} bytes"
    );
    Ok(Template::compile(&name, text)?)
}

/// Reads a template, and blocks while it reads.
fn read_template(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // Reading one byte more shows that the file is too long.
    File::open(file)?.take(LONGEST_TEMPLATE + 1).read_to_string(&mut text)?;
    Ok(text)
}
