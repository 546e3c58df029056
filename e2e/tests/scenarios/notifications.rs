//! Notifications: what a webhook is told, by whom, and that no reload waits for it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use e2e::controller::{LeaseTimes, is_leading};
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Controller, ControllerOptions, Workload, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;

e2e::scenarios! {
    messages_come_once_in_order_in_the_form_of_the_template,
    a_webhook_that_hangs_delays_no_reload,
    only_the_leader_sends,
    the_end_of_a_rotation_is_told_once_also_after_a_restart,
}

/// The secret part of the webhook's URL.
const KEY: &str = "T0123-B0123-webhook-key";

/// The template for Slack.
const SLACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/notifications/slack.json.j2");

const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(3),
    renew_deadline: Duration::from_secs(2),
    retry_period: Duration::from_millis(200),
};

/// A webhook: it answers with these statuses, and then with 200.
struct Webhook {
    shared: Arc<Shared>,
    url_file: PathBuf,
}

#[derive(Default)]
struct Shared {
    statuses: Mutex<VecDeque<u16>>,
    /// Whether requests get no answer.
    hangs: AtomicBool,
    /// All requests, and those that were answered with 200.
    received: Mutex<Vec<(HeaderMap, Value)>>,
    accepted: Mutex<Vec<Value>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Webhook {
    /// Starts a webhook, and writes its URL to a file of the bed.
    async fn start(bed: &Bed, name: &str, statuses: &[u16]) -> Result<Self> {
        let statuses = Mutex::new(statuses.iter().copied().collect());
        let shared = Arc::new(Shared { statuses, ..Shared::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/services/{KEY}", listener.local_addr()?);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let url_file = bed.folder().join(format!("webhook-{name}"));
        std::fs::write(&url_file, url)?;
        Ok(Self { shared, url_file })
    }

    /// Returns the options of a controller that tells this webhook of some kinds.
    fn options(&self, kinds: &str) -> Result<ControllerOptions> {
        let url_file = self.url_file.to_str().context("the folder of the bed is no text")?;
        Ok(polling_faster().flag("--notification-url-file", url_file).flag("--notify-on", kinds))
    }

    fn received(&self) -> Vec<(HeaderMap, Value)> {
        locked(&self.shared.received).clone()
    }

    fn accepted(&self) -> Vec<Value> {
        locked(&self.shared.accepted).clone()
    }

    /// Waits until the webhook accepted so many messages.
    async fn wait_for(&self, count: usize, controller: &Controller) -> Result<Vec<Value>> {
        let look = || async { Ok(Some(self.accepted()).filter(|all| all.len() >= count)) };
        let found = eventually("the messages", SOON, look).await;
        found.with_context(|| format!("{:#?}\n{}", self.received(), controller.last_lines()))
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> Result<StatusCode, StatusCode> {
    let body: Value = serde_json::from_str(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    locked(&shared.received).push((headers, body.clone()));
    if shared.hangs.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let next = locked(&shared.statuses).pop_front();
    if let Some(status) = next {
        return StatusCode::from_u16(status).map_err(|_| StatusCode::BAD_REQUEST);
    }
    locked(&shared.accepted).push(body);
    Ok(StatusCode::OK)
}

/// Writes a secret, and deploys a workload that refers to it.
async fn deploy(bed: &Bed, namespace: &str) -> Result<(String, Workload)> {
    deploy_slow(bed, namespace, Duration::ZERO).await
}

/// Deploys a workload whose pods become ready after a while.
async fn deploy_slow(
    bed: &Bed,
    namespace: &str,
    ready_after: Duration,
) -> Result<(String, Workload)> {
    bed.cluster.create_namespace(namespace).await?;
    let path = format!("{namespace}/a");
    bed.write_secrets(&[&path]).await?;
    let web = Workload::deployment(namespace, "web")
        .opted_in()
        .env("A", &format!("vault:secret/data/{path}#k"));
    let web = if ready_after.is_zero() { web } else { web.ready_after(ready_after) };
    bed.deploy_all(&[&web]).await?;
    Ok((path, web))
}

async fn messages_come_once_in_order_in_the_form_of_the_template() -> Result<()> {
    let bed = Bed::shared().await?;
    let (path, web) = deploy(&bed, "notified").await?;
    let webhook = Webhook::start(&bed, "slack", &[503, 503]).await?;
    let options =
        webhook.options("reloaded,rollout-complete")?.flag("--notification-template-file", SLACK);
    let mut controller = Controller::start(&bed, &options).await?;
    controller.must_not_say(KEY);
    controller.wait_for_polls(1, SOON).await?;
    bed.rotate(&path).await?;
    bed.expect_rolls(&controller, &[&web], 1).await?;
    let messages = webhook.wait_for(2, &controller).await?;
    controller.wait_for_polls(2, SOON).await?;

    // The first message was refused twice, and did not change.
    let received = webhook.received();
    assert_eq!(received.len(), 4, "{received:#?}");
    assert!(received[..3].iter().all(|(_, body)| *body == messages[0]), "{received:#?}");
    assert_eq!(received[3].1, messages[1]);
    assert!(received.iter().all(|(headers, _)| headers["content-type"] == "application/json"));
    let texts: Vec<_> = messages.iter().map(|message| &message["text"]).collect();
    assert_eq!(
        texts,
        ["Reloaded: notified/Deployment/web", "Rollout complete: notified/Deployment/web"]
    );
    let sentence = messages[0]["blocks"][1]["text"]["text"].as_str().unwrap_or_default();
    assert!(sentence.contains("secret/data/notified/a"), "{sentence}");
    assert!(sentence.ends_with("to version 2"), "{sentence}");
    let metrics = controller.probe("/metrics").await?.body;
    for line in [
        "vault_secrets_reloader_notifications_total{result=\"sent\"} 2",
        "vault_secrets_reloader_notifications_total{result=\"failed\"} 0",
        "vault_secrets_reloader_notifications_total{result=\"dropped\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }

    // A template that cannot be used is refused at the start.
    let broken = bed.folder().join("broken.json.j2");
    std::fs::write(&broken, "{\n  \"text\": \"{{ subject }}\"\n}")?;
    let broken = broken.to_str().context("the folder of the bed is no text")?;
    let options = options.flag("--notification-template-file", broken);
    let mut refused = Controller::spawn(&bed, &options).await?;
    let status = refused.wait_for_end(SOON).await?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(refused.lines_with("Put no quotes around").len(), 1, "{}", refused.last_lines());
    Ok(())
}

async fn a_webhook_that_hangs_delays_no_reload() -> Result<()> {
    let bed = Bed::shared().await?;
    let (path, web) = deploy(&bed, "hanging").await?;
    let webhook = Webhook::start(&bed, "hanging", &[]).await?;
    webhook.shared.hangs.store(true, Ordering::Relaxed);
    let mut controller = Controller::start(&bed, &webhook.options("reloaded")?).await?;
    controller.must_not_say(KEY);
    controller.wait_for_polls(1, SOON).await?;
    bed.rotate(&path).await?;
    let has_received = || async { Ok((!webhook.received().is_empty()).then_some(())) };
    eventually("a request", SOON, has_received).await?;
    bed.expect_rolls(&controller, &[&web], 1).await?;
    // The request hangs still, and the next rotation is not in its way.
    bed.rotate(&path).await?;
    bed.expect_rolls(&controller, &[&web], 2).await?;
    assert!(webhook.accepted().is_empty());
    let alive = controller.probe("/healthz").await?;
    assert_eq!(alive.status, 200, "{}", alive.body);

    // The messages come once the webhook answers.
    webhook.shared.hangs.store(false, Ordering::Relaxed);
    let messages = webhook.wait_for(2, &controller).await?;
    let versions: Vec<_> =
        messages.iter().map(|message| &message["data"]["secrets"][0]["to"]).collect();
    assert_eq!(versions, [&json!(2), &json!(3)]);
    Ok(())
}

async fn only_the_leader_sends() -> Result<()> {
    let bed = Bed::shared().await?;
    let (path, web) = deploy(&bed, "replicas").await?;
    let webhook = Webhook::start(&bed, "replicas", &[]).await?;
    let options = webhook.options("reloaded,rollout-complete")?;
    let replica = |name: &str| options.clone().leader_elect("replicas", name, TIMES);
    let leader = Controller::start(&bed, &replica("one")).await?;
    leader.wait_for_line(is_leading, SOON).await?;
    let other = Controller::start(&bed, &replica("two")).await?;
    leader.wait_for_polls(1, SOON).await?;
    bed.rotate(&path).await?;
    bed.expect_rolls(&leader, &[&web], 1).await?;
    webhook.wait_for(2, &leader).await?;

    // The other replica has seen the same rollout. It sends once it leads.
    drop(leader);
    other.wait_for_line(is_leading, SOON).await?;
    other.wait_for_polls(2, SOON).await?;
    bed.rotate(&path).await?;
    bed.expect_rolls(&other, &[&web], 2).await?;
    let messages = webhook.wait_for(4, &other).await?;
    let told: Vec<_> = messages.iter().map(|message| &message["data"]["event"]).collect();
    assert_eq!(told, ["reloaded", "rollout-complete", "reloaded", "rollout-complete"]);
    Ok(())
}

async fn the_end_of_a_rotation_is_told_once_also_after_a_restart() -> Result<()> {
    let bed = Bed::shared().await?;
    // Rotations are looked at each five seconds. One that ends between two looks is not announced.
    let (path, web) = deploy_slow(&bed, "rotated", Duration::from_secs(8)).await?;
    let webhook = Webhook::start(&bed, "rotated", &[]).await?;
    let options = webhook.options("rotation-complete,rotation-stopped,rotation-held")?;
    let options = options.flag("--notification-source", "cluster-a");
    let mut controller = Controller::start(&bed, &options).await?;
    controller.must_not_say(KEY);
    controller.wait_for_polls(2, SOON).await?;
    bed.rotate(&path).await?;
    bed.expect_rolls(&controller, &[&web], 1).await?;
    webhook.wait_for(1, &controller).await?;

    // The rotation of the past is no news after a restart. The next rotation is.
    controller.restart().await?;
    controller.wait_for_polls(2, SOON).await?;
    bed.rotate(&path).await?;
    bed.expect_rolls(&controller, &[&web], 2).await?;
    let messages = webhook.wait_for(2, &controller).await?;
    controller.wait_for_polls(2, SOON).await?;
    assert_eq!(webhook.accepted().len(), 2, "{:#?}", webhook.accepted());
    for (message, version) in messages.iter().zip([2, 3]) {
        assert_eq!(message["type"], "io.bank-vaults.secrets-reloader.rotation-complete");
        assert_eq!(message["source"], "cluster-a");
        assert_eq!(message["subject"], "secret/data/rotated/a");
        assert_eq!(message["data"]["secrets"][0]["to"], version);
    }
    assert_ne!(messages[0]["id"], messages[1]["id"]);
    let (headers, _) = &webhook.received()[0];
    assert_eq!(headers["content-type"], "application/cloudevents+json");
    Ok(())
}
