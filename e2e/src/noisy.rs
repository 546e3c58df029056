//! A noisy tenant with rights in one namespace. The tenant creates products of sources and keys,
//! tens of thousands of references and of names, a template that changes all the time, idle
//! connections, and workloads whose changes are refused.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::bed::Bed;
use crate::cluster::Cluster;
use crate::refusal::{lift, refuse};
use crate::scenario::SOON;
use crate::workload::Workload;

/// The number of empty keys of one ConfigMap, and how often one workload names the ConfigMap.
const KEYS: usize = 10_000;
const TIMES_NAMED: usize = 1_000;

/// The number of references behind one key, and of variables from that key.
const REFERENCES_OF_KEY: usize = 4_000;

/// The number of references in one template.
const REFERENCES: usize = 20_000;

/// The number of names of missing ConfigMaps in each of some workloads.
const NAMES: usize = 10_000;
const NAMING: usize = 4;

/// The number of workloads whose changes are refused, and their label.
const REFUSED: usize = 20;
const REFUSED_LABEL: &str = "e2e/refused";

/// The time between two changes of a template.
const EDITED_EVERY: Duration = Duration::from_millis(100);

/// The number of idle connections to the probes: more than the controller keeps open.
const CONNECTIONS: usize = 300;

/// The time between two new idle connections.
const OPENED_EVERY: Duration = Duration::from_millis(10);

/// A noisy tenant at work. The work stops when this value is dropped; deployed objects stay.
pub struct NoisyTenant {
    namespace: String,
    // The tasks are aborted when the set is dropped.
    _tasks: JoinSet<()>,
}

impl NoisyTenant {
    /// Starts a tenant in a namespace of its own. `probes` is the address of the controller's
    /// probes, and `secret` is a secret that other workloads use too.
    ///
    /// # Errors
    /// When the cluster refuses one of the objects.
    pub async fn begin(bed: &Bed, namespace: &str, probes: &str, secret: &str) -> Result<Self> {
        let cluster = &bed.cluster;
        cluster.create_namespace(namespace).await?;
        for config_map in config_maps(namespace) {
            cluster.apply_object(&config_map, "configmaps").await?;
        }
        for workload in workloads(namespace) {
            cluster.apply(&workload).await.with_context(|| workload.name().to_string())?;
        }
        let refused: Vec<_> = (0..REFUSED)
            .map(|number| {
                new(namespace, &format!("refused-{number}"))
                    .label(REFUSED_LABEL, "true")
                    .env("A", &format!("vault:secret/data/{secret}#k"))
            })
            .collect();
        for workload in &refused {
            cluster.apply(workload).await?;
        }
        let refusal = (REFUSED_LABEL, "refused by its tenant");
        refuse(cluster, namespace, refusal, &refused[0], SOON).await?;
        let restless =
            new(namespace, "restless").env("A", &format!("vault:secret/data/{secret}#k"));
        cluster.apply(&restless).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(edit(cluster.clone(), restless));
        tasks.spawn(say_nothing(probes.to_owned()));
        Ok(Self { namespace: namespace.to_owned(), _tasks: tasks })
    }

    /// Ends the tenant, and deletes its objects.
    ///
    /// # Errors
    /// When the cluster does not delete them.
    pub async fn end(self, bed: &Bed) -> Result<()> {
        lift(&bed.cluster, &self.namespace).await?;
        bed.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]).await.map(drop)
    }

    /// The number of the tenant's workloads.
    #[must_use]
    pub fn workloads(&self) -> usize {
        workloads(&self.namespace).len() + REFUSED + 1
    }

    /// The reasons that are reported to the tenant, each with the name of the workload.
    #[must_use]
    pub fn reasons() -> [(&'static str, &'static str); 4] {
        [
            ("products", "TooManyVariables"),
            ("key", "TooManySecrets"),
            ("references", "TooManySecrets"),
            ("names-0", "TooManySources"),
        ]
    }
}

fn new(namespace: &str, name: &str) -> Workload {
    Workload::deployment(namespace, name).replicas(0).opted_in()
}

fn config_maps(namespace: &str) -> [Value; 2] {
    let of = |name: &str, data: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": namespace, "name": name},
            "data": data,
        })
    };
    let empty: serde_json::Map<_, _> =
        (0..KEYS).map(|number| (format!("K{number}"), json!(""))).collect();
    let references: String =
        (0..REFERENCES_OF_KEY).map(|number| reference(&format!("of-key-{number}"))).collect();
    [of("keys", Value::Object(empty)), of("references", json!({ "K": references }))]
}

fn reference(name: &str) -> String {
    format!("${{vault:secret/data/noisy/{name}#k}}")
}

fn workloads(namespace: &str) -> Vec<Workload> {
    let prefixed =
        |number: usize| json!({"prefix": format!("P{number}_"), "configMapRef": {"name": "keys"}});
    let products = (0..TIMES_NAMED)
        .fold(new(namespace, "products").env("A", &reference("a")), |workload, number| {
            workload.env_from(&prefixed(number))
        });
    let of_key = json!({"configMapKeyRef": {"name": "references", "key": "K"}});
    let key = (0..REFERENCES_OF_KEY).fold(new(namespace, "key"), |workload, number| {
        workload.env_value_from(&format!("V{number}"), &of_key)
    });
    let references = (0..REFERENCES / 100).fold(new(namespace, "references"), |workload, line| {
        let value: String = (0..100).map(|number| reference(&format!("{line}-{number}"))).collect();
        workload.env(&format!("V{line}"), &value)
    });
    let names = (0..NAMING).map(|which| {
        (0..NAMES).fold(new(namespace, &format!("names-{which}")), |workload, number| {
            let name = format!("none-{which}-{number}");
            workload.env_from(&json!({"configMapRef": {"name": name}}))
        })
    });
    [products, key, references].into_iter().chain(names).collect()
}

/// Changes the template of a workload again and again.
async fn edit(cluster: Cluster, workload: Workload) {
    let mut ticks = interval(EDITED_EVERY);
    for number in 0_u64.. {
        ticks.tick().await;
        let annotations = json!({"e2e/edited": number.to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        // A change that fails is repeated the next time.
        _ = cluster.patch(&workload, &patch).await;
    }
}

/// Keeps idle connections open, and opens a new one for each that is closed.
async fn say_nothing(address: String) {
    let mut open = JoinSet::new();
    let mut ticks = interval(OPENED_EVERY);
    loop {
        while open.len() < CONNECTIONS {
            ticks.tick().await;
            let address = address.clone();
            open.spawn(async move {
                if let Ok(stream) = TcpStream::connect(&address).await {
                    // Waits until the other side closes the connection.
                    _ = stream.readable().await;
                }
            });
        }
        _ = open.join_next().await;
    }
}
