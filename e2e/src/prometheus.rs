//! A Prometheus server that scrapes a controller and evaluates the rules of `deploy/prometheus`, with
//! seconds in place of minutes and days.
//!
//! Invariant: the server ends with the bed, or when it is dropped.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use regex::Regex;
use serde_json::{Value, json};

use crate::bed::{Bed, answers, empty_folder};
use crate::binaries::{from_environment, workspace};
use crate::controller::Controller;
use crate::ports::Port;
use crate::server::{CommandLine, Server};

/// The time between two scrapes, and between two evaluations of the rules.
const INTERVAL: &str = "200ms";

/// The time for which a condition must hold, in place of the time of the rule.
const FOR: &str = "1s";

/// The range over which rules look back, in place of the range of the rule.
const RANGE: &str = "5s";

/// A running Prometheus server.
#[derive(Debug)]
pub struct Prometheus {
    server: Server,
    http: reqwest::Client,
    port: Port,
}

impl Prometheus {
    /// Returns the program: the variable `VSR_PROMETHEUS`, or else `prometheus` on the `PATH`. `None`
    /// if there is no such file.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let on_path = || std::env::split_paths(&folders).map(|folder| folder.join("prometheus"));
        from_environment("VSR_PROMETHEUS").or_else(|| on_path().find(|path| path.is_file()))
    }

    /// Starts the server, and waits until it is ready.
    ///
    /// # Errors
    /// When the server ends, or is not ready in time: with the end of its log.
    pub async fn start(bed: &Bed, program: PathBuf, controller: &Controller) -> Result<Self> {
        let folder = empty_folder(bed.folder().join("prometheus"))?;
        let rules = fs::read_to_string(workspace().join("deploy/prometheus/alerts.yaml"))?;
        fs::write(folder.join("alerts.yaml"), hasten(&rules)?)?;
        let config = json!({
            "global": {
                "scrape_interval": INTERVAL,
                "scrape_timeout": INTERVAL,
                "evaluation_interval": INTERVAL,
            },
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{
                "job_name": "vault-secrets-reloader",
                "static_configs": [{ "targets": [controller.address()] }],
            }],
        });
        // JSON is YAML.
        let config_file = folder.join("prometheus.yaml");
        fs::write(&config_file, config.to_string())?;
        let port = Port::any()?;
        let path = |flag: &str, path: &Path| OsString::from(format!("{flag}={}", path.display()));
        let command = CommandLine {
            name: "prometheus",
            program,
            args: vec![
                path("--config.file", &config_file),
                path("--storage.tsdb.path", &folder.join("data")),
                format!("--web.listen-address=127.0.0.1:{}", port.number()).into(),
            ],
        };
        let ready = answers(port.number(), "http", "-/ready");
        let server = Server::new(command, &folder, bed.group(), ready);
        server.start().await?;
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        Ok(Self { server, http, port })
    }

    /// Returns the names of the alerts that fire.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn firing(&self) -> Result<BTreeSet<String>> {
        let answer = self.get("alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().context("no alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().map(str::to_owned);
        firing.map(|alert| name(alert).context("an alert without a name")).collect()
    }

    /// Returns all alerts, pending ones too, and the end of the server's log, for the message of a
    /// failed test.
    pub async fn state(&self) -> String {
        let alerts = self.get("alerts").await;
        format!("{alerts:#?}\n{}", crate::server::tail(self.server.log(), 10))
    }

    /// Returns whether the server has scraped a controller that leads.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn sees_a_leader(&self) -> Result<bool> {
        let answer = self.get("query?query=vault_secrets_reloader_leader%3D%3D1").await?;
        Ok(answer["data"]["result"].as_array().is_some_and(|found| !found.is_empty()))
    }

    /// Returns how many series a query of a dashboard finds. The variables of Grafana are replaced.
    ///
    /// # Errors
    /// When the server does not answer, or refuses the query.
    pub async fn series(&self, query: &str) -> Result<usize> {
        let query =
            query.replace("$job", ".*").replace("$__rate_interval", "1m").replace("$__range", "1m");
        let mut url = reqwest::Url::parse("http://localhost/query")?;
        url.query_pairs_mut().append_pair("query", &query);
        let path = format!("query?{}", url.query().unwrap_or_default());
        let answer = self.get(&path).await.with_context(|| query.clone())?;
        answer["data"]["result"].as_array().map(Vec::len).context(query)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.port.number());
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }
}

/// Returns rules in which each `for` and each range is short.
fn hasten(rules: &str) -> Result<String> {
    let rules = Regex::new(r"(?m)^( +for:) \w+$")?.replace_all(rules, format!("$1 {FOR}"));
    Ok(Regex::new(r"\[\d+[smhd]\]")?.replace_all(&rules, format!("[{RANGE}]")).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_rules_become_short() -> Result<()> {
        let rules = "      expr: max_over_time(a{b=\"[c]\"}[1d]) > 3 * b[10m]\n        for: 25h\n  x: for: 1h\n";
        let expected = "      expr: max_over_time(a{b=\"[c]\"}[5s]) > 3 * b[5s]\n        for: 1s\n  x: for: 1h\n";
        assert_eq!(hasten(rules)?, expected);
        Ok(())
    }
}
