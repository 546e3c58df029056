//! What a poll costs Vault and us, beside the least that it can cost: the same secrets, asked for by a
//! client that does nothing with the answers, in the same run and in turn with ours; and what the whole
//! controller costs, beside another reloader where `VSR_OTHER` names its binary.
#![expect(clippy::print_stdout, reason = "it is run for what it prints")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::binaries::from_environment;
use e2e::scenario::next_second;
use e2e::vault_access::KubernetesRole;
use e2e::{
    Bed, ControllerOptions, Mark, Options, Table, TokenRequest, Vault, VaultStorage, Workload,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::{Client, Method};
use secrecy::SecretString;
use serde_json::json;
use vault_secrets_reloader::credentials::credential::Credential;
use vault_secrets_reloader::decide::observation::{Observation, ReadRequest};
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, SecretId};
use vault_secrets_reloader::vault::approle::{self, AppRole};
use vault_secrets_reloader::vault::client::Server;
use vault_secrets_reloader::vault::connection::ServerSettings;
use vault_secrets_reloader::vault::login::Method as Login;
use vault_secrets_reloader::vault::pace::Pace;
use vault_secrets_reloader::vault::poller::Poller;

mod cost;
mod processes;

use cost::{Cost, FIGURES, median};
use processes::Took;

const FOLDERS: usize = 10;
/// The most secrets that are measured, for which there are goals.
const LARGEST: usize = 10_000;
/// The most requests that these may take in bulk.
const MOST_REQUESTS: usize = 25;
/// References in one workload, for the measured processes.
const REFERENCES: usize = 100;
/// Who logs in, for those.
const ACCOUNT: &str = "default";
/// How often each is measured; the median counts.
const ROUNDS: usize = 5;
/// Requests under way at once: ours, and those of the floor.
const AT_ONCE: usize = 8;
/// A period so long that no token is given back between two polls.
const PERIOD: Duration = Duration::from_mins(1);

/// How the secrets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Bulk,
    Get,
}

/// Whose process is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Ours,
    Other,
}

/// Where secrets are, and who may read them how.
struct Scene {
    bed: Bed,
    secrets: usize,
    way: Way,
    role_id: String,
    secret_id: String,
    token: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("Starting the servers...");
    let bed = Bed::start(Options::new().without_pods().vault_storage(VaultStorage::Memory)).await?;
    bed.vault.ask(Method::POST, "sys/auth/approle", Some(json!({"type": "approle"}))).await?;
    bed.vault.enable_kubernetes_auth(&bed.cluster, "kubernetes").await?;
    let other = from_environment("VSR_OTHER");
    let mut headings =
        vec!["secrets", "way", "connection", "figure", "floor", "poll", "x floor", "controller"];
    headings.extend(other.is_some().then_some("other"));
    let mut table = Table::new(&headings);
    let mut bed = Some(bed);
    for secrets in [1_000, LARGEST] {
        for way in [Way::Bulk, Way::Get] {
            let owned = bed.take().context("a bed")?;
            let scene = Scene::new(owned, secrets, way).await?;
            scene.measure(other.as_deref(), &mut table).await?;
            bed = Some(scene.bed);
        }
    }
    println!("\n{table}");
    println!(
        "poll: the median of {ROUNDS} rounds in which it and the floor take turns; the floor is the bare \
         requests, {AT_ONCE} at once, whose answers nobody looks at. On a fresh connection it is the first \
         poll of a process, which logs in, and asks once what is mounted and whether folders can be listed.\n\
         controller: the whole process, beside workloads with {REFERENCES} references each; fresh from its \
         start to the end of its first poll, reused an unchanged poll. Its time is from its first request to \
         Vault to the last answer.\n\
         CPU is of the client. All with the policy of the README{}.",
        other.map(|_| ", but for the other, which may read all").unwrap_or_default()
    );
    Ok(())
}

impl Scene {
    async fn new(bed: Bed, secrets: usize, way: Way) -> Result<Self> {
        let name = policy(secrets);
        let kv = bed.vault.kv("secret");
        if way == Way::Bulk {
            println!("Writing {secrets} secrets in {FOLDERS} folders...");
            stream::iter(0..secrets)
                .map(|number| {
                    let (kv, path) = (kv.clone(), path(secrets, number));
                    async move { kv.put(&path, json!({"k": "v"})).await.map(drop) }
                })
                .buffer_unordered(32)
                .try_collect::<()>()
                .await?;
            // What is written before a workload is deployed is no reason to reload it.
            next_second().await?;
            deploy(&bed, secrets).await?;
        }
        let rules = match way {
            Way::Bulk => Vault::reloader_rules("secret"),
            Way::Get => "path \"secret/metadata/*\" { capabilities = [\"read\"] }".to_owned(),
        };
        bed.vault.put_policy(&name, &rules).await?;
        let role = format!("auth/approle/role/{name}");
        let settings = json!({"token_policies": [name], "token_ttl": "1h"});
        bed.vault.ask(Method::POST, &role, Some(settings)).await?;
        let id = bed.vault.ask(Method::GET, &format!("{role}/role-id"), None).await?;
        let secret_id =
            bed.vault.ask(Method::POST, &format!("{role}/secret-id"), Some(json!({}))).await?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("no text");
        let request = TokenRequest { policies: vec![name], ..TokenRequest::default() };
        Ok(Self {
            secrets,
            way,
            role_id: text(&id["data"]["role_id"])?,
            secret_id: text(&secret_id["data"]["secret_id"])?,
            token: bed.vault.create_token(&request).await?.token,
            bed,
        })
    }

    async fn measure(&self, other: Option<&Path>, table: &mut Table) -> Result<()> {
        println!("Measuring {} secrets by {:?}...", self.secrets, self.way);
        let asks = self.asks();
        let mut poller = self.poller()?;
        self.poll(&mut poller, &asks).await?;
        let client = client()?;
        self.floor(&client).await?;
        let (mut fresh, mut reused) = (<[Vec<Cost>; 2]>::default(), <[Vec<Cost>; 2]>::default());
        for _ in 0..ROUNDS {
            let [floors, polls] = &mut fresh;
            let newcomer = crate::client()?;
            floors.push(self.cost(self.floor(&newcomer)).await?);
            let mut beginner = self.poller()?;
            polls.push(self.cost(self.poll(&mut beginner, &asks)).await?);
            beginner.close().await;
            let [floors, polls] = &mut reused;
            floors.push(self.cost(self.floor(&client)).await?);
            polls.push(self.cost(self.poll(&mut poller, &asks)).await?);
        }
        poller.close().await;
        let controller = processes::measure(&self.bed, self.options(Who::Ours).await?).await?;
        let other = match other {
            // It has no bulk.
            Some(binary) if self.way == Way::Get => {
                let options = self.options(Who::Other).await?.program(binary);
                Some(processes::measure(&self.bed, options).await?)
            }
            _ => None,
        };
        for (connection, costs, of) in [
            ("fresh", fresh, (|took| &took.first) as fn(&Took) -> &Cost),
            ("reused", reused, |took| &took.unchanged),
        ] {
            let [floor, poll] = costs.map(median);
            let (floor, poll) = (floor?, poll?);
            if self.secrets == LARGEST {
                println!("{}", self.goals(connection, &floor, &poll));
                let most = if self.way == Way::Bulk { MOST_REQUESTS } else { LARGEST + FOLDERS };
                ensure!(poll.requests <= most, "{} requests, {most} at most", poll.requests);
            }
            for figure in FIGURES {
                table.row([
                    self.secrets.to_string(),
                    format!("{:?}", self.way).to_lowercase(),
                    connection.to_owned(),
                    figure.name.to_owned(),
                    figure.show(Some(&floor)),
                    figure.show(Some(&poll)),
                    figure.times(&poll, &floor),
                    figure.show(Some(of(&controller))),
                    figure.show(other.as_ref().map(of)),
                ]);
            }
        }
        if self.way == Way::Get {
            for number in 0..self.secrets / REFERENCES {
                self.bed.cluster.delete(&workload(self.secrets, number)).await?;
            }
        }
        Ok(())
    }

    /// What a poll took, beside what it should take at most.
    fn goals(&self, connection: &str, floor: &Cost, poll: &Cost) -> String {
        let Cost { requests, wall, .. } = poll;
        let times = wall.as_secs_f64() / floor.wall.as_secs_f64();
        let goal = match self.way {
            Way::Bulk => format!("goal: {MOST_REQUESTS} requests, 1.5 times"),
            Way::Get => "goal: 1.2 times".to_owned(),
        };
        let way = format!("{:?}", self.way).to_lowercase();
        format!(
            "{LARGEST} by {way}, {connection}: {requests} requests, {times:.2} times the floor ({goal})"
        )
    }

    /// How a whole reloader is run: with a login by `auth/kubernetes`.
    async fn options(&self, who: Who) -> Result<ControllerOptions> {
        let vault = &self.bed.vault;
        let policy = match who {
            Who::Ours => policy(self.secrets),
            Who::Other => {
                let rules = "path \"secret/*\" { capabilities = [\"read\", \"list\"] }";
                vault.put_policy("bench-other", rules).await?;
                "bench-other".to_owned()
            }
        };
        let role = KubernetesRole {
            policies: vec![policy],
            ..KubernetesRole::new("bench", "default", ACCOUNT)
        };
        vault.put_kubernetes_role("kubernetes", &role).await?;
        let jwt = self.bed.cluster.request_token("default", ACCOUNT, Duration::from_hours(1));
        let file = self.bed.folder().join("bench-jwt");
        std::fs::write(&file, jwt.await?)?;
        let options = ControllerOptions::new().kubernetes_login("bench", file);
        Ok(match who {
            Who::Ours => options.flag("--vault-concurrency", &AT_ONCE.to_string()),
            // It has no leader election, and a default for the namespace that no server has.
            Who::Other => options.without_flag("--leader-elect=false").env("VAULT_NAMESPACE", ""),
        })
    }

    fn asks(&self) -> Vec<ReadRequest> {
        let ask = |number| {
            let path = format!("secret/data/{}", path(self.secrets, number)).into();
            let secret = SecretId { connection: DEFAULT_CONNECTION.into(), namespace: None, path };
            let secret = Arc::new(secret);
            ReadRequest { secret, not_before: None, may_be_missing: false }
        };
        (0..self.secrets).map(ask).collect()
    }

    fn poller(&self) -> Result<Poller> {
        let defaults = ServerSettings::at(self.bed.vault.address().parse()?);
        let settings =
            ServerSettings { redirects: None, timeout: Duration::from_mins(1), ..defaults };
        let given = |text: &str| Credential::Text(SecretString::from(text));
        let login = Login::AppRole(AppRole {
            mount: "approle".to_owned(),
            role_id: given(&self.role_id),
            secret_id: Some(approle::AppRoleSecretId::new(given(&self.secret_id), false)),
        });
        let server = Arc::new(Server::new(settings, Arc::default())?);
        let pace = Pace { at_once: AT_ONCE, ..Pace::default() };
        Ok(Poller::new(server, login, PERIOD * 3, PERIOD, pace, false))
    }

    async fn poll(&self, poller: &mut Poller, asks: &[ReadRequest]) -> Result<()> {
        let polled = poller.poll(asks).await;
        let live = polled.observations.values().filter(|it| matches!(it, Observation::Live(_)));
        ensure!(live.count() == self.secrets, "not all secrets were seen");
        Ok(())
    }

    /// The bare requests.
    async fn floor(&self, client: &Client) -> Result<()> {
        let root = format!("{}/v1/secret", self.bed.vault.address());
        let urls: Vec<String> = match self.way {
            Way::Bulk => (0..FOLDERS)
                .map(|folder| {
                    let folder = folder_of(self.secrets, folder);
                    format!("{root}/detailed-metadata/{folder}/?list=true&limit=1000")
                })
                .collect(),
            Way::Get => (0..self.secrets)
                .map(|number| format!("{root}/metadata/{}", path(self.secrets, number)))
                .collect(),
        };
        stream::iter(urls)
            .map(|url| async move {
                let request = client.get(url).header("X-Vault-Token", &self.token);
                request.send().await?.error_for_status()?.bytes().await.map(drop)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    /// Does some work, and says what it took.
    async fn cost(&self, work: impl Future<Output = Result<()>>) -> Result<Cost> {
        let mark = self.bed.vault_mark();
        let (cpu, began) = (cpu(), Instant::now());
        work.await?;
        let (cpu, wall) = (crate::cpu().saturating_sub(cpu), began.elapsed());
        let audit_bytes = self.bed.vault_mark().bytes_since(mark);
        let requests = self.requests(&mark)?;
        let logins = requests.iter().filter(|request| request.is_login()).count();
        Ok(Cost { requests: requests.len(), logins, audit_bytes, wall, cpu, ..Cost::default() })
    }

    fn requests(&self, mark: &Mark) -> Result<Vec<e2e::VaultRequest>> {
        self.bed.all_vault_requests_since(mark)
    }
}

fn client() -> Result<Client> {
    Ok(Client::builder().no_proxy().build()?)
}

fn folder_of(secrets: usize, number: usize) -> String {
    format!("bench/{secrets}/{}", number % FOLDERS)
}

fn path(secrets: usize, number: usize) -> String {
    format!("{}/{number:05}", folder_of(secrets, number))
}

/// The CPU time that this process has taken so far.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn policy(secrets: usize) -> String {
    format!("bench-{secrets}")
}

/// A workload without pods.
fn workload(secrets: usize, number: usize) -> Workload {
    let workload = Workload::deployment("default", &format!("bench-{secrets}-{number}"));
    (0..REFERENCES).fold(workload.replicas(0).opted_in(), |workload, reference| {
        let path = path(secrets, number * REFERENCES + reference);
        workload.env(&format!("SECRET_{reference}"), &format!("vault:secret/data/{path}#k"))
    })
}

async fn deploy(bed: &Bed, secrets: usize) -> Result<()> {
    let workloads: Vec<_> =
        (0..secrets / REFERENCES).map(|number| workload(secrets, number)).collect();
    bed.deploy_all(&workloads.iter().collect::<Vec<_>>()).await
}
