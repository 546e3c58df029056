//! Logins with the identities of Google Cloud and Azure. A stand-in for their metadata servers and
//! APIs follows their documentation, and signs with a key of its own. Vault verifies these JWTs by
//! its method `jwt`, which takes the same request as the methods `gcp` and `azure`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::scenario::{SOON, deployment_without_pods, just_after_a_poll, polling_fast};
use e2e::shared::SharedBed;
use e2e::{Bed, Controller, ControllerOptions, VaultRequest, Workload};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;

e2e::scenarios! {
    an_identity_token_of_googles_metadata_server_logs_in_once,
    a_jwt_that_google_signs_for_a_service_account_logs_in_once,
    a_managed_identity_of_azure_logs_in_once,
    a_workload_identity_of_azure_logs_in_once,
    another_server_at_googles_address_gets_no_login,
}

const EMAIL: &str = "reloader@project-1.iam.gserviceaccount.com";

/// The values of the pod's service account at Google's metadata server.
const GOOGLE: &str = "/computeMetadata/v1/instance/service-accounts/default/";

/// The resource whose access tokens Vault accepts.
const RESOURCE: &str = "https://management.azure.com/";

/// The id of the identity in Azure.
const OBJECT: &str = "3f0c2d6e-0000-4000-8000-0000000000a1";

const TENANT: &str = "72f988bf-0000-4000-8000-0000000000b2";

const CLIENT: &str = "5e1a9c77-0000-4000-8000-0000000000c3";

/// The token of the service account that a workload identity exchanges.
const FEDERATED: &str = "a-federated.token-of.the-service-account";

/// The servers of both clouds.
struct Cloud {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    key: EcdsaKeyPair,
    public_key: String,
    /// Whether answers have the header of Google's metadata server.
    is_google: AtomicBool,
    /// The present access token of the pod's service account.
    access_token: String,
    /// What the stand-in has signed.
    signed: Mutex<Vec<String>>,
    /// What was wrong with requests. The controller does not log such texts.
    refused: Mutex<Vec<String>>,
}

/// A request to the stand-in.
struct Request {
    method: Method,
    path: String,
    /// The query, or the fields of a form.
    fields: Vec<(String, String)>,
    headers: HeaderMap,
    body: String,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cloud {
    async fn start() -> Result<Self> {
        let pair = rcgen::KeyPair::generate()?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der());
        let shared = Arc::new(Shared {
            key: key.map_err(|error| anyhow!("the key of the stand-in: {error}"))?,
            public_key: pair.public_key_pem(),
            is_google: AtomicBool::new(true),
            access_token: format!("ya29.{:032x}", fastrand::u128(..)),
            signed: Mutex::default(),
            refused: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    /// The credentials that the stand-in has given out or takes.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = locked(&self.shared.signed).clone();
        secrets.extend([self.shared.access_token.clone(), FEDERATED.to_owned()]);
        secrets
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, HeaderMap, String) {
    let mut answered = HeaderMap::new();
    if shared.is_google.load(Ordering::Relaxed) {
        answered.insert("metadata-flavor", HeaderValue::from_static("Google"));
    }
    let reply = Request::new(method, &uri, headers, body).and_then(|it| shared.reply(&it));
    match reply {
        Ok(body) => (StatusCode::OK, answered, body),
        Err(error) => {
            locked(&shared.refused).push(format!("{error:#}"));
            (StatusCode::BAD_REQUEST, answered, json!({"error": "invalid_request"}).to_string())
        }
    }
}

impl Request {
    fn new(method: Method, uri: &Uri, headers: HeaderMap, body: String) -> Result<Self> {
        let query = if method == Method::GET { uri.query().unwrap_or_default() } else { &body };
        let url = reqwest::Url::parse(&format!("http://cloud/?{query}"))?;
        let fields = url.query_pairs().into_owned().collect();
        Ok(Self { method, path: uri.path().to_owned(), fields, headers, body })
    }

    fn field(&self, name: &str) -> Result<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("no {name}"))
    }

    fn expect_field(&self, name: &str, wanted: &str) -> Result<()> {
        let given = self.field(name)?;
        ensure!(given == wanted, "{name} is {given}");
        Ok(())
    }

    fn expect_header(&self, name: &str, wanted: &str) -> Result<()> {
        let given = self.headers.get(name).map(HeaderValue::as_bytes);
        ensure!(given == Some(wanted.as_bytes()), "{name} is {given:?}");
        Ok(())
    }
}

impl Shared {
    fn reply(&self, request: &Request) -> Result<String> {
        if let Some(name) = request.path.strip_prefix(GOOGLE) {
            request.expect_header("metadata-flavor", "Google")?;
            return self.google(name, request);
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/metadata/identity/oauth2/token") => {
                request.expect_header("metadata", "true")?;
                request.expect_field("api-version", "2018-02-01")?;
                request.expect_field("client_id", CLIENT)?;
                self.azure_token(request.field("resource")?)
            }
            ("GET", "/metadata/instance") => {
                request.expect_header("metadata", "true")?;
                request.expect_field("api-version", "2021-02-01")?;
                let compute = json!({
                    "subscriptionId": "sub-1", "resourceGroupName": "group-1",
                    "name": "aks-nodes-1_0", "vmScaleSetName": "aks-nodes-1",
                });
                Ok(json!({"compute": compute, "network": {}}).to_string())
            }
            ("POST", path) if path == format!("/{TENANT}/oauth2/v2.0/token") => {
                let assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                request.expect_header("content-type", "application/x-www-form-urlencoded")?;
                request.expect_field("grant_type", "client_credentials")?;
                request.expect_field("client_id", CLIENT)?;
                request.expect_field("client_assertion_type", assertion)?;
                request.expect_field("client_assertion", FEDERATED)?;
                let scope = request.field("scope")?;
                let resource = scope.strip_suffix("/.default").context("another scope")?;
                self.azure_token(resource)
            }
            ("POST", path) if path == format!("/v1/projects/-/serviceAccounts/{EMAIL}:signJwt") => {
                request.expect_header("authorization", &format!("Bearer {}", self.access_token))?;
                let body: Value = serde_json::from_str(&request.body)?;
                let claims = body["payload"].as_str().context("no payload")?;
                let signed = self.sign(&serde_json::from_str(claims)?)?;
                Ok(json!({"keyId": "1", "signedJwt": signed}).to_string())
            }
            (method, path) => bail!("{method} {path} is not documented"),
        }
    }

    /// Answers as Google's metadata server.
    fn google(&self, name: &str, request: &Request) -> Result<String> {
        match name {
            "email" => Ok(EMAIL.to_owned()),
            "token" => Ok(json!({
                "access_token": self.access_token, "expires_in": 3599, "token_type": "Bearer",
            })
            .to_string()),
            "identity" => {
                request.expect_field("format", "full")?;
                let now = Timestamp::now().as_second();
                let machine = json!({"project_id": "project-1", "instance_id": "1", "zone": "a"});
                self.sign(&json!({
                    "iss": "https://accounts.google.com", "aud": request.field("audience")?,
                    "sub": "1234567890", "email": EMAIL, "email_verified": true,
                    "iat": now, "exp": now + 3600, "google": {"compute_engine": machine},
                }))
            }
            _ => bail!("{name} is not documented"),
        }
    }

    fn azure_token(&self, resource: &str) -> Result<String> {
        let now = Timestamp::now().as_second();
        let token = self.sign(&json!({
            "aud": resource, "iss": format!("https://sts.windows.net/{TENANT}/"), "oid": OBJECT,
            "sub": OBJECT, "iat": now, "nbf": now, "exp": now + 3600,
        }))?;
        Ok(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).to_string())
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({"alg": "ES256", "typ": "JWT"})), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.map_err(|_| anyhow!("the stand-in cannot sign"))?;
        let jwt = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
        locked(&self.signed).push(jwt.clone());
        Ok(jwt)
    }
}

/// A bed whose Vault verifies the JWTs of a stand-in, and a workload to be reloaded.
struct Clouds {
    bed: SharedBed,
    cloud: Cloud,
    /// The name of the mount.
    name: &'static str,
    secret: String,
    workload: Workload,
}

impl Clouds {
    /// `audience` and `claims` are those that a JWT must have.
    async fn new(
        name: &'static str,
        user_claim: &str,
        audience: &str,
        claims: Value,
    ) -> Result<Self> {
        let (bed, cloud) = (Bed::shared().await?, Cloud::start().await?);
        let ask = async |path: String, body: Value| {
            bed.vault.ask(reqwest::Method::POST, &path, Some(body)).await
        };
        ask(format!("sys/auth/{name}"), json!({"type": "jwt"})).await?;
        let keys = json!({"jwt_validation_pubkeys": [cloud.shared.public_key]});
        ask(format!("auth/{name}/config"), keys).await?;
        let role = json!({
            "role_type": "jwt", "user_claim": user_claim, "bound_audiences": [audience],
            "bound_claims": claims, "token_policies": ["reloader"], "token_ttl": "1h",
        });
        ask(format!("auth/{name}/role/reloader"), role).await?;
        let secret = format!("{name}/a");
        bed.write_secrets(&[&secret]).await?;
        let workload = deployment_without_pods(name, &secret);
        bed.deploy_all(&[&workload]).await?;
        Ok(Self { bed, cloud, name, secret, workload })
    }

    fn options(&self, method: &str) -> ControllerOptions {
        polling_fast()
            .without_vault_token()
            .env("VAULT_AUTH_METHOD", method)
            .env("VAULT_PATH", self.name)
            .env("VAULT_ROLE", "reloader")
            .env("GCE_METADATA_HOST", self.cloud.address.as_str())
            .env("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{}", self.cloud.address))
    }

    async fn expect_reload(&self, controller: &Controller) -> Result<()> {
        self.bed.rotate(&self.secret).await?;
        self.bed.expect_rolls(controller, &[&self.workload], 1).await
    }

    /// Runs a controller that reloads the workload with one login and one revocation. Returns the
    /// body of the login.
    async fn log_in_once(&self, options: &ControllerOptions) -> Result<Value> {
        let before = self.bed.mark().await?;
        let mut controller = Controller::start(&self.bed, options).await?;
        let reloaded = async {
            just_after_a_poll(&controller).await?;
            self.expect_reload(&controller).await
        };
        let refused = || format!("refused requests: {:?}", locked(&self.cloud.shared.refused));
        reloaded.await.with_context(refused)?;
        controller.terminate().await?;
        for secret in self.cloud.secrets() {
            controller.must_not_say(&secret);
        }
        self.bed.expect_no_value_touched(&before)?;
        let requests = self.bed.vault_requests_since(&before)?;
        let of = |path: &str| requests.iter().filter(|it| it.path == path).collect::<Vec<_>>();
        let logins = of(&format!("auth/{}/login", self.name));
        let all_logins = requests.iter().filter(|request| request.is_login()).count();
        let counts = (logins.len(), all_logins, of("auth/token/revoke-self").len());
        ensure!(counts == (1, 1, 1), "{counts:?}; {}", controller.last_lines());
        Ok(logins[0].data.clone())
    }

    /// Returns the JWT that the stand-in signed last.
    fn last_jwt(&self) -> Result<String> {
        locked(&self.cloud.shared.signed).last().cloned().context("nothing was signed")
    }
}

async fn an_identity_token_of_googles_metadata_server_logs_in_once() -> Result<()> {
    let claims = json!({"email": EMAIL, "iss": "https://accounts.google.com"});
    let clouds = Clouds::new("gcp-compute", "sub", "http://vault/reloader", claims).await?;
    let data = clouds.log_in_once(&clouds.options("gcp-gce")).await?;
    // Vault's method `gcp` refuses any other field.
    assert_eq!(data, json!({"role": "reloader", "jwt": clouds.last_jwt()?}));
    Ok(())
}

async fn a_jwt_that_google_signs_for_a_service_account_logs_in_once() -> Result<()> {
    let claims = json!({"sub": EMAIL});
    let clouds = Clouds::new("gcp-signed", "sub", "vault/reloader", claims).await?;
    let endpoint = format!("http://{}", clouds.cloud.address);
    let options = clouds.options("gcp-iam").env("VAULT_GCP_IAM_ENDPOINT", endpoint);
    let data = clouds.log_in_once(&options).await?;
    assert_eq!(data, json!({"role": "reloader", "jwt": clouds.last_jwt()?}));
    Ok(())
}

async fn a_managed_identity_of_azure_logs_in_once() -> Result<()> {
    let claims = json!({"oid": OBJECT});
    let clouds = Clouds::new("azure-managed", "oid", RESOURCE, claims).await?;
    let options = clouds.options("azure").env("VAULT_AZURE_CLIENT_ID", CLIENT);
    let data = clouds.log_in_once(&options).await?;
    let expected = json!({
        "role": "reloader", "jwt": clouds.last_jwt()?, "subscription_id": "sub-1",
        "resource_group_name": "group-1", "vm_name": "aks-nodes-1_0", "vmss_name": "aks-nodes-1",
    });
    assert_eq!(data, expected);
    Ok(())
}

async fn a_workload_identity_of_azure_logs_in_once() -> Result<()> {
    let claims = json!({"oid": OBJECT});
    let clouds = Clouds::new("azure-workload", "oid", RESOURCE, claims).await?;
    let file = clouds.bed.folder().join("azure-federated-token");
    std::fs::write(&file, FEDERATED)?;
    let options = clouds
        .options("azure")
        .env("AZURE_CLIENT_ID", CLIENT)
        .env("AZURE_TENANT_ID", TENANT)
        .env("AZURE_AUTHORITY_HOST", format!("http://{}/", clouds.cloud.address))
        .env("AZURE_FEDERATED_TOKEN_FILE", file);
    let data = clouds.log_in_once(&options).await?;
    assert_eq!(data, json!({"role": "reloader", "jwt": clouds.last_jwt()?}));
    Ok(())
}

async fn another_server_at_googles_address_gets_no_login() -> Result<()> {
    let claims = json!({"email": EMAIL});
    let clouds = Clouds::new("gcp-foisted", "sub", "http://vault/reloader", claims).await?;
    clouds.cloud.shared.is_google.store(false, Ordering::Relaxed);
    let before = clouds.bed.mark().await?;
    let mut controller = Controller::start(&clouds.bed, &clouds.options("gcp-gce")).await?;
    controller.wait_for("no header Metadata-Flavor: Google", SOON).await?;
    let requests = clouds.bed.vault_requests_since(&before)?;
    assert!(!requests.iter().any(VaultRequest::is_login), "a JWT of another was sent");
    clouds.cloud.shared.is_google.store(true, Ordering::Relaxed);
    clouds.expect_reload(&controller).await?;
    for secret in clouds.cloud.secrets() {
        controller.must_not_say(&secret);
    }
    Ok(())
}
