//! Tokens: one login serves many polls, what was logged in for is revoked, and what a token may not
//! do, or must not, is not tried again and again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::deploy::allow_login;
use e2e::scenario::{SOON, deployment_without_pods as deployment, just_after_a_poll, polling_fast};
use e2e::shared::SharedBed;
use e2e::vault_access::KubernetesRole;
use e2e::{
    Bed, Controller, ControllerOptions, Mark, TokenRequest, Vault, VaultRequest, Workload,
    eventually,
};

e2e::scenarios! {
    one_login_serves_many_polls_and_sigterm_revokes_it,
    a_given_token_is_looked_up_once_and_never_revoked,
    a_token_that_is_revoked_under_way_costs_one_login,
    a_ttl_below_the_threshold_is_renewed_at_most_once_a_poll,
    a_token_that_was_revoked_is_replaced_when_its_renewal_fails,
    a_token_is_renewed_at_the_threshold_and_not_before,
    a_ttl_shorter_than_the_period_costs_a_login_a_poll_and_leaves_no_token,
    a_forbidden_path_names_the_rule_and_costs_no_login_a_poll,
    what_is_not_kv_v2_is_never_called,
    the_jwt_is_read_anew_for_each_login,
    a_vault_that_never_answers_does_not_hold_a_controller_with_a_token,
    a_namespace_is_sent_only_where_it_is_set: uses_namespaces,
}

const RENEW: &str = "auth/token/renew-self";
const REVOKE: &str = "auth/token/revoke-self";
const LOOK_UP: &str = "auth/token/lookup-self";

/// A bed whose Vault lets the `ServiceAccount` `default` log in, and that account's token.
struct Logins {
    bed: SharedBed,
    jwt: String,
    file: PathBuf,
}

impl Logins {
    async fn new() -> Result<Self> {
        let bed = Bed::shared().await?;
        allow_login(&bed, "default", "default").await?;
        let jwt = bed.cluster.request_token("default", "default", Duration::from_mins(10)).await?;
        let file = bed.folder().join("jwt");
        std::fs::write(&file, &jwt)?;
        Ok(Self { bed, jwt, file })
    }

    /// A role whose tokens live for so long.
    async fn role(&self, name: &str, token_ttl: &str) -> Result<KubernetesRole> {
        let mut role = KubernetesRole::new(name, "default", "default");
        role.token_ttl = token_ttl.to_owned();
        self.bed.vault.put_kubernetes_role("kubernetes", &role).await?;
        Ok(role)
    }

    fn options(&self, role: &str) -> ControllerOptions {
        polling_fast().kubernetes_login(role, &self.file)
    }

    fn requests(&self, mark: &Mark) -> Result<Requests> {
        self.bed.vault_requests_since(mark).map(Requests)
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

    /// The accessor of the token that was used last.
    fn accessor(&self) -> Result<&str> {
        let mut accessors = self.0.iter().rev().map(|request| request.accessor.as_str());
        accessors.find(|accessor| !accessor.is_empty()).context("no token was used")
    }
}

async fn one_login_serves_many_polls_and_sigterm_revokes_it() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    bed.write_secrets(&["login/a"]).await?;
    let a = deployment("a", "login/a");
    bed.deploy_all(&[&a]).await?;
    let before = bed.mark().await?;
    let mut controller = Controller::start(bed, &logins.options("reloader")).await?;
    controller.wait_for_polls(5, SOON).await?;
    bed.rotate("login/a").await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;

    let requests = logins.requests(&before)?;
    assert_eq!(requests.logins(), 1, "{requests:#?}");
    for path in [RENEW, REVOKE, LOOK_UP] {
        assert_eq!(requests.of(path), 0, "{path}: {requests:#?}");
    }
    let of_namespace = requests.0.iter().find(|request| !request.namespace.is_empty());
    assert_eq!(of_namespace, None, "no namespace is set, so none is sent");
    let accessor = requests.accessor()?;
    assert!(bed.vault.accessors().await?.iter().any(|it| it == accessor));
    let token = requests.0.iter().find(|request| request.accessor == accessor);
    let token = &token.context("no request")?.token;

    let (status, took) = controller.terminate().await?;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(2), "took {took:?}");
    // A busy server revokes it after the controller has ended.
    eventually("the token to be revoked", SOON, || async {
        let is_left = bed.vault.accessors().await?.iter().any(|it| it == accessor);
        Ok((!is_left).then_some(()))
    })
    .await?;
    assert!(bed.vault.lookup(token).await.is_err(), "the token still lives");
    assert_eq!(logins.requests(&before)?.of(REVOKE), 1);
    for secret in [token, &logins.jwt] {
        assert!(controller.lines_with(secret).is_empty(), "a secret is in the log");
    }
    bed.expect_no_value_touched(&before)
}

async fn a_given_token_is_looked_up_once_and_never_revoked() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["given/a"]).await?;
    let a = deployment("a", "given/a");
    bed.deploy_all(&[&a]).await?;
    let token = bed.vault.create_token(&TokenRequest::default()).await?.token;
    let before = bed.mark().await?;
    let mut controller = Controller::start(&bed, &polling_fast().vault_token(&token)).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("given/a").await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    let (status, _) = controller.terminate().await?;
    assert!(status.success(), "{status}");
    assert!(bed.vault.lookup(&token).await.is_ok(), "the token was revoked");
    let requests = Requests(bed.vault_requests_since(&before)?);
    assert_eq!(requests.of(LOOK_UP), 1, "{requests:#?}");
    assert_eq!(requests.logins() + requests.of(RENEW) + requests.of(REVOKE), 0, "{requests:#?}");
    assert!(controller.lines_with(&token).is_empty(), "the token is in the log");
    Ok(())
}

async fn a_token_that_is_revoked_under_way_costs_one_login() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    // So many that several requests are under way when the first is denied.
    let secrets: Vec<String> = (0..12).map(|number| format!("revoked/{number}")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    bed.write_secrets(&secrets).await?;
    let workloads: Vec<Workload> =
        secrets.iter().map(|secret| deployment(&secret.replace('/', "-"), secret)).collect();
    let workloads: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&workloads).await?;
    let start = bed.mark().await?;
    let controller = Controller::start(bed, &logins.options("reloader")).await?;
    just_after_a_poll(&controller).await?;

    let accessor = logins.requests(&start)?.accessor()?.to_owned();
    just_after_a_poll(&controller).await?;
    let before = bed.mark().await?;
    bed.vault.revoke_accessor(&accessor).await?;
    for secret in &secrets {
        bed.rotate(secret).await?;
    }
    bed.expect_rolls(&controller, &workloads, 1).await?;
    let requests = logins.requests(&before)?;
    assert_eq!(requests.logins(), 1, "{requests:#?}");
    // A token so young is not replaced before the next poll, and that is said, once.
    let errors = controller.lines_with("level=error");
    assert!(errors.len() <= 1, "{errors:#?}");
    Ok(())
}

async fn a_ttl_below_the_threshold_is_renewed_at_most_once_a_poll() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    logins.role("short", "20s").await?;
    bed.write_secrets(&["short/a"]).await?;
    let a = deployment("a", "short/a");
    bed.deploy_all(&[&a]).await?;
    let before = bed.mark().await?;
    let options = logins.options("short").flag("--vault-token-renew-threshold", "1m");
    let mut controller = Controller::start(bed, &options).await?;
    controller.wait_for_polls(4, SOON).await?;
    controller.terminate().await?;
    let (requests, polls) = (logins.requests(&before)?, controller.polls());
    assert_eq!(requests.logins(), 1, "{requests:#?}");
    let renewals = requests.of(RENEW);
    assert!((1..polls).contains(&renewals), "{renewals} in {polls} polls");
    assert_eq!(requests.of(LOOK_UP), 0, "{requests:#?}");
    assert_eq!(requests.of(REVOKE), 1, "{requests:#?}");
    Ok(())
}

async fn a_token_that_was_revoked_is_replaced_when_its_renewal_fails() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    logins.role("renewing", "1h").await?;
    bed.write_secrets(&["renewing/a"]).await?;
    let a = deployment("a", "renewing/a");
    bed.deploy_all(&[&a]).await?;
    let start = bed.mark().await?;
    // Each poll begins with a renewal, and no read comes before it.
    let options = logins.options("renewing").flag("--vault-token-renew-threshold", "2h");
    let controller = Controller::start(bed, &options).await?;
    controller.wait_for_polls(3, SOON).await?;
    let accessor = logins.requests(&start)?.accessor()?.to_owned();
    just_after_a_poll(&controller).await?;
    let before = bed.mark().await?;
    bed.vault.revoke_accessor(&accessor).await?;
    bed.rotate("renewing/a").await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    assert_eq!(logins.requests(&before)?.logins(), 1);
    assert!(controller.lines_with("level=error").is_empty());
    Ok(())
}

async fn a_token_is_renewed_at_the_threshold_and_not_before() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    logins.role("renewed", "8s").await?;
    bed.write_secrets(&["renewed/a"]).await?;
    let a = deployment("a", "renewed/a");
    bed.deploy_all(&[&a]).await?;
    let before = bed.mark().await?;
    // Four seconds are left at the threshold: the first renewal comes after about four.
    let options = logins.options("renewed").flag("--vault-token-renew-threshold", "4s");
    let controller = Controller::start(bed, &options).await?;
    just_after_a_poll(&controller).await?;
    let first_polls = controller.polls();
    assert_eq!(logins.requests(&before)?.of(RENEW), 0);
    eventually("the renewal", SOON, || async {
        Ok((logins.requests(&before)?.of(RENEW) > 0).then_some(()))
    })
    .await?;
    let polls = controller.polls() - first_polls;
    assert!(polls >= 5, "renewed after {polls} polls");
    controller.wait_for_polls(2, SOON).await?;
    let requests = logins.requests(&before)?;
    assert_eq!((requests.logins(), requests.of(RENEW)), (1, 1), "{requests:#?}");
    Ok(())
}

async fn a_ttl_shorter_than_the_period_costs_a_login_a_poll_and_leaves_no_token() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    // A poll under load must end within the lifetime: a token that has ended is not revoked.
    logins.role("shorter", "3s").await?;
    bed.write_secrets(&["shorter/a"]).await?;
    let a = deployment("a", "shorter/a");
    bed.deploy_all(&[&a]).await?;
    let before = bed.mark().await?;
    let options = logins.options("shorter").flag("--reloader-run-period", "3500ms");
    let mut controller = Controller::start(bed, &options).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("shorter/a").await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    controller.terminate().await?;
    let (requests, polls) = (logins.requests(&before)?, controller.polls());
    let made = requests.logins();
    // A poll that the signal cut short may not have logged in.
    assert!(made == polls || made + 1 == polls, "{made} logins in {polls} polls");
    assert_eq!(requests.of(RENEW), 0, "{requests:#?}");
    // A revocation without an answer is done again, and Vault refuses it if the first one succeeded. So
    // the revocations that succeeded count, and none succeeds twice.
    let granted = requests.0.iter().filter(|request| request.error.is_empty());
    let revoked: Vec<&str> = granted
        .filter(|request| request.path == REVOKE)
        .map(|request| request.accessor.as_str())
        .collect();
    let distinct: BTreeSet<&str> = revoked.iter().copied().collect();
    assert!(distinct.len() == revoked.len() && !distinct.contains(""), "{revoked:?}");
    // Each token but the last was revoked before the next login, so it did not have to end by itself.
    // The signal may come during a login, whose token is revoked, too.
    let expected = made.saturating_sub(1)..=made + 1;
    assert!(expected.contains(&revoked.len()), "{made} logins, {revoked:?}");
    Ok(())
}

async fn a_forbidden_path_names_the_rule_and_costs_no_login_a_poll() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    let allowed = "path \"secret/metadata/partly/allowed\" { capabilities = [\"read\"] }\n";
    let rule = "path \"secret/metadata/partly/forbidden\" { capabilities = [\"read\"] }";
    bed.vault.put_policy("partly", allowed).await?;
    let mut role = KubernetesRole::new("partly", "default", "default");
    role.policies = vec!["partly".to_owned()];
    bed.vault.put_kubernetes_role("kubernetes", &role).await?;
    bed.write_secrets(&["partly/allowed", "partly/forbidden"]).await?;
    let allowed_one = deployment("allowed", "partly/allowed");
    let forbidden_one = deployment("forbidden", "partly/forbidden");
    bed.deploy_all(&[&allowed_one, &forbidden_one]).await?;
    let before = bed.mark().await?;
    let controller = Controller::start(bed, &logins.options("partly")).await?;
    controller.wait_for_polls(3, SOON).await?;
    bed.rotate("partly/allowed").await?;
    bed.rotate("partly/forbidden").await?;
    bed.expect_rolls(&controller, &[&allowed_one], 1).await?;
    assert_eq!(bed.counts(&[&forbidden_one]).await?, [None]);
    let requests = logins.requests(&before)?;
    assert!(requests.logins() <= 2, "{requests:#?}");
    let said = controller.lines_with("secret/data/partly/forbidden: permission denied");
    assert_eq!(said.len(), 1, "{said:#?}");
    let text = said[0].text.replace("\\\"", "\"");
    assert!(text.contains("level=error") && text.contains(rule), "{text}");

    // The rule that it names is the one that was missing, and nothing was missed meanwhile.
    bed.vault.put_policy("partly", &format!("{allowed}{rule}\n")).await?;
    controller.wait_for("secret/data/partly/forbidden can be read again", SOON).await?;
    bed.expect_rolls(&controller, &[&allowed_one, &forbidden_one], 1).await?;
    bed.expect_no_value_touched(&before)
}

async fn what_is_not_kv_v2_is_never_called() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.vault.enable_kv1("kv1").await?;
    bed.vault.enable("transit", serde_json::json!({"type": "transit"})).await?;
    // A token with which a wrong call would succeed.
    bed.vault.put_policy("all", "path \"*\" { capabilities = [\"read\", \"list\"] }").await?;
    let request = TokenRequest { policies: vec!["all".to_owned()], ..TokenRequest::default() };
    let token = bed.vault.create_token(&request).await?.token;
    bed.write_secrets(&["engines/a"]).await?;
    let of =
        |name: &str, path: &str| deployment(name, "engines/a").env("B", &format!("vault:{path}#k"));
    // The spelling says KV v2; the mount decides.
    let others =
        [("kv1", "kv1/data/a"), ("transit", "transit/data/keys/a"), ("unknown", "nowhere/data/a")];
    let workloads = others.map(|(name, path)| of(name, path));
    let workloads: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&workloads).await?;
    let before = bed.mark().await?;
    let controller = Controller::start(&bed, &polling_fast().vault_token(&token)).await?;
    controller.wait_for_polls(3, SOON).await?;
    bed.rotate("engines/a").await?;
    bed.expect_rolls(&controller, &workloads, 1).await?;

    let requests = bed.vault_requests_since(&before)?;
    for (mount, path) in
        [("kv1", "kv1/data/a"), ("transit", "transit/data/keys/a"), ("nowhere", "nowhere/data/a")]
    {
        let called = requests.iter().find(|request| request.path.starts_with(&format!("{mount}/")));
        assert_eq!(called, None);
        let asked = requests.iter().filter(|request| request.path.contains(mount));
        let asked: Vec<&str> = asked.map(|request| request.path.as_str()).collect();
        let question = format!("sys/internal/ui/mounts/{mount}");
        assert!(!asked.is_empty() && asked.iter().all(|path| *path == question), "{asked:?}");
        let loud = controller.lines_matching(|line| {
            line.contains(path) && (line.contains("level=warn") || line.contains("level=error"))
        });
        assert_eq!(loud.len(), 1, "{loud:#?}");
    }
    bed.expect_no_value_touched(&before)
}

async fn the_jwt_is_read_anew_for_each_login() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    bed.write_secrets(&["jwt/a"]).await?;
    let a = deployment("a", "jwt/a");
    bed.deploy_all(&[&a]).await?;
    std::fs::remove_file(&logins.file)?;
    let before = bed.mark().await?;
    let controller = Controller::start(bed, &logins.options("reloader")).await?;
    let line = controller.wait_for("cannot read the JWT file", SOON).await?;
    assert!(line.text.contains("level=error"), "{}", line.text);
    assert_eq!(logins.requests(&before)?.logins(), 0, "there was nothing to log in with");
    // What stands there is no token that anybody knows: refused, and not asked again at once.
    std::fs::write(&logins.file, "eyJhbGciOiJub25lIn0.e30.")?;
    controller.wait_for("the login at auth/kubernetes with role reloader", SOON).await?;
    bed.rotate("jwt/a").await?;
    bed.expect_no_roll(&controller, &[(&a, None)]).await?;
    std::fs::write(&logins.file, &logins.jwt)?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    assert!(controller.lines_with(&logins.jwt).is_empty(), "the JWT is in the log");
    Ok(())
}

async fn a_vault_that_never_answers_does_not_hold_a_controller_with_a_token() -> Result<()> {
    let logins = Logins::new().await?;
    let bed = &logins.bed;
    bed.write_secrets(&["hung-token/a"]).await?;
    bed.deploy_all(&[&deployment("a", "hung-token/a")]).await?;
    let mut controller = Controller::start(bed, &logins.options("reloader")).await?;
    just_after_a_poll(&controller).await?;
    bed.vault_server.pause()?;
    let seen = controller.lines().len();
    controller.wait_for_after(seen, "Reloader started", SOON).await?;
    // The token cannot be revoked, which must not keep the process.
    let (status, took) = controller.terminate().await?;
    assert!(status.success() && took < Duration::from_secs(2), "{status}, {took:?}");
    assert_eq!(controller.lines_with("left to their end").len(), 1);
    Ok(())
}

async fn a_namespace_is_sent_only_where_it_is_set() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.vault.create_namespace("token-team").await?;
    let team = bed.vault.in_namespace("token-team");
    team.enable_kv2("secret").await?;
    bed.vault.put_policy("token-team", &Vault::reloader_rules("token-team/secret")).await?;
    let request =
        TokenRequest { policies: vec!["token-team".to_owned()], ..TokenRequest::default() };
    let token = bed.vault.create_token(&request).await?.token;
    let put = async || team.kv("secret").put("namespace/a", serde_json::json!({"k": "v"})).await;
    put().await?;
    bed.write_secrets(&["namespace/a"]).await?;
    let a = deployment("a", "namespace/a");
    bed.deploy_all(&[&a]).await?;

    let before = bed.mark().await?;
    let options = polling_fast().vault_token(&token).env("VAULT_NAMESPACE", "token-team");
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("namespace/a").await?;
    bed.expect_no_roll(&controller, &[(&a, None)]).await?;
    put().await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    let requests = bed.vault_requests_since(&before)?;
    let reads = requests.iter().filter(|request| request.path.contains("/metadata/"));
    assert!(reads.clone().count() > 0);
    assert!(reads.clone().all(|request| request.namespace == "token-team/"), "{requests:#?}");
    Ok(())
}
