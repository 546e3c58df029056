//! Logins with an identity of AWS. A stand-in for the servers of AWS checks the signature of each
//! request, as AWS does, with the secret key that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::scenario::{SOON, deployment_without_pods, just_after_a_poll, polling_fast};
use e2e::shared::SharedBed;
use e2e::{Bed, Controller, ControllerOptions, TokenRequest, VaultRequest, Workload, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

e2e::scenarios! {
    keys_of_each_source_sign_a_login_that_aws_confirms_to_vault: uses_aws_auth,
    a_login_of_iam_is_renewed_and_revoked: uses_aws_auth,
    a_login_is_for_the_vault_server_that_its_header_names: uses_aws_auth,
    a_login_of_iam_has_the_form_that_vault_documents,
    an_instance_logs_in_with_its_document_and_its_nonce,
}

const RENEW: &str = "auth/token/renew-self";
const REVOKE: &str = "auth/token/revoke-self";

const REGION: &str = "eu-west-1";

/// Keys that last, and their secret.
const LASTING: (&str, &str) = ("AKIAIOSFODNN7RELOAD", "lasting/K7MDENG+bPxRfiCYEXAMPLEKEY");

/// Keys of a role, their secret and their session.
const TEMPORARY: (&str, &str) = ("ASIAIOSFODNN7RELOAD", "temporary/K7MDENG+bPxRfiCYEXAMPLEKEY");
const SESSION: &str = "IQoJb3JpZ2luX2VjEXAMPLE/session+token==";

const ROLE: &str = "arn:aws:iam::123456789012:role/reloader";
const USER: &str = "arn:aws:iam::123456789012:user/reloader";

/// The token of the service account that is exchanged for keys.
const WEB_IDENTITY: &str = "web-identity.token-of.the-service-account";

/// The token that the server of a container expects.
const CONTAINER: &str = "authorization-token-of-the-container";

/// The session token of the metadata server.
const METADATA: &str = "session-token-of-the-metadata-server";

/// The identity document that an instance signs.
const DOCUMENT: &str = "MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCABgkq";

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The servers of AWS.
struct Aws {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What was answered.
    answered: Mutex<Vec<&'static str>>,
    /// What was wrong with requests.
    refused: Mutex<Vec<String>>,
}

/// A request to a server of AWS.
struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Aws {
    async fn start() -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    /// How many requests were answered with this.
    fn answered(&self, what: &str) -> usize {
        locked(&self.shared.answered).iter().filter(|it| **it == what).count()
    }

    fn expect_none_refused(&self) -> Result<()> {
        let refused = locked(&self.shared.refused);
        ensure!(refused.is_empty(), "the stand-in for AWS refused: {refused:#?}");
        Ok(())
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, [(HeaderName, &'static str); 1], String) {
    let request = Request { method, path: uri.path().to_owned(), headers, body };
    match request.reply() {
        Ok((what, content_type, body)) => {
            locked(&shared.answered).push(what);
            (StatusCode::OK, [(CONTENT_TYPE, content_type)], body)
        }
        Err(error) => {
            locked(&shared.refused).push(format!("{error:#}"));
            let body = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
            (StatusCode::FORBIDDEN, [(CONTENT_TYPE, "text/xml")], body.to_owned())
        }
    }
}

impl Request {
    fn header(&self, name: &str) -> Result<&str> {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.with_context(|| format!("no header {name}"))
    }

    fn expect_header(&self, name: &str, wanted: &str) -> Result<()> {
        let given = self.header(name)?;
        ensure!(given == wanted, "the header {name} is {given}");
        Ok(())
    }

    /// Returns what was asked for, the type of the answer, and its body.
    fn reply(&self) -> Result<(&'static str, &'static str, String)> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let text = |what, body: &str| Ok((what, "text/plain", body.to_owned()));
        let keys = json!({
            "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": TEMPORARY.0,
            "SecretAccessKey": TEMPORARY.1, "Token": SESSION, "Expiration": "2100-01-01T00:00:00Z",
        })
        .to_string();
        match (self.method.as_str(), self.path.as_str()) {
            // Vault appends the path of the signed request to its endpoint.
            ("POST", "/" | "//") => {
                let (what, body) = self.security_token_service()?;
                Ok((what, "text/xml", body))
            }
            ("GET", "/v1/credentials") => {
                self.expect_header("authorization", CONTAINER)?;
                Ok(("container", "application/json", keys))
            }
            ("PUT", "/latest/api/token") => {
                self.header("x-aws-ec2-metadata-token-ttl-seconds")?;
                text("metadata token", METADATA)
            }
            ("GET", path) if path.starts_with("/latest/") => {
                self.expect_header("x-aws-ec2-metadata-token", METADATA)?;
                match path.strip_prefix(ROLES) {
                    Some("") => text("roles", "reloader\n"),
                    Some("reloader") => text("instance", &keys),
                    None if path == "/latest/dynamic/instance-identity/pkcs7" => {
                        let (first, last) = DOCUMENT.split_at(28);
                        text("document", &format!("{first}\n{last}\n"))
                    }
                    _ => bail!("{path} is not documented"),
                }
            }
            (method, path) => bail!("{method} {path} is not documented"),
        }
    }

    fn security_token_service(&self) -> Result<(&'static str, String)> {
        let form = reqwest::Url::parse(&format!("http://sts/?{}", self.body))?;
        let fields: BTreeMap<String, String> = form.query_pairs().into_owned().collect();
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        ensure!(field("Version") == "2011-06-15", "another version: {fields:?}");
        match field("Action") {
            "GetCallerIdentity" => {
                let id = self.verify_signature()?;
                let (arn, user) = if id == LASTING.0 {
                    (USER, "AIDARELOADER")
                } else {
                    let assumed = "arn:aws:sts::123456789012:assumed-role/reloader/session";
                    (assumed, "AROARELOADER:session")
                };
                let result = format!(
                    "<Arn>{arn}</Arn><UserId>{user}</UserId><Account>123456789012</Account>"
                );
                Ok(("identity", response("GetCallerIdentity", &result)))
            }
            "AssumeRoleWithWebIdentity" => {
                ensure!(field("RoleArn") == ROLE, "another role");
                ensure!(field("WebIdentityToken") == WEB_IDENTITY, "another token");
                ensure!(!field("RoleSessionName").is_empty(), "no name of the session");
                let (id, secret) = TEMPORARY;
                let result = format!(
                    "<Credentials><AccessKeyId>{id}</AccessKeyId>\
                     <SecretAccessKey>{secret}</SecretAccessKey>\
                     <SessionToken>{SESSION}</SessionToken>\
                     <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>"
                );
                Ok(("web identity", response("AssumeRoleWithWebIdentity", &result)))
            }
            action => bail!("the action {action} is not known"),
        }
    }

    /// Computes the signature from the request and the secret key. Returns the id of the key.
    fn verify_signature(&self) -> Result<&str> {
        let authorization = self.header("authorization")?;
        let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ").context("another algorithm")?;
        let parts: BTreeMap<&str, &str> =
            parts.split(", ").filter_map(|part| part.split_once('=')).collect();
        let part = |name: &str| parts.get(name).copied().with_context(|| format!("no {name}"));
        let (id, scope) = part("Credential")?.split_once('/').context("no scope")?;
        let secret = match id {
            id if id == LASTING.0 => LASTING.1,
            id if id == TEMPORARY.0 => {
                self.expect_header("x-amz-security-token", SESSION)?;
                TEMPORARY.1
            }
            id => bail!("the key {id} is not known"),
        };
        let date = self.header("x-amz-date")?;
        let day = date.get(..8).context("no date")?;
        ensure!(scope == format!("{day}/{REGION}/sts/aws4_request"), "another scope: {scope}");

        let names = part("SignedHeaders")?;
        let mut canonical = "POST\n/\n\n".to_owned();
        for name in names.split(';') {
            canonical.extend([name, ":", self.header(name)?.trim(), "\n"]);
        }
        for needed in ["host", "x-amz-date"] {
            ensure!(names.split(';').any(|name| name == needed), "{needed} is not signed");
        }
        canonical.extend(["\n", names, "\n"]);
        canonical.push_str(&hex(digest(&SHA256, self.body.as_bytes()).as_ref()));
        let hashed = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}");
        let mut key = format!("AWS4{secret}").into_bytes();
        for text in scope.split('/').chain([to_sign.as_str()]) {
            let sign = hmac::Key::new(hmac::HMAC_SHA256, &key);
            key = hmac::sign(&sign, text.as_bytes()).as_ref().to_vec();
        }
        ensure!(hex(&key) == part("Signature")?, "the signature is wrong: {canonical}");
        Ok(id)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn response(action: &str, result: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         {result}</{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
         </{action}Response>"
    )
}

/// A bed, the servers of AWS, and a workload to be reloaded.
struct Clouds {
    bed: SharedBed,
    aws: Aws,
    name: &'static str,
    secret: String,
    workload: Workload,
}

impl Clouds {
    /// `name` is of the test: its secret and its files are called so.
    async fn new(name: &'static str) -> Result<Self> {
        let (bed, aws) = (Bed::shared().await?, Aws::start().await?);
        std::fs::create_dir_all(bed.folder().join(name))?;
        let secret = format!("{name}/a");
        bed.write_secrets(&[&secret]).await?;
        let workload = deployment_without_pods(name, &secret);
        bed.deploy_all(&[&workload]).await?;
        Ok(Self { bed, aws, name, secret, workload })
    }

    /// Mounts the method `aws`, which asks the stand-in, with a role for its principals.
    async fn mount(&self, server_id: &str, ttl: &str) -> Result<()> {
        let (vault, mount) = (&self.bed.vault, self.name);
        vault.enable_auth("aws", mount).await?;
        let client = json!({
            "sts_endpoint": self.aws.address, "iam_endpoint": self.aws.address,
            "sts_region": REGION, "iam_server_id_header_value": server_id, "max_retries": 0,
        });
        let path = format!("auth/{mount}/config/client");
        vault.ask(Method::POST, &path, Some(client)).await?;
        let role = json!({
            "auth_type": "iam", "bound_iam_principal_arn": [USER, ROLE],
            "resolve_aws_unique_ids": false, "token_policies": ["reloader"], "token_ttl": ttl,
        });
        let path = format!("auth/{mount}/role/reloader");
        vault.ask(Method::POST, &path, Some(role)).await.map(drop)
    }

    fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let file = self.bed.folder().join(self.name).join(name);
        std::fs::write(&file, content)?;
        Ok(file)
    }

    fn options(&self) -> ControllerOptions {
        polling_fast()
            .without_vault_token()
            .env("VAULT_AUTH_METHOD", "aws-iam")
            .env("VAULT_PATH", self.name)
            .env("VAULT_ROLE", "reloader")
            .env("VAULT_AWS_REGION", REGION)
            .env("VAULT_AWS_STS_ENDPOINT", self.aws.address.as_str())
    }

    fn options_with_keys(&self) -> ControllerOptions {
        self.options().env("AWS_ACCESS_KEY_ID", LASTING.0).env("AWS_SECRET_ACCESS_KEY", LASTING.1)
    }

    /// Starts a controller whose log must hold no credential of AWS.
    async fn start(&self, options: &ControllerOptions) -> Result<Controller> {
        let mut controller = Controller::start(&self.bed, options).await?;
        for secret in [LASTING.1, TEMPORARY.1, SESSION, WEB_IDENTITY, CONTAINER, METADATA, DOCUMENT]
        {
            controller.must_not_say(secret);
        }
        Ok(controller)
    }

    /// The workload is reloaded for a rotation.
    async fn expect_reload(&self, controller: &Controller, count: i64) -> Result<()> {
        self.bed.rotate(&self.secret).await?;
        self.bed.expect_rolls(controller, &[&self.workload], count).await
    }
}

fn logins(requests: &[VaultRequest]) -> usize {
    requests.iter().filter(|request| request.is_login()).count()
}

fn count(requests: &[VaultRequest], path: &str) -> usize {
    requests.iter().filter(|request| request.path == path).count()
}

async fn keys_of_each_source_sign_a_login_that_aws_confirms_to_vault() -> Result<()> {
    let clouds = Clouds::new("aws-sources").await?;
    clouds.mount("", "1h").await?;
    let address = clouds.aws.address.as_str();
    let web_identity = clouds.file("token", &format!("{WEB_IDENTITY}\n"))?;
    let container = clouds.file("container", CONTAINER)?;
    let sources = [
        ("identity", clouds.options_with_keys()),
        (
            "web identity",
            clouds
                .options()
                .env("AWS_ROLE_ARN", ROLE)
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", web_identity),
        ),
        (
            "container",
            clouds
                .options()
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{address}/v1/credentials"))
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", container),
        ),
        ("instance", clouds.options().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)),
    ];
    for (index, (source, options)) in sources.iter().enumerate() {
        let before = clouds.bed.mark().await?;
        let mut controller = clouds.start(options).await?;
        just_after_a_poll(&controller).await?;
        clouds.expect_reload(&controller, i64::try_from(index)? + 1).await?;
        controller.terminate().await?;
        clouds.aws.expect_none_refused()?;
        let requests = clouds.bed.vault_requests_since(&before)?;
        assert_eq!(
            (logins(&requests), count(&requests, RENEW), count(&requests, REVOKE)),
            (1, 0, 1),
            "{source}: {requests:#?}"
        );
        clouds.bed.expect_no_value_touched(&before)?;
        if *source != "identity" {
            assert_eq!(clouds.aws.answered(source), 1, "keys are asked for once");
        }
    }
    assert!(clouds.aws.answered("identity") >= sources.len());
    Ok(())
}

async fn a_login_of_iam_is_renewed_and_revoked() -> Result<()> {
    let clouds = Clouds::new("aws-renewed").await?;
    clouds.mount("", "8s").await?;
    let before = clouds.bed.mark().await?;
    let options = clouds.options_with_keys().flag("--vault-token-renew-threshold", "4s");
    let mut controller = clouds.start(&options).await?;
    just_after_a_poll(&controller).await?;
    eventually("the renewal", SOON, || async {
        let requests = clouds.bed.vault_requests_since(&before)?;
        Ok((count(&requests, RENEW) > 0).then_some(()))
    })
    .await?;
    clouds.expect_reload(&controller, 1).await?;
    controller.terminate().await?;
    let requests = clouds.bed.vault_requests_since(&before)?;
    assert_eq!((logins(&requests), count(&requests, REVOKE)), (1, 1), "{requests:#?}");
    Ok(())
}

async fn a_login_is_for_the_vault_server_that_its_header_names() -> Result<()> {
    let clouds = Clouds::new("aws-server-id").await?;
    clouds.mount("vault.bed.example", "1h").await?;
    let refusal = "error validating X-Vault-AWS-IAM-Server-ID header";
    for wrong in ["", "vault.other.example"] {
        let options = clouds.options_with_keys().env("VAULT_AWS_HEADER_VALUE", wrong);
        let controller = clouds.start(&options).await?;
        controller.wait_for(refusal, SOON).await?;
        drop(controller);
    }
    assert_eq!(clouds.aws.answered("identity"), 0, "AWS is not asked for another server's login");
    let options = clouds.options_with_keys().env("VAULT_AWS_HEADER_VALUE", "vault.bed.example");
    let controller = clouds.start(&options).await?;
    just_after_a_poll(&controller).await?;
    clouds.expect_reload(&controller, 1).await?;
    clouds.aws.expect_none_refused()
}

/// A front of Vault that answers logins itself, with a token that the bed made. So a login can be
/// seen whose method the server does not have.
struct Front {
    address: String,
    shared: Arc<FrontState>,
}

struct FrontState {
    client: reqwest::Client,
    server: String,
    /// The answer to each login.
    login: Value,
    /// The path and the body of each login.
    logins: Mutex<Vec<(String, Value)>>,
}

impl Front {
    async fn start(bed: &Bed) -> Result<Self> {
        let token = bed.vault.create_token(&TokenRequest::default()).await?;
        let login = json!({"auth": {
            "client_token": token.token, "accessor": token.accessor, "policies": ["reloader"],
            "metadata": {}, "lease_duration": 86400, "renewable": true, "token_type": "service",
        }});
        let shared = Arc::new(FrontState {
            client: reqwest::Client::builder().no_proxy().build()?,
            server: bed.vault.address().to_owned(),
            login,
            logins: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(forward).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    fn logins(&self) -> Vec<(String, Value)> {
        locked(&self.shared.logins).clone()
    }
}

async fn forward(
    State(front): State<Arc<FrontState>>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: String,
) -> Result<(StatusCode, String), StatusCode> {
    if uri.path().ends_with("/login") {
        let body = serde_json::from_str(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
        locked(&front.logins).push((uri.path().to_owned(), body));
        return Ok((StatusCode::OK, front.login.to_string()));
    }
    for name in ["host", "content-length", "connection"] {
        headers.remove(name);
    }
    let request = front.client.request(method, format!("{}{uri}", front.server));
    let answer = request.headers(headers).body(body).send().await;
    let answer = answer.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let status = answer.status();
    Ok((status, answer.text().await.map_err(|_| StatusCode::BAD_GATEWAY)?))
}

/// Returns the text of a field, decoded.
fn decoded(login: &Value, field: &str) -> Result<String> {
    let text = login[field].as_str().with_context(|| format!("no {field}"))?;
    Ok(String::from_utf8(STANDARD.decode(text)?)?)
}

async fn a_login_of_iam_has_the_form_that_vault_documents() -> Result<()> {
    let clouds = Clouds::new("aws-form").await?;
    let front = Front::start(&clouds.bed).await?;
    let before = clouds.bed.mark().await?;
    let options = clouds
        .options()
        .env("VAULT_AUTH_METHOD", "aws")
        .env("VAULT_PATH", "aws")
        .env("VAULT_ADDR", front.address.as_str())
        .env("VAULT_AWS_HEADER_VALUE", "vault.bed.example")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", clouds.aws.address.as_str());
    let mut controller = clouds.start(&options).await?;
    just_after_a_poll(&controller).await?;
    clouds.expect_reload(&controller, 1).await?;
    controller.terminate().await?;
    clouds.aws.expect_none_refused()?;

    let logins = front.logins();
    let [(path, login)] = logins.as_slice() else { bail!("not one login: {}", logins.len()) };
    assert_eq!(path, "/v1/auth/aws/login");
    let fields: BTreeSet<&str> =
        login.as_object().context("no object")?.keys().map(String::as_str).collect();
    let expected = [
        "iam_http_request_method",
        "iam_request_body",
        "iam_request_headers",
        "iam_request_url",
        "role",
    ];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(login["role"], "reloader");
    assert_eq!(login["iam_http_request_method"], "POST");
    assert_eq!(decoded(login, "iam_request_url")?, format!("{}/", clouds.aws.address));
    let signed: BTreeMap<String, String> =
        serde_json::from_str(&decoded(login, "iam_request_headers")?)?;
    assert_eq!(signed["X-Vault-AWS-IAM-Server-ID"], "vault.bed.example");
    let mut headers = HeaderMap::new();
    for (name, value) in &signed {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let body = decoded(login, "iam_request_body")?;
    let request = Request { method: Method::POST, path: "/".to_owned(), headers, body };
    assert_eq!(request.reply()?.0, "identity");
    let requests = clouds.bed.vault_requests_since(&before)?;
    assert_eq!(count(&requests, REVOKE), 1, "{requests:#?}");
    Ok(())
}

async fn an_instance_logs_in_with_its_document_and_its_nonce() -> Result<()> {
    let clouds = Clouds::new("aws-instance").await?;
    let nonce = "nonce-that-stays-after-a-restart";
    let file = clouds.file("nonce", &format!("{nonce}\n"))?;
    let options = polling_fast()
        .without_vault_token()
        .env("VAULT_AUTH_METHOD", "aws-ec2")
        .env("VAULT_ROLE", "reloader")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", clouds.aws.address.as_str());
    let with_file = options.clone().env("VAULT_AWS_NONCE_FILE", file);
    let warning = "VAULT_AWS_NONCE_FILE is not set";
    for (index, (options, is_warned)) in [(with_file, false), (options, true)].iter().enumerate() {
        let front = Front::start(&clouds.bed).await?;
        let options = options.clone().env("VAULT_ADDR", front.address.as_str());
        let mut controller = clouds.start(&options).await?;
        just_after_a_poll(&controller).await?;
        clouds.expect_reload(&controller, i64::try_from(index)? + 1).await?;
        assert_eq!(!controller.lines_with(warning).is_empty(), *is_warned);
        let logins = front.logins();
        let [(path, login)] = logins.as_slice() else { bail!("not one login: {}", logins.len()) };
        assert_eq!(path, "/v1/auth/aws/login");
        let given = login["nonce"].as_str().context("no nonce")?;
        controller.must_not_say(given);
        assert_eq!(given != nonce, *is_warned, "a nonce that is given is used");
        assert_eq!(
            *login,
            json!({"pkcs7": DOCUMENT, "nonce": given, "role": "reloader"}),
            "in one line, and nothing else"
        );
        controller.terminate().await?;
    }
    clouds.aws.expect_none_refused()
}
