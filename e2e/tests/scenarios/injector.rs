//! The webhook that injects secrets is away: reloads wait for it, and go on by themselves.
//!
//! The webhook is a real configuration whose `objectSelector` selects no pod of the bed. Its endpoints
//! are written by the scenario.

use anyhow::{Context as _, Result};
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Cluster, Controller, ControllerOptions, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    reloads_wait_while_the_injector_is_away,
    a_required_injector_holds_reloads_until_it_is_installed,
}

const GROUP: &str = "admissionregistration.k8s.io/v1";

/// The label of namespaces whose pods the webhook gets.
const SELECTED: &str = "e2e-inject";

/// A webhook of one scenario, in a namespace of the same name. Controllers of other scenarios do not
/// know it as an injector.
struct Webhook {
    name: &'static str,
}

impl Webhook {
    async fn of(bed: &Bed, name: &'static str) -> Result<Self> {
        bed.cluster.create_namespace(name).await?;
        Ok(Self { name })
    }

    fn options(&self) -> ControllerOptions {
        polling_faster().flag("--injector-webhooks", &format!("pods.*.{}.example.com", self.name))
    }

    async fn configure(&self, cluster: &Cluster) -> Result<()> {
        let configuration = json!({
            "apiVersion": GROUP,
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": [{
                "name": format!("pods.vault-secrets-webhook.{}.example.com", self.name),
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 1,
                "clientConfig": {"service": {"namespace": self.name, "name": "vswh", "path": "/pods"}},
                "namespaceSelector": {"matchLabels": {SELECTED: "true"}},
                "objectSelector": {"matchLabels": {"e2e-inject": "no-pod-has-this"}},
                "rules": [{
                    "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE"],
                    "resources": ["pods"],
                }],
            }],
        });
        cluster.apply_object(&configuration, "mutatingwebhookconfigurations").await.map(drop)
    }

    async fn remove(&self, cluster: &Cluster) -> Result<()> {
        let path = format!("/apis/{GROUP}/mutatingwebhookconfigurations/{}", self.name);
        let request = http::Request::delete(path).body(Vec::new())?;
        cluster.client().request::<Value>(request).await.map(drop).context("cannot delete it")
    }

    /// Writes the only endpoint of the webhook.
    async fn set_ready(&self, cluster: &Cluster, is_ready: bool) -> Result<()> {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": self.name,
                "name": "vswh-e2e",
                "labels": {
                    "kubernetes.io/service-name": "vswh",
                    "endpointslice.kubernetes.io/managed-by": "e2e",
                },
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": is_ready}}],
            "ports": [{"port": 8443, "protocol": "TCP"}],
        });
        cluster.apply_object(&slice, "endpointslices").await.map(drop)
    }
}

/// Deploys a workload in a namespace that the webhook selects or not.
async fn deploy(bed: &Bed, namespace: &str, secret: &str, is_selected: bool) -> Result<Workload> {
    bed.cluster.create_namespace(namespace).await?;
    let selected = is_selected.to_string();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {SELECTED: selected}},
    });
    bed.cluster.apply_object(&object, "namespaces").await?;
    let reference = format!("vault:secret/data/{secret}#k");
    let workload = Workload::deployment(namespace, "web").opted_in().env("A", &reference);
    bed.deploy_all(&[&workload]).await?;
    Ok(workload)
}

/// Waits until the status shows a workload with a state and a reason. Returns the message.
async fn wait_for_state(
    controller: &Controller,
    secret: &str,
    workload: &Workload,
    (state, reason): (&str, Option<&str>),
) -> Result<String> {
    let (name, path) = (workload.name().to_string(), format!("secret/data/{secret}"));
    let found = eventually("the state of the workload", SOON, || async {
        let (code, text) = controller.status(&["secret", &path, "-o", "json"]).await?;
        if code != 0 {
            return Ok(None);
        }
        let answer: Value = serde_json::from_str(&text)?;
        let users = answer["users"]["items"].as_array().cloned().unwrap_or_default();
        let user = users.into_iter().find(|user| user["workload"] == json!(name));
        let is_so = |user: &Value| user["state"] == json!(state) && user["reason"] == json!(reason);
        let user = user.filter(is_so);
        Ok(user.map(|user| user["message"].as_str().unwrap_or_default().to_owned()))
    });
    found.await.with_context(|| controller.last_lines())
}

/// Waits until there is an Event on a workload.
async fn wait_for_event(bed: &Bed, workload: &Workload, wanted: &str) -> Result<()> {
    let name = workload.name();
    eventually(&format!("the Event {wanted}"), SOON, || async {
        let events = bed.events(&name.namespace).await?;
        let events = events.get(&name.name).cloned().unwrap_or_default();
        Ok(events.iter().any(|event| event == wanted).then_some(()))
    })
    .await
}

const AWAY: (&str, Option<&str>) = ("held", Some("InjectorAway"));
const COMPLETE: (&str, Option<&str>) = ("complete", None);

async fn reloads_wait_while_the_injector_is_away() -> Result<()> {
    let bed = Bed::shared().await?;
    let secret = "injector/a";
    bed.write_secrets(&[secret]).await?;
    let webhook = Webhook::of(&bed, "injector-vswh").await?;
    let web = deploy(&bed, "injector", secret, true).await?;
    let not_selected = deploy(&bed, "injector-not-selected", secret, false).await?;
    webhook.set_ready(&bed.cluster, false).await?;
    webhook.configure(&bed.cluster).await?;
    let mark = bed.mark().await?;
    let controller = Controller::start(&bed, &webhook.options()).await?;
    for workload in [&web, &not_selected] {
        wait_for_state(&controller, secret, workload, COMPLETE).await?;
    }

    // Nothing is ready. Where the webhook does not select the namespace, pods do not need it.
    bed.rotate(secret).await?;
    let message = wait_for_state(&controller, secret, &web, AWAY).await?;
    let command = "kubectl -n injector-vswh get endpointslices -l kubernetes.io/service-name=vswh";
    assert!(message.contains(command), "{message}");
    controller.wait_for("Not reloading injector/Deployment/web", SOON).await?;
    wait_for_event(&bed, &web, "Warning ReloadHeld").await?;
    bed.cluster.wait_for_count(&not_selected, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&web, None)]).await?;

    // The webhook is back: no new version is needed.
    webhook.set_ready(&bed.cluster, true).await?;
    bed.expect_rolls(&controller, &[&web, &not_selected], 1).await?;
    wait_for_state(&controller, secret, &web, COMPLETE).await?;
    wait_for_event(&bed, &web, "Normal Reloaded").await?;

    // The webhook is uninstalled while a reload waits.
    let seen = controller.lines().len();
    webhook.set_ready(&bed.cluster, false).await?;
    controller.wait_for_after(seen, "does not have a ready endpoint", SOON).await?;
    bed.rotate(secret).await?;
    wait_for_state(&controller, secret, &web, AWAY).await?;
    webhook.remove(&bed.cluster).await?;
    bed.expect_rolls(&controller, &[&web, &not_selected], 2).await?;

    // A few objects are watched, and nothing is asked for each reload.
    let requests = bed.api_requests_of("vault-secrets-reloader/", &mark).await?;
    let denied: Vec<_> = requests.iter().filter(|it| matches!(it.code, 401 | 403)).collect();
    assert!(denied.is_empty(), "{denied:#?}");
    for resource in ["mutatingwebhookconfigurations", "endpointslices", "namespaces"] {
        let lists = requests.iter().filter(|it| it.resource == resource && it.verb == "list");
        assert!((1..=2).contains(&lists.count()), "{resource}");
    }
    Ok(())
}

async fn a_required_injector_holds_reloads_until_it_is_installed() -> Result<()> {
    let bed = Bed::shared().await?;
    let secret = "injector/required";
    bed.write_secrets(&[secret]).await?;
    let webhook = Webhook::of(&bed, "injector-required-vswh").await?;
    let web = deploy(&bed, "injector-required", secret, true).await?;
    let options = webhook.options().flag("--injector-check", "required");
    let controller = Controller::start(&bed, &options).await?;
    wait_for_state(&controller, secret, &web, COMPLETE).await?;

    bed.rotate(secret).await?;
    let missing = ("held", Some("InjectorMissing"));
    let message = wait_for_state(&controller, secret, &web, missing).await?;
    assert!(message.contains("--injector-webhooks"), "{message}");
    bed.expect_no_roll(&controller, &[(&web, None)]).await?;

    // The webhook is installed, and then starts.
    webhook.configure(&bed.cluster).await?;
    wait_for_state(&controller, secret, &web, AWAY).await?;
    webhook.set_ready(&bed.cluster, true).await?;
    bed.expect_rolls(&controller, &[&web], 1).await?;
    webhook.remove(&bed.cluster).await
}
