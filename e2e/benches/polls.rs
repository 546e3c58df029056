//! What a poll costs Vault and us, beside the least that it can cost: the same secrets, asked for by a
//! client that does nothing with the answers, in the same run and in turn with ours.
#![expect(clippy::print_stdout, reason = "it is run for what it prints")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Bed, Mark, Options, Table, TokenRequest, Vault, VaultStorage};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::{Client, Method};
use secrecy::SecretString;
use serde_json::json;
use vault_secrets_reloader::core::observation::{Ask, Observation};
use vault_secrets_reloader::core::secret::{DEFAULT_CONNECTION, SecretId};
use vault_secrets_reloader::reloader::Vault as _;
use vault_secrets_reloader::vault::approle::{self, AppRole};
use vault_secrets_reloader::vault::client::{Server, ServerSettings};
use vault_secrets_reloader::vault::credential::Credential;
use vault_secrets_reloader::vault::login::Method as Login;
use vault_secrets_reloader::vault::pace::Pace;
use vault_secrets_reloader::vault::poller::Poller;
use vault_secrets_reloader::vault::tls::Tls;

const FOLDERS: usize = 10;
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

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    requests: usize,
    logins: usize,
    audit_bytes: u64,
    wall: Duration,
    cpu: Duration,
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
    let mut table = Table::new(&[
        "secrets",
        "way",
        "connection",
        "who",
        "requests",
        "logins",
        "audit log",
        "time",
        "x floor",
        "CPU",
    ]);
    let mut bed = Some(bed);
    for secrets in [1_000, 10_000] {
        for way in [Way::Bulk, Way::Get] {
            let owned = bed.take().context("a bed")?;
            let scene = Scene::new(owned, secrets, way).await?;
            scene.measure(&mut table).await?;
            bed = Some(scene.bed);
        }
    }
    println!("\n{table}");
    println!(
        "Each figure is the median of {ROUNDS} rounds, in which the floor and the poll take turns: the \
         bare requests, {AT_ONCE} at once, whose answers nobody looks at. A poll on a fresh connection \
         is the first of a process: it logs in, and asks once what is mounted and whether folders can be \
         listed. CPU is of this process, client side, in an optimised build."
    );
    Ok(())
}

impl Scene {
    async fn new(bed: Bed, secrets: usize, way: Way) -> Result<Self> {
        let name = format!("bench-{secrets}");
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

    async fn measure(&self, table: &mut Table) -> Result<()> {
        let asks = self.asks();
        let mut poller = self.poller()?;
        self.poll(&mut poller, &asks).await?;
        let client = client()?;
        self.floor(&client).await?;
        for connection in ["fresh", "reused"] {
            let (mut floors, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                if connection == "fresh" {
                    let client = crate::client()?;
                    floors.push(self.cost(self.floor(&client)).await?);
                    let mut poller = self.poller()?;
                    ours.push(self.cost(self.poll(&mut poller, &asks)).await?);
                    poller.close().await;
                } else {
                    floors.push(self.cost(self.floor(&client)).await?);
                    ours.push(self.cost(self.poll(&mut poller, &asks)).await?);
                }
            }
            let (floor, ours) = (median(floors)?, median(ours)?);
            for (who, cost) in [("floor", floor), ("poll", ours)] {
                table.row([
                    self.secrets.to_string(),
                    format!("{:?}", self.way).to_lowercase(),
                    connection.to_owned(),
                    who.to_owned(),
                    cost.requests.to_string(),
                    cost.logins.to_string(),
                    format!("{:.2} MB", megabytes(cost.audit_bytes)),
                    format!("{:.1} ms", cost.wall.as_secs_f64() * 1e3),
                    format!("{:.2}", cost.wall.as_secs_f64() / floor.wall.as_secs_f64()),
                    format!("{:.1} ms", cost.cpu.as_secs_f64() * 1e3),
                ]);
            }
        }
        poller.close().await;
        Ok(())
    }

    fn asks(&self) -> Vec<Ask> {
        let ask = |number| {
            let path = format!("secret/data/{}", path(self.secrets, number)).into();
            let secret = SecretId { connection: DEFAULT_CONNECTION.into(), namespace: None, path };
            let secret = Arc::new(secret);
            Ask { secret, not_before: None, believed: None, may_be_missing: false }
        };
        (0..self.secrets).map(ask).collect()
    }

    fn poller(&self) -> Result<Poller> {
        let settings = ServerSettings {
            address: self.bed.vault.address().parse()?,
            namespace: None,
            redirects: None,
            timeout: Duration::from_mins(1),
            proxy: None,
            tls: Tls::default(),
        };
        let given = |text: &str| Credential::Text(SecretString::from(text));
        let login = Login::AppRole(AppRole {
            mount: "approle".to_owned(),
            role_id: given(&self.role_id),
            secret_id: Some(approle::SecretId::new(given(&self.secret_id), false)),
        });
        let server = Arc::new(Server::new(settings, Arc::default())?);
        let pace = Pace { at_once: AT_ONCE, ..Pace::default() };
        Ok(Poller::new(server, login, PERIOD * 3, PERIOD, pace, false))
    }

    async fn poll(&self, poller: &mut Poller, asks: &[Ask]) -> Result<()> {
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
        Ok(Cost { requests: requests.len(), logins, audit_bytes, wall, cpu })
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

fn megabytes(bytes: u64) -> f64 {
    Duration::from_micros(bytes).as_secs_f64()
}

/// The CPU time that this process has taken so far.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The one whose time is in the middle.
fn median(mut costs: Vec<Cost>) -> Result<Cost> {
    costs.sort_by_key(|cost| cost.wall);
    costs.get(costs.len() / 2).copied().context("nothing was measured")
}
