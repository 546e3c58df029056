//! The process as who runs it sees it: flags, refusals, log lines, probes, signals.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::binaries::controller;
use e2e::controller_log::Stream;
use e2e::scenario::{SOON, polling_faster};
use e2e::vault_access::KubernetesRole;
use e2e::{Bed, Controller, ControllerOptions, Workload, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

e2e::scenarios! {
    version_and_help_are_no_failures,
    what_cannot_be_used_is_refused_with_its_name_and_a_remedy,
    log_lines_have_the_keys_that_people_grep_for,
    an_unknown_level_is_info_and_info_says_one_line_a_poll,
    it_is_ready_once_the_workloads_are_known_whatever_vault_does,
    signals_end_it_in_every_state,
    it_leaves_no_core_dump_which_would_hold_the_token,
    no_token_and_no_value_is_in_any_line,
}

/// From the signal to the end, in every state.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Runs the controller to its end, with nothing but this around it.
async fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(controller()?);
    command
        .args(args)
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

async fn version_and_help_are_no_failures() -> Result<()> {
    for flag in ["--version", "-version"] {
        let output = run(&[flag], &[]).await?;
        let text = String::from_utf8(output.stdout)?;
        assert!(output.status.success() && output.stderr.is_empty(), "{flag}: {text}");
        let (name, version) = text.trim().split_once(' ').context("no version")?;
        assert_eq!(name, "vault-secrets-reloader");
        assert_eq!(version.split('.').count(), 3, "{version}");
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    }
    for flag in ["--help", "-help", "-h"] {
        let output = run(&[flag], &[]).await?;
        let text = String::from_utf8(output.stdout)?;
        assert!(output.status.success() && output.stderr.is_empty(), "{flag}: {text}");
        for named in [
            "--collector-sync-period",
            "--reloader-run-period",
            "--log-level",
            "--enable-json-log",
            "--vault-token-renew-threshold",
            "--ignore-versions-before",
            "--found-reload-rate",
            "--found-reload-burst",
            "--vault-concurrency",
            "--vault-rate",
            "--vault-spread",
            "--read-config-maps",
            "--read-secrets",
            "--record-events",
            "--leader-elect",
            "--leader-elect-lease-duration",
            "--leader-elect-renew-deadline",
            "--leader-elect-retry-period",
            "--leader-elect-resource-name",
            "--leader-elect-resource-namespace",
        ] {
            assert!(text.contains(named), "{flag} does not tell of {named}:\n{text}");
        }
        // Where the rest is configured is in the long form.
        assert!(flag == "-h" || text.contains("VAULT_ADDR"), "{text}");
    }
    Ok(())
}

/// Arguments, variables, and what the refusal says: which setting, its value, what to write.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

/// What must not be repeated, wherever it was put by mistake.
const SECRET: &str = "hvs-s3cr3t-3f9a1c07";

async fn what_cannot_be_used_is_refused_with_its_name_and_a_remedy() -> Result<()> {
    let role = ("VAULT_ROLE", "reloader");
    let token_twice = format!("{SECRET}\n{SECRET}");
    let user_in_url = format!("https://admin:{SECRET}@vault:8200");
    let cases: &[Case<'_>] = &[
        (
            &["--reloader-run-period", "5 parsecs"],
            &[role],
            &["--reloader-run-period", "5 parsecs", "90s"],
        ),
        (
            &["-reloader-run-period=0s"],
            &[role],
            &["--reloader-run-period", "0s", "longer than zero"],
        ),
        (&["--collector-sync-period=-5m"], &[role], &["--collector-sync-period", "-5m"]),
        (&["--enable-json-log=maybe"], &[role], &["--enable-json-log", "maybe", "true or false"]),
        (
            &["--ignore-versions-before", "soon"],
            &[role],
            &["--ignore-versions-before", "soon", "2026"],
        ),
        (&["--found-reload-rate", "0"], &[role], &["--found-reload-rate", "above zero"]),
        (&["--found-reload-burst", "many"], &[role], &["--found-reload-burst", "many"]),
        (&["--vault-token-renew-threshold", "x"], &[role], &["--vault-token-renew-threshold"]),
        (&["--leader-elect=perhaps"], &[role], &["--leader-elect", "perhaps", "true or false"]),
        (
            &["--leader-elect-lease-duration=9s"],
            &[role],
            &["--leader-elect-lease-duration", "9s", "longer than --leader-elect-renew-deadline"],
        ),
        (
            &["--leader-elect-retry-period=11s"],
            &[role],
            &["--leader-elect-renew-deadline", "10s", "longer than --leader-elect-retry-period"],
        ),
        (&["--no-such-flag"], &[role], &["--no-such-flag", "--help"]),
        (&["surplus"], &[role], &["surplus"]),
        (&[], &[], &["VAULT_ROLE", "VAULT_TOKEN"]),
        (
            &[],
            &[role, ("VAULT_AUTH_METHOD", "magic")],
            &["VAULT_AUTH_METHOD", "magic", "kubernetes"],
        ),
        (&[], &[role, ("VAULT_ADDR", "vault:8200")], &["VAULT_ADDR", "vault:8200", "https://"]),
        (&[], &[role, ("BAO_ADDR", "ftp://vault")], &["BAO_ADDR", "ftp://vault", "https://"]),
        (&[], &[role, ("VAULT_ADDR", &user_in_url)], &["VAULT_ADDR"]),
        (
            &[],
            &[role, ("VAULT_SKIP_VERIFY", "yes")],
            &["VAULT_SKIP_VERIFY", "yes", "true or false"],
        ),
        (
            &[],
            &[role, ("VAULT_IGNORE_MISSING_SECRETS", "2")],
            &["VAULT_IGNORE_MISSING_SECRETS", "2"],
        ),
        (&[], &[role, ("VAULT_CLIENT_TIMEOUT", "-1")], &["VAULT_CLIENT_TIMEOUT", "-1"]),
        (
            &[],
            &[role, ("VAULT_TOKEN_RENEW_THRESHOLD", "0s")],
            &["VAULT_TOKEN_RENEW_THRESHOLD", "0s"],
        ),
        (&[], &[role, ("VAULT_CACERT", "/no/such/ca.pem")], &["VAULT_CACERT", "/no/such/ca.pem"]),
        (&[], &[role, ("VAULT_CAPATH", "/no/such/folder")], &["VAULT_CAPATH", "/no/such/folder"]),
        (&[], &[role, ("VAULT_CLIENT_CERT", "/no/such")], &["VAULT_CLIENT_KEY"]),
        (&[], &[role, ("LISTEN_ADDRESS", "everywhere")], &["LISTEN_ADDRESS", "everywhere", "PORT"]),
        (&[], &[role, ("LISTEN_ADDRESS", ":99999")], &["LISTEN_ADDRESS", ":99999"]),
        (&[], &[("VAULT_TOKEN", &token_twice)], &["VAULT_TOKEN"]),
        (&[], &[role, ("VAULT_PATH", "a b?")], &["VAULT_PATH", "a b?", "kubernetes"]),
    ];
    for (args, env, wanted) in cases {
        let output = run(args, env).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code().map(|code| code != 0),
            Some(true),
            "{args:?} {env:?}: {said}"
        );
        for text in *wanted {
            assert!(said.contains(text), "{args:?} {env:?} should name {text:?}: {said}");
        }
        let all = said + &String::from_utf8_lossy(&output.stdout);
        assert!(!all.contains(SECRET), "{all}");
        assert!(!all.contains("panicked"), "{all}");
    }
    Ok(())
}

/// How the lines of a format are read.
type Parse = fn(&str) -> Result<BTreeMap<String, String>>;

/// The keys of a line in logfmt, with their values.
fn logfmt(line: &str) -> Result<BTreeMap<String, String>> {
    let mut keys = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').with_context(|| format!("no key: {line}"))?;
        ensure!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{key}: {line}");
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                let end = end.with_context(|| format!("no closing quote: {line}"))?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => after.split_at(after.find(' ').unwrap_or(after.len())),
        };
        keys.insert(key.to_owned(), value.to_owned());
        rest = after.trim_start_matches(' ');
    }
    Ok(keys)
}

fn json_line(line: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(line).with_context(|| format!("not an object of texts: {line}"))
}

async fn log_lines_have_the_keys_that_people_grep_for() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("lines").await?;
    bed.write_secrets(&["lines/a"]).await?;
    let good =
        Workload::deployment("lines", "good").opted_in().env("A", "vault:secret/data/lines/a#k");
    let bad = Workload::deployment("lines", "bad")
        .opted_in()
        .env("A", "vault:secret/data/lines/missing#k")
        .env("B", "vault:no-key");
    bed.deploy_all(&[&good, &bad]).await?;
    let parsers: [(ControllerOptions, Parse); 2] =
        [(polling_faster(), logfmt), (polling_faster().switch("--enable-json-log"), json_line)];
    for (count, (options, parse)) in (1..).zip(parsers) {
        let mut controller = Controller::start(&bed, &options).await?;
        bed.expect_no_roll(&controller, &[(&bad, None)]).await?;
        bed.rotate("lines/a").await?;
        bed.cluster.wait_for_count(&good, count, SOON).await?;
        controller.wait_for("lines/missing not found", SOON).await?;
        controller.terminate().await?;
        let mut levels = BTreeMap::new();
        let mut messages = Vec::new();
        for line in controller.lines() {
            let keys = parse(&line.text)?;
            let key =
                |name: &str| keys.get(name).with_context(|| format!("no {name}: {}", line.text));
            assert_eq!(key("app")?, "vault-secrets-reloader");
            assert!(key("time")?.ends_with('Z') && key("time")?.contains('T'), "{}", line.text);
            let level = key("level")?.clone();
            let stream =
                if level == "debug" || level == "info" { Stream::Stdout } else { Stream::Stderr };
            assert_eq!(line.stream, stream, "{}", line.text);
            *levels.entry(level.clone()).or_insert(0) += 1;
            let worker = keys.get("worker").cloned().unwrap_or_default();
            messages.push((level, key("msg")?.clone(), worker));
        }
        assert!(["debug", "info", "warn", "error"].iter().all(|level| levels.contains_key(*level)));
        for (level, message, worker) in [
            ("debug", "Reloader started", "reloader"),
            ("debug", "Collected secrets from Deployment lines/good", "collector"),
            ("info", "No workloads to reload", "reloader"),
            ("info", "Reloading workload: lines/Deployment/good", "reloader"),
            ("error", "Vault secret path secret/data/lines/missing not found", "reloader"),
        ] {
            let wanted = (level.to_owned(), message.to_owned(), worker.to_owned());
            assert!(messages.contains(&wanted), "{wanted:?} is not among {messages:#?}");
        }
    }
    Ok(())
}

async fn an_unknown_level_is_info_and_info_says_one_line_a_poll() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("lines").await?;
    bed.write_secrets(&["lines/b"]).await?;
    let workload =
        Workload::deployment("lines", "b").opted_in().env("A", "vault:secret/data/lines/b#k");
    bed.deploy_all(&[&workload]).await?;
    let controller =
        Controller::start(&bed, &polling_faster().flag("--log-level", "verbose")).await?;
    let heartbeats = || controller.lines_with("No workloads to reload").len();
    eventually("three polls", SOON, || async { Ok((heartbeats() >= 3).then_some(())) }).await?;
    assert!(controller.lines_with("level=debug").is_empty());
    assert_eq!(controller.lines_with("--log-level").len(), 1, "{:#?}", controller.lines());
    let lines = controller.lines();
    let first = lines.iter().position(|line| line.text.contains("No workloads to reload"));
    let after: Vec<_> = lines[first.context("no poll")?..].iter().map(|line| &line.text).collect();
    assert!(after.iter().all(|line| line.contains("No workloads to reload")), "{after:#?}");
    Ok(())
}

async fn it_is_ready_once_the_workloads_are_known_whatever_vault_does() -> Result<()> {
    let bed = Bed::shared().await?;
    for is_stopped in [false, true] {
        if is_stopped {
            bed.api_server.stop().await?;
        } else {
            bed.api_server.pause()?;
        }
        let mut controller = Controller::spawn(&bed, &polling_faster()).await?;
        eventually("it to listen", SOON, || async { controller.probe("/").await.map(Some) })
            .await?;
        let root = controller.probe("/").await?;
        assert_eq!((root.status, root.body.as_str()), (200, "ok"));
        assert_eq!(controller.probe("/healthz").await?.status, 200);
        assert_eq!(controller.probe("/readyz").await?.status, 503);
        assert_eq!(controller.probe("/no-such").await?.status, 404);
        if is_stopped {
            bed.api_server.start().await?;
        } else {
            bed.api_server.resume().await?;
        }
        controller.wait_until_ready().await?;
        assert_eq!(controller.probe("/healthz").await?.status, 200);

        bed.vault.seal().await?;
        controller.wait_for_polls(1, SOON).await?;
        for path in ["/", "/healthz", "/readyz"] {
            assert_eq!(controller.probe(path).await?.status, 200, "{path} while Vault is sealed");
        }
        bed.vault.unseal().await?;
    }
    Ok(())
}

/// Sends a signal, and sees that the process ends by itself, in time and without an error.
async fn end_by(controller: &mut Controller, signal: Signal, state: &str) -> Result<()> {
    let began = std::time::Instant::now();
    let process = Pid::from_raw(i32::try_from(controller.pid())?).context("no process")?;
    kill_process(process, signal)?;
    let status = controller.wait_for_end(SOON).await.context(state.to_owned())?;
    let took = began.elapsed();
    ensure!(status.code() == Some(0), "{state}: {status}; {}", controller.last_lines());
    ensure!(took < ENDS_WITHIN, "{state}: took {took:?}; {}", controller.last_lines());
    Ok(())
}

async fn signals_end_it_in_every_state() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("signals").await?;
    bed.write_secrets(&["signals/a"]).await?;
    let workload =
        Workload::deployment("signals", "a").opted_in().env("A", "vault:secret/data/signals/a#k");
    bed.deploy_all(&[&workload]).await?;
    let start = async || Controller::start(&bed, &polling_faster()).await;

    let mut idle = start().await?;
    idle.wait_for_polls(1, SOON).await?;
    end_by(&mut idle, Signal::TERM, "idle").await?;
    let mut idle = start().await?;
    end_by(&mut idle, Signal::INT, "just started").await?;

    let mut polling = start().await?;
    bed.vault_server.pause()?;
    polling.wait_for_polls(0, SOON).await?;
    let ended = end_by(&mut polling, Signal::TERM, "while Vault does not answer").await;
    bed.vault_server.resume().await?;
    ended?;

    let mut watching = start().await?;
    watching.wait_for_polls(1, SOON).await?;
    bed.api_server.pause()?;
    bed.rotate("signals/a").await?;
    watching.wait_for("Reloading workload: signals/Deployment/a", SOON).await?;
    let ended = end_by(&mut watching, Signal::TERM, "while a PATCH is not answered").await;
    let mut starting = Controller::spawn(&bed, &polling_faster()).await?;
    let up =
        eventually("it to listen", SOON, || async { starting.probe("/").await.map(Some) }).await;
    let ended_too =
        end_by(&mut starting, Signal::INT, "while the first list is not answered").await;
    bed.api_server.resume().await?;
    ended.and(up.map(drop)).and(ended_too)
}

async fn it_leaves_no_core_dump_which_would_hold_the_token() -> Result<()> {
    let bed = Bed::shared().await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", controller.pid()))?;
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let core: Vec<&str> = core.context("no such limit")?.split_whitespace().take(2).collect();
    assert_eq!(core, ["0", "0"]);
    // What belongs to somebody else than its user is not to be dumped, whoever asks for it.
    let environment = std::fs::metadata(format!("/proc/{}/environ", controller.pid()))?;
    assert_eq!(environment.uid(), 0);
    kill_process(
        Pid::from_raw(controller.pid().try_into()?).context("no process")?,
        Signal::ABORT,
    )?;
    let status = controller.wait_for_end(SOON).await?;
    assert!(!status.core_dumped() && status.signal().is_some(), "{status}");
    Ok(())
}

async fn no_token_and_no_value_is_in_any_line() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("hidden").await?;
    if !bed.vault.is_auth_enabled("kubernetes").await? {
        bed.vault.enable_kubernetes_auth(&bed.cluster, "kubernetes").await?;
    }
    let role = KubernetesRole::new("hidden", "hidden", "default");
    bed.vault.put_kubernetes_role("kubernetes", &role).await?;
    let jwt = bed.cluster.request_token("hidden", "default", Duration::from_mins(10)).await?;
    let file = bed.folder().join("hidden-jwt");
    std::fs::write(&file, &jwt)?;
    let value = format!("{:032x}", fastrand::u128(..));
    bed.write_secrets(&["hidden/a"]).await?;
    let workload =
        Workload::deployment("hidden", "a").opted_in().env("A", "vault:secret/data/hidden/a#k");
    bed.deploy_all(&[&workload]).await?;
    let mark = bed.mark().await?;
    let options = polling_faster().kubernetes_login("hidden", &file);
    let mut controller = Controller::start(&bed, &options).await?;
    bed.expect_no_roll(&controller, &[(&workload, None)]).await?;
    bed.vault.kv("secret").put("hidden/a", json!({"k": value})).await?;
    bed.cluster.wait_for_count(&workload, 1, SOON).await?;
    // What goes wrong is told at more length: a revoked token, a refused login, a wrong file.
    let seen = controller.lines().len();
    bed.vault.ask(reqwest::Method::DELETE, "auth/kubernetes/role/hidden", None).await?;
    bed.vault.revoke_prefix("auth/kubernetes/login").await?;
    controller.wait_for_after(seen, "level=error", SOON).await?;
    std::fs::write(&file, format!("{jwt}x"))?;
    controller.restart().await?;
    controller.wait_for("level=error", SOON).await?;
    controller.terminate().await?;

    let log = std::fs::read_to_string(controller.log_file())?;
    let mut secrets: Vec<String> =
        bed.vault_requests_since(&mark)?.into_iter().map(|r| r.token).collect();
    secrets.retain(|token| !token.is_empty());
    assert!(!secrets.is_empty(), "it has logged in");
    // A token of either server is as good without its last part as a password without its end.
    secrets.extend(jwt.split('.').map(str::to_owned));
    secrets.extend([value, "bed-reloader-token".to_owned()]);
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{secret} is in {log}");
    }
    Ok(())
}
