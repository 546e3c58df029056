//! Ways in: each lets the controller in, costs one login, and is refused without a word of what is
//! secret.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::ports::Port;
use e2e::scenario::{SOON, deployment_without_pods as deployment, just_after_a_poll, polling_fast};
use e2e::shared::SharedBed;
use e2e::{Bed, Controller, ControllerOptions, Mark, VaultRequest, Workload, eventually};
use reqwest::Method;
use serde_json::{Value, json};

e2e::scenarios! {
    an_approle_logs_in_once_and_its_token_is_revoked,
    a_wrong_secret_id_is_tried_once_and_a_right_one_at_once,
    a_wrapped_secret_id_is_unwrapped_once_and_kept,
    what_somebody_else_wrapped_is_not_used,
    a_token_of_few_uses_is_replaced_before_it_fails_and_none_is_left_behind,
    tokens_of_each_kind_are_renewed_or_replaced_before_a_read_fails: long,
    a_token_that_lives_for_sixty_polls_costs_a_renewal_each_fifty_seven,
    a_user_logs_in_with_the_password_of_a_file,
    the_login_can_be_in_a_namespace_of_its_own: uses_namespaces,
    a_jwt_that_vault_checks_by_itself_is_a_way_in,
    behind_an_agent_or_a_proxy_there_is_no_login_of_ours,
    an_agents_file_is_followed_when_it_is_replaced,
    many_that_start_at_once_do_not_come_at_once,
}

const RENEW: &str = "auth/token/renew-self";
const UNWRAP: &str = "sys/wrapping/unwrap";
const REVOKE: &str = "auth/token/revoke-self";

/// A bed whose Vault has the role `reloader` of `auth/approle`, and a workload to be reloaded.
struct Roles {
    bed: SharedBed,
    folder: PathBuf,
    secret: String,
    workload: Workload,
    role_id: String,
}

impl Roles {
    /// `name` is of the test: its secret and its files are called so.
    async fn new(name: &str, role: Value) -> Result<Self> {
        let bed = Bed::shared().await?;
        let role_id = put_role(&bed, "approle", name, &role).await?;
        let folder = bed.folder().join(name);
        std::fs::create_dir_all(&folder)?;
        let secret = format!("{name}/a");
        bed.write_secrets(&[&secret]).await?;
        let workload = deployment(name, &secret);
        bed.deploy_all(&[&workload]).await?;
        Ok(Self { bed, folder, secret, workload, role_id })
    }

    fn name(&self) -> &str {
        &self.workload.name().name
    }

    async fn secret_id(&self) -> Result<String> {
        let path = format!("auth/approle/role/{}/secret-id", self.name());
        text(&ask(&self.bed, &path, json!({})).await?, "/data/secret_id")
    }

    /// A token that wraps the answer to a request.
    async fn wrapped(&self, path: &str, body: &Value) -> Result<String> {
        let answer: Value = reqwest::Client::new()
            .post(format!("{}/v1/{path}", self.bed.vault.address()))
            .header("X-Vault-Token", self.bed.vault.root_token())
            .header("X-Vault-Wrap-TTL", "5m")
            .json(body)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        text(&answer, "/wrap_info/token")
    }

    async fn wrapped_secret_id(&self) -> Result<String> {
        self.wrapped(&format!("auth/approle/role/{}/secret-id", self.name()), &json!({})).await
    }

    fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        std::fs::write(&file, content)?;
        Ok(file)
    }

    fn options(&self, secret_id: &Path) -> ControllerOptions {
        polling_fast()
            .without_vault_token()
            .env("VAULT_AUTH_METHOD", "approle")
            .env("VAULT_ROLE_ID", self.role_id.as_str())
            .env("VAULT_SECRET_ID_FILE", secret_id)
    }

    fn requests(&self, mark: &Mark) -> Result<Requests> {
        self.bed.vault_requests_since(mark).map(Requests)
    }

    /// The workload is reloaded for a rotation.
    async fn expect_reload(&self, controller: &Controller, count: i64) -> Result<()> {
        self.bed.rotate(&self.secret).await?;
        self.bed.expect_rolls(controller, &[&self.workload], count).await
    }
}

/// What was asked of Vault.
#[derive(Debug)]
struct Requests(Vec<VaultRequest>);

impl Requests {
    fn logins(&self) -> usize {
        self.0.iter().filter(|request| request.is_login()).count()
    }

    fn of(&self, path: &str) -> usize {
        self.0.iter().filter(|request| request.path == path).count()
    }

    fn accessor(&self) -> Result<&str> {
        let mut accessors = self.0.iter().rev().map(|request| request.accessor.as_str());
        accessors.find(|accessor| !accessor.is_empty()).context("no token was used")
    }
}

/// Writes a role, where need be with its method. Answers its role id.
async fn put_role(bed: &Bed, mount: &str, name: &str, role: &Value) -> Result<String> {
    if !bed.vault.is_auth_enabled(mount).await? {
        ask(bed, &format!("sys/auth/{mount}"), json!({"type": "approle"})).await?;
    }
    let mut settings = json!({"token_policies": ["reloader"], "token_ttl": "1h"});
    if let (Some(settings), Some(role)) = (settings.as_object_mut(), role.as_object()) {
        settings.extend(role.clone());
    }
    ask(bed, &format!("auth/{mount}/role/{name}"), settings).await?;
    let path = format!("auth/{mount}/role/{name}/role-id");
    text(&bed.vault.ask(Method::GET, &path, None).await?, "/data/role_id")
}

async fn ask(bed: &Bed, path: &str, body: Value) -> Result<Value> {
    bed.vault.ask(Method::POST, path, Some(body)).await
}

fn text(value: &Value, pointer: &str) -> Result<String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no text at {pointer}"))
}

/// Waits until there are as many tokens as before. A controller that ends waits half a second for the
/// revocation of its token, and a busy server takes longer.
async fn expect_no_token_left(bed: &Bed, before: usize) -> Result<()> {
    eventually("the tokens to be as many as before", SOON, || async {
        Ok((bed.vault.accessors().await?.len() == before).then_some(()))
    })
    .await
}

async fn an_approle_logs_in_once_and_its_token_is_revoked() -> Result<()> {
    let roles = Roles::new("approle", json!({})).await?;
    let secret_id = roles.secret_id().await?;
    let file = roles.file("secret-id", &format!("{secret_id}\n"))?;
    let role_id = roles.file("role-id", &roles.role_id)?;
    // Either may be in a file or in a variable.
    let in_variables = polling_fast()
        .without_vault_token()
        .env("VAULT_AUTH_METHOD", "approle")
        .env("BAO_ROLE_ID_FILE", role_id.as_os_str())
        .env("VAULT_SECRET_ID", secret_id.as_str());
    for (count, options) in [roles.options(&file), in_variables].iter().enumerate() {
        let tokens = roles.bed.vault.accessors().await?.len();
        let before = roles.bed.mark().await?;
        let mut controller = Controller::start(&roles.bed, options).await?;
        just_after_a_poll(&controller).await?;
        roles.expect_reload(&controller, i64::try_from(count)? + 1).await?;
        controller.terminate().await?;
        let requests = roles.requests(&before)?;
        assert_eq!((requests.logins(), requests.of(REVOKE)), (1, 1), "{requests:#?}");
        expect_no_token_left(&roles.bed, tokens).await?;
        assert!(controller.lines_with(&secret_id).is_empty(), "the secret id is in the log");
        roles.bed.expect_no_value_touched(&before)?;
    }
    Ok(())
}

async fn a_wrong_secret_id_is_tried_once_and_a_right_one_at_once() -> Result<()> {
    let roles = Roles::new("wrong", json!({})).await?;
    let file = roles.file("secret-id", "8f6a7a12-0000-4000-8000-00000000beef")?;
    let before = roles.bed.mark().await?;
    let mut controller = Controller::start(&roles.bed, &roles.options(&file)).await?;
    controller.must_not_say("00000000beef");
    controller.wait_for("the login at auth/approle: Vault refuses (status 400)", SOON).await?;
    controller.wait_for_polls(10, SOON).await?;
    assert_eq!(roles.requests(&before)?.logins(), 1, "five would lock the role for everybody");
    assert_eq!(controller.lines_with("level=error").len(), 1);
    std::fs::write(&file, roles.secret_id().await?)?;
    roles.expect_reload(&controller, 1).await?;
    assert_eq!(roles.requests(&before)?.logins(), 2);
    Ok(())
}

async fn a_wrapped_secret_id_is_unwrapped_once_and_kept() -> Result<()> {
    let roles = Roles::new("wrapped", json!({})).await?;
    let secret_id = "5f1d8a0c-7e3b-4c52-9a57-wrapped-by-hand";
    let body = json!({ "secret_id": secret_id });
    let wrapping_token = roles.wrapped("auth/approle/role/wrapped/custom-secret-id", &body).await?;
    let file = roles.file("secret-id", &wrapping_token)?;
    let options = roles.options(&file).env("VAULT_SECRET_ID_WRAPPED", "true");
    let before = roles.bed.mark().await?;
    let mut controller = Controller::start(&roles.bed, &options).await?;
    controller.must_not_say(secret_id);
    controller.must_not_say(&wrapping_token);
    just_after_a_poll(&controller).await?;
    roles.expect_reload(&controller, 1).await?;
    // A token that is revoked is old enough for a new login after some seconds only.
    let accessor = roles.requests(&before)?.accessor()?.to_owned();
    roles.bed.vault.revoke_accessor(&accessor).await?;
    roles.expect_reload(&controller, 2).await?;
    let requests = roles.requests(&before)?;
    assert_eq!((requests.logins(), requests.of(UNWRAP)), (2, 1), "{requests:#?}");

    // After a restart it is used up, and that is said: somebody else may have had it.
    controller.restart().await?;
    let line = controller.wait_for("the wrapped secret id cannot be used", SOON).await?;
    assert!(line.text.contains("take the secret id as stolen"), "{}", line.text);
    std::fs::write(&file, roles.wrapped_secret_id().await?)?;
    roles.expect_reload(&controller, 3).await
}

async fn what_somebody_else_wrapped_is_not_used() -> Result<()> {
    let roles = Roles::new("foisted", json!({})).await?;
    let foisted = json!({"secret_id": roles.secret_id().await?});
    let file = roles.file("secret-id", &roles.wrapped("sys/wrapping/wrap", &foisted).await?)?;
    let options = roles.options(&file).env("VAULT_SECRET_ID_WRAPPED", "true");
    let before = roles.bed.mark().await?;
    let controller = Controller::start(&roles.bed, &options).await?;
    controller.wait_for("but from \\\"sys/wrapping/wrap\\\"", SOON).await?;
    let requests = roles.requests(&before)?;
    assert_eq!((requests.logins(), requests.of(UNWRAP)), (0, 0), "{requests:#?}");
    Ok(())
}

async fn a_token_of_few_uses_is_replaced_before_it_fails_and_none_is_left_behind() -> Result<()> {
    let roles = Roles::new("few", json!({"token_num_uses": 6})).await?;
    let bed = &roles.bed;
    let secrets: Vec<String> = (0..20).map(|number| format!("few-{number}/a")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    bed.write_secrets(&secrets).await?;
    let workloads: Vec<Workload> =
        secrets.iter().map(|secret| deployment(&secret.replace('/', "-"), secret)).collect();
    let workloads: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&workloads).await?;
    let file = roles.file("secret-id", &roles.secret_id().await?)?;
    let tokens = bed.vault.accessors().await?.len();
    let before = bed.mark().await?;
    let mut controller = Controller::start(bed, &roles.options(&file)).await?;
    just_after_a_poll(&controller).await?;
    for secret in &secrets {
        bed.rotate(secret).await?;
    }
    bed.expect_rolls(&controller, &workloads, 1).await?;
    controller.terminate().await?;
    assert_eq!(controller.lines_with("for 6 requests only").len(), 1);
    assert_eq!(controller.lines_with("level=error").len(), 0);
    let requests = roles.requests(&before)?;
    let refused = requests.0.iter().find(|request| !request.error.is_empty());
    assert_eq!(refused, None, "each was sent with a token that was good for it");
    // Five requests a token; the sixth revokes it. Requests that wait for a login at once share it.
    let (logins, sent) = (requests.logins(), requests.0.len());
    assert!((sent / 7..=sent / 6 + 2).contains(&logins), "{logins} logins in {sent} requests");
    expect_no_token_left(bed, tokens).await?;
    Ok(())
}

async fn tokens_of_each_kind_are_renewed_or_replaced_before_a_read_fails() -> Result<()> {
    // Its methods are of its own, so that logins can be told apart.
    let roles = Roles::new("kinds", json!({})).await?;
    let bed = &roles.bed;
    let kinds = [
        ("truncated", json!({"token_ttl": "12s", "token_max_ttl": "18s"})),
        ("batch", json!({"token_ttl": "12s", "token_type": "batch"})),
        ("periodic", json!({"token_period": "12s"})),
    ];
    let tokens = bed.vault.accessors().await?.len();
    let before = bed.mark().await?;
    let mut controllers = Vec::new();
    for (mount, role) in &kinds {
        let role_id = put_role(bed, mount, "kinds", &with_no_secret_id(role)).await?;
        let options = ControllerOptions::new()
            .without_vault_token()
            .env("VAULT_AUTH_METHOD", "approle")
            .env("VAULT_PATH", *mount)
            .env("VAULT_ROLE_ID", role_id);
        controllers.push(Controller::start(bed, &options).await?);
    }
    // Forty seconds: more than two lives of those that are not renewed for ever.
    controllers[0].wait_for_polls(40, SOON * 4).await?;
    roles.bed.rotate(&roles.secret).await?;
    bed.expect_rolls(&controllers[0], &[&roles.workload], 1).await?;
    for controller in &mut controllers {
        controller.terminate().await?;
        assert!(controller.lines_with("level=error").is_empty(), "{}", controller.last_lines());
    }
    let requests = roles.requests(&before)?;
    let reads = requests.0.iter().filter(|request| request.path.contains("/metadata/"));
    let refused = reads.clone().find(|request| !request.error.is_empty());
    assert_eq!(refused, None, "a read failed");
    // Batch tokens cannot be revoked, which is not tried. The revocation of another token is tried again
    // where a busy server answers too late, and is refused then, since the token has ended.
    let mut revoked = HashSet::new();
    let revocations = requests.0.iter().filter(|request| request.path == REVOKE);
    for request in revocations {
        let is_first = revoked.insert(request.token.as_str());
        assert!(request.error.is_empty() || !is_first, "a revocation was refused: {request:?}");
    }
    // The one is renewed after 9 polls and replaced after 15, the other replaced after 9.
    let polls = controllers[0].polls();
    let logins = |mount: &str| requests.of(&format!("auth/{mount}/login"));
    let (truncated, batch) = (logins("truncated"), logins("batch"));
    assert!((2..=polls / 12 + 1).contains(&truncated), "{truncated} in {polls} polls");
    assert!((3..=polls / 8 + 1).contains(&batch), "{batch} in {polls} polls");
    assert_eq!(logins("periodic"), 1);
    // Each of the one that has come so far was renewed, and the one of the third kind.
    let renewed = requests.0.iter().filter(|request| request.path == RENEW);
    let renewed: HashSet<&str> = renewed.map(|request| request.accessor.as_str()).collect();
    assert!(renewed.len() >= truncated, "{renewed:?} of {truncated} and one");
    assert_eq!(requests.of("auth/token/lookup-self"), 0);
    expect_no_token_left(bed, tokens).await?;
    Ok(())
}

/// A role that machines log in with by its id alone, from wherever they are.
fn with_no_secret_id(role: &Value) -> Value {
    let mut role = role.clone();
    role["bind_secret_id"] = json!(false);
    role["token_bound_cidrs"] = json!(["127.0.0.1/32"]);
    role
}

async fn a_token_that_lives_for_sixty_polls_costs_a_renewal_each_fifty_seven() -> Result<()> {
    let roles = Roles::new("sixty", json!({"token_ttl": "15s"})).await?;
    let file = roles.file("secret-id", &roles.secret_id().await?)?;
    let options = roles.options(&file).flag("--reloader-run-period", "250ms");
    let before = roles.bed.mark().await?;
    let mut controller = Controller::start(&roles.bed, &options).await?;
    eventually("two renewals", SOON * 2, || async {
        Ok((roles.requests(&before)?.of(RENEW) >= 2).then_some(()))
    })
    .await?;
    controller.terminate().await?;
    let requests = roles.requests(&before)?;
    assert_eq!((requests.logins(), requests.of("auth/token/lookup-self")), (1, 0), "{requests:#?}");
    let read = format!("secret/metadata/{}", roles.secret);
    let asked: Vec<&str> = requests.0.iter().map(|request| request.path.as_str()).collect();
    let polls: Vec<usize> = asked
        .split(|path| *path == RENEW)
        .map(|between| between.iter().filter(|path| **path == read).count())
        .collect();
    // Fewer where the machine was too busy for a poll.
    assert!(polls[..2].iter().all(|polls| (50..=58).contains(polls)), "{polls:?}");
    Ok(())
}

async fn a_user_logs_in_with_the_password_of_a_file() -> Result<()> {
    let roles = Roles::new("user", json!({})).await?;
    let bed = &roles.bed;
    ask(bed, "sys/auth/people", json!({"type": "userpass"})).await?;
    let user = json!({"password": "correct horse ä", "token_policies": ["reloader"]});
    ask(bed, "auth/people/users/reloader", user).await?;
    let file = roles.file("password", "correct horse ä\n")?;
    let options = polling_fast()
        .without_vault_token()
        .env("VAULT_AUTH_METHOD", "userpass")
        .env("VAULT_PATH", "people")
        .env("VAULT_USERNAME", "reloader")
        .env("VAULT_PASSWORD_FILE", file.as_os_str());
    let before = bed.mark().await?;
    let mut controller = Controller::start(bed, &options).await?;
    just_after_a_poll(&controller).await?;
    roles.expect_reload(&controller, 1).await?;
    controller.terminate().await?;
    let requests = roles.requests(&before)?;
    assert_eq!((requests.logins(), requests.of(REVOKE)), (1, 1), "{requests:#?}");
    assert!(controller.lines_with("correct horse").is_empty(), "the password is in the log");
    Ok(())
}

async fn the_login_can_be_in_a_namespace_of_its_own() -> Result<()> {
    let roles = Roles::new("elsewhere", json!({})).await?;
    let bed = &roles.bed;
    bed.vault.create_namespace("elsewhere-team").await?;
    let team = bed.vault.in_namespace("elsewhere-team");
    team.enable_kv2("secret").await?;
    bed.vault.put_policy("elsewhere", &e2e::Vault::reloader_rules("elsewhere-team/secret")).await?;
    let role = json!({"token_policies": ["elsewhere"], "token_ttl": "1h"});
    ask(bed, "auth/approle/role/elsewhere", role).await?;
    let put = async || team.kv("secret").put("elsewhere/a", json!({"k": "v"})).await;
    put().await?;
    let file = roles.file("secret-id", &roles.secret_id().await?)?;
    let options = roles
        .options(&file)
        .env("VAULT_NAMESPACE", "elsewhere-team")
        .env("VAULT_AUTH_NAMESPACE", "/");
    let before = bed.mark().await?;
    let mut controller = Controller::start(bed, &options).await?;
    // Written after the workload was deployed.
    bed.expect_rolls(&controller, &[&roles.workload], 1).await?;
    put().await?;
    bed.expect_rolls(&controller, &[&roles.workload], 2).await?;
    controller.terminate().await?;
    let requests = roles.requests(&before)?;
    assert_eq!((requests.logins(), requests.of(REVOKE)), (1, 1), "{requests:#?}");
    Ok(())
}

/// A real agent or proxy, which logs in itself, keeps its token in a file, and adds it to what it is
/// asked.
struct Agent {
    address: String,
    sink: PathBuf,
    child: std::process::Child,
    _port: Port,
}

impl Agent {
    /// `kind` is `agent` or `proxy`.
    async fn start(roles: &Roles, kind: &str) -> Result<Self> {
        let port = Port::any()?;
        let sink = roles.folder.join(format!("{kind}-sink"));
        let role_id = roles.file("agent-role-id", &roles.role_id)?;
        let secret_id = roles.file("agent-secret-id", &roles.secret_id().await?)?;
        let listen = format!("127.0.0.1:{}", port.number());
        let configuration = json!({
            "vault": {"address": roles.bed.vault.address()},
            "auto_auth": {
                "method": [{"type": "approle", "config": {
                    "role_id_file_path": role_id,
                    "secret_id_file_path": secret_id,
                    "remove_secret_id_file_after_reading": false,
                }}],
                "sinks": [{"sink": {"type": "file", "config": {"path": sink}}}],
            },
            "api_proxy": {"use_auto_auth_token": true},
            "listener": [{"tcp": {
                "address": listen, "tls_disable": true, "require_request_header": true,
            }}],
        });
        let configuration = roles.file(&format!("{kind}.json"), &configuration.to_string())?;
        let log = std::fs::File::create(roles.folder.join(format!("{kind}.log")))?;
        let mut command = Command::new(roles.bed.binaries().vault());
        command.arg(kind).arg(format!("-config={}", configuration.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        roles.bed.group().join(&mut command);
        let child = command.spawn()?;
        let agent = Self { address: format!("http://{listen}"), sink, child, _port: port };
        eventually("the agent's token", SOON, || async { Ok(agent.sink.is_file().then_some(())) })
            .await?;
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn a_jwt_that_vault_checks_by_itself_is_a_way_in() -> Result<()> {
    let roles = Roles::new("jwt-method", json!({})).await?;
    let bed = &roles.bed;
    let key = bed.cluster.account_public_key()?;
    ask(bed, "sys/auth/jwt", json!({"type": "jwt"})).await?;
    ask(bed, "auth/jwt/config", json!({"jwt_validation_pubkeys": [key]})).await?;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["https://kubernetes.default.svc"],
        "bound_subject": "system:serviceaccount:default:default", "token_policies": ["reloader"],
    });
    ask(bed, "auth/jwt/role/reloader", role).await?;
    let jwt = bed.cluster.request_token("default", "default", Duration::from_mins(10)).await?;
    let options = polling_fast()
        .without_vault_token()
        .env("VAULT_AUTH_METHOD", "jwt")
        .env("VAULT_PATH", "jwt")
        .env("VAULT_ROLE", "reloader")
        .env("VAULT_JWT_FILE", roles.file("jwt", &jwt)?);
    let before = bed.mark().await?;
    let mut controller = Controller::start(bed, &options).await?;
    just_after_a_poll(&controller).await?;
    roles.expect_reload(&controller, 1).await?;
    controller.terminate().await?;
    let requests = roles.requests(&before)?;
    assert_eq!((requests.logins(), requests.of("auth/jwt/login")), (1, 1), "{requests:#?}");
    Ok(())
}

async fn behind_an_agent_or_a_proxy_there_is_no_login_of_ours() -> Result<()> {
    let roles = Roles::new("agent", json!({})).await?;
    let agent = Agent::start(&roles, "agent").await?;
    let proxy = Agent::start(&roles, "proxy").await?;
    let plain = || polling_fast().without_vault_token();
    let ways = [
        plain().env("VAULT_AUTH_METHOD", "none").env("VAULT_ADDR", agent.address.as_str()),
        plain().env("VAULT_AGENT_ADDR", agent.address.as_str()),
        plain().env("VAULT_AUTH_METHOD", "none").env("VAULT_ADDR", proxy.address.as_str()),
        plain().env("VAULT_TOKEN_PATH", agent.sink.as_os_str()),
    ];
    for (count, options) in ways.iter().enumerate() {
        let before = roles.bed.mark().await?;
        let mut controller = Controller::start(&roles.bed, options).await?;
        just_after_a_poll(&controller).await?;
        roles.expect_reload(&controller, i64::try_from(count)? + 1).await?;
        controller.terminate().await?;
        let requests = roles.requests(&before)?;
        assert_eq!((requests.logins(), requests.of(REVOKE)), (0, 0), "{requests:#?}");
    }
    Ok(())
}

async fn an_agents_file_is_followed_when_it_is_replaced() -> Result<()> {
    let roles = Roles::new("sink", json!({})).await?;
    let request = e2e::TokenRequest::default();
    let token = || roles.bed.vault.create_token(&request);
    let first = token().await?;
    let sink = roles.file("sink", &first.token)?;
    let options = polling_fast().without_vault_token().env("VAULT_TOKEN_PATH", sink.as_os_str());
    let controller = Controller::start(&roles.bed, &options).await?;
    just_after_a_poll(&controller).await?;
    let second = token().await?;
    let replaced = roles.file("sink.new", &second.token)?;
    std::fs::rename(replaced, &sink)?;
    controller.wait_for("The token file was replaced", SOON).await?;
    roles.bed.vault.revoke(&first.token).await?;
    roles.expect_reload(&controller, 1).await?;
    assert!(controller.lines_with("level=error").is_empty());
    Ok(())
}

async fn many_that_start_at_once_do_not_come_at_once() -> Result<()> {
    let roles = Roles::new("herd", json!({})).await?;
    let file = roles.file("secret-id", &roles.secret_id().await?)?;
    // Of its own, since it is written anew with each start.
    let kubeconfig = std::fs::read_to_string(roles.bed.reloader_kubeconfig()?)?;
    let options = roles
        .options(&file)
        .flag("--reloader-run-period", "1m")
        .env("KUBECONFIG", roles.file("kubeconfig", &kubeconfig)?);
    let mut herd = Vec::new();
    for _ in 0..10 {
        herd.push(Controller::spawn(&roles.bed, &options).await?);
    }
    let mut times = Vec::new();
    for controller in &herd {
        let line = controller.wait_for("Logged in to Vault", SOON).await?.text;
        let time = line.split_whitespace().find_map(|word| word.strip_prefix("time="));
        times.push(time.context("no time")?.parse::<jiff::Timestamp>()?);
    }
    times.sort_unstable();
    // Ten over ten seconds: that one second has eight of them has odds of one in twenty-five thousand.
    let is_spread =
        |eight: &[jiff::Timestamp]| eight[7].duration_since(eight[0]).as_secs_f64() > 1.0;
    assert!(times.windows(8).all(is_spread), "{times:?}");
    Ok(())
}
