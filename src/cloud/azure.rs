//! The identity of the pod in Azure: an access token of a managed identity or of a workload identity,
//! and the names of what has the identity.

use std::path::PathBuf;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use reqwest::{Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::error::CloudError;
use super::http::{Answer, Service};
use super::proof::Proof;
use super::text::{is_code, jwt};
use crate::credentials::credential;
use crate::credentials::files::Files;

const METADATA: &str = "the instance metadata service of Azure";
const AUTHORITY: &str = "the authority of Microsoft Entra";
const FEDERATED_TOKEN: &str = "the federated token file";

/// The version of the API for tokens.
const TOKEN_VERSION: &str = "2018-02-01";

/// The version of the API for metadata.
const INSTANCE_VERSION: &str = "2021-02-01";

/// The type of the token that proves a workload identity.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The longest name of a resource, in bytes. The longest ids have a few hundred.
const LONGEST_NAME: usize = 2048;

/// The number of error codes of the authority that are shown. There is usually one.
const MOST_CODES: usize = 3;

const UNDOCUMENTED: &str = "its answer is not as documented";

/// The identity of the pod in Azure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Azure {
    /// Where the access token comes from.
    pub source: TokenSource,
    /// The resource that the token is for: the audience that Vault expects.
    pub resource: String,
    /// The names that the settings give.
    pub owner: Owner,
}

/// Where an access token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The managed identity of the machine.
    Managed {
        /// The address of the instance metadata service.
        metadata: Url,
        /// The client id of a user-assigned identity; `None` for the identity of the machine.
        client_id: Option<String>,
    },
    /// The workload identity of the pod.
    Workload {
        /// The address of the authority.
        authority: Url,
        /// The tenant.
        tenant: String,
        /// The client id of the identity.
        client_id: String,
        /// The file with the token of the service account. The file is read for each login, because
        /// projected tokens rotate.
        file: PathBuf,
    },
}

/// What has the identity, by the names of Vault's login. Vault reads it in Azure if the role is bound
/// to subscriptions, resource groups, locations or scale sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The subscription.
    pub subscription_id: Option<String>,
    /// The resource group.
    pub resource_group_name: Option<String>,
    /// The virtual machine.
    pub vm_name: Option<String>,
    /// The virtual machine scale set.
    pub vmss_name: Option<String>,
    /// The whole id of a resource that is no machine.
    pub resource_id: Option<String>,
}

#[derive(Deserialize)]
struct AccessToken {
    access_token: String,
}

#[derive(Deserialize)]
struct InstanceMetadata {
    compute: Compute,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compute {
    subscription_id: String,
    resource_group_name: String,
    name: String,
    #[serde(default)]
    vm_scale_set_name: String,
}

/// The documented error of both services.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    /// The codes of the authority. They are the numbers after `AADSTS`.
    #[serde(default)]
    error_codes: Vec<u64>,
}

impl Azure {
    /// Returns the token of the service account, if logins use one.
    pub(crate) async fn credential(&self, files: &Files) -> Option<SecretString> {
        match &self.source {
            TokenSource::Managed { .. } => None,
            TokenSource::Workload { file, .. } => {
                credential::read_token(files, FEDERATED_TOKEN, file).await.ok()
            }
        }
    }

    /// Returns the access token and the names for a login.
    pub(crate) async fn prove(&self, files: &Files) -> Result<Proof, CloudError> {
        let (jwt, owner) = match &self.source {
            TokenSource::Managed { metadata, client_id } => {
                let service = Service { name: METADATA, address: metadata.clone() };
                let jwt = managed_token(&service, &self.resource, client_id.as_deref()).await?;
                (jwt, self.owner.completed(&service).await?)
            }
            TokenSource::Workload { authority, tenant, client_id, file } => {
                let token = credential::read_token(files, FEDERATED_TOKEN, file).await?;
                let service = Service { name: AUTHORITY, address: authority.clone() };
                let scope = format!("{}/.default", self.resource);
                let form = form_urlencoded::Serializer::new(String::new())
                    .append_pair("client_id", client_id)
                    .append_pair("scope", &scope)
                    .append_pair("grant_type", "client_credentials")
                    .append_pair("client_assertion_type", ASSERTION_TYPE)
                    .append_pair("client_assertion", token.expose_secret())
                    .finish();
                // The names of the node are not those of the workload identity.
                (workload_token(&service, tenant, form).await?, self.owner.clone())
            }
        };
        let mut fields = owner.fields();
        fields.insert("jwt".to_owned(), Value::String(jwt));
        Ok(Proof(fields))
    }
}

impl Owner {
    /// Whether a resource is named.
    fn has_resource(&self) -> bool {
        [&self.vm_name, &self.vmss_name, &self.resource_id].iter().any(|name| name.is_some())
    }

    /// Adds what the settings leave open, from the metadata of the instance.
    async fn completed(&self, service: &Service) -> Result<Self, CloudError> {
        let given = self.clone();
        if given.has_resource()
            && given.subscription_id.is_some()
            && given.resource_group_name.is_some()
        {
            return Ok(given);
        }
        let url = service.url("/metadata/instance", &[("api-version", INSTANCE_VERSION)]);
        let answer = service.send(metadata_request(url)).await?;
        if !answer.status.is_success() {
            return Err(service.error(format!(
                "answers a request for the names of the instance with the {}; set \
                 VAULT_AZURE_SUBSCRIPTION_ID, VAULT_AZURE_RESOURCE_GROUP and VAULT_AZURE_VM_NAME",
                refusal(&answer)
            )));
        }
        let InstanceMetadata { compute } =
            serde_json::from_slice(&answer.body).map_err(|_| service.error(UNDOCUMENTED))?;
        let names = [
            &compute.subscription_id,
            &compute.resource_group_name,
            &compute.name,
            &compute.vm_scale_set_name,
        ];
        if !names.into_iter().all(|name| name.is_empty() || is_name(name)) {
            return Err(service.error(UNDOCUMENTED));
        }
        let read = |name: String| Some(name).filter(|name| !name.is_empty());
        let has_resource = given.has_resource();
        let of_machine = |name: String| read(name).filter(|_| !has_resource);
        Ok(Self {
            subscription_id: given.subscription_id.or_else(|| read(compute.subscription_id)),
            resource_group_name: given
                .resource_group_name
                .or_else(|| read(compute.resource_group_name)),
            vm_name: given.vm_name.or_else(|| of_machine(compute.name)),
            vmss_name: given.vmss_name.or_else(|| of_machine(compute.vm_scale_set_name)),
            resource_id: given.resource_id,
        })
    }

    /// Returns the names as fields of a login.
    fn fields(self) -> Map<String, Value> {
        let fields = [
            ("subscription_id", self.subscription_id),
            ("resource_group_name", self.resource_group_name),
            ("vm_name", self.vm_name),
            ("vmss_name", self.vmss_name),
            ("resource_id", self.resource_id),
        ];
        let given = fields.into_iter().filter_map(|(field, name)| Some((field, name?)));
        given.map(|(field, name)| (field.to_owned(), Value::String(name))).collect()
    }
}

/// Whether a text can be the name or the id of a resource.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.contains(char::is_control)
}

fn metadata_request(url: Url) -> Request {
    let mut request = Request::new(Method::GET, url);
    request.headers_mut().insert("metadata", HeaderValue::from_static("true"));
    request
}

async fn managed_token(
    service: &Service,
    resource: &str,
    client_id: Option<&str>,
) -> Result<String, CloudError> {
    let mut query = vec![("api-version", TOKEN_VERSION), ("resource", resource)];
    query.extend(client_id.map(|client_id| ("client_id", client_id)));
    let url = service.url("/metadata/identity/oauth2/token", &query);
    let answer = service.send(metadata_request(url)).await?;
    let remedy = match answer.status.as_u16() {
        // The service answers so if the machine has no such identity, or several.
        400 => {
            "; give the node a managed identity, name one by VAULT_AZURE_CLIENT_ID, and check \
             VAULT_AZURE_RESOURCE"
        }
        _ => "",
    };
    access_token(service, &answer, remedy)
}

async fn workload_token(
    service: &Service,
    tenant: &str,
    form: String,
) -> Result<String, CloudError> {
    let url = service.url(&format!("/{tenant}/oauth2/v2.0/token"), &[]);
    let mut request = Request::new(Method::POST, url);
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form_type);
    *request.body_mut() = Some(form.into());
    let answer = service.send(request).await?;
    let remedy = match answer.status.as_u16() {
        400 | 401 => {
            "; check the federated credential of the identity: its issuer, subject and audience \
             must be those of the service account of the pod"
        }
        _ => "",
    };
    access_token(service, &answer, remedy)
}

/// Reads the access token of an answer.
fn access_token(service: &Service, answer: &Answer, remedy: &str) -> Result<String, CloudError> {
    if !answer.status.is_success() {
        return Err(service.error(format!("answers with the {}{remedy}", refusal(answer))));
    }
    let token = serde_json::from_slice(&answer.body).ok();
    let token = token.map(|AccessToken { access_token }| access_token);
    let token = token.as_deref().and_then(jwt).map(str::to_owned);
    token.ok_or_else(|| service.error(UNDOCUMENTED))
}

/// Describes a refusal by its status and its codes.
fn refusal(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    let Ok(Refusal { error, error_codes }) = serde_json::from_slice(&answer.body) else {
        return format!("status {status}");
    };
    let mut codes: Vec<String> = Some(error).filter(|error| is_code(error)).into_iter().collect();
    codes.extend(error_codes.iter().take(MOST_CODES).map(|code| format!("AADSTS{code}")));
    if codes.is_empty() {
        format!("status {status}")
    } else {
        format!("status {status} ({})", codes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::super::stand_in::{StandIn, answer_of};
    use super::*;

    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
    const RESOURCE: &str = "https://management.azure.com/";

    fn managed(server: &StandIn, client_id: Option<&str>, owner: Owner) -> Azure {
        let (metadata, client_id) = (server.address(), client_id.map(str::to_owned));
        let source = TokenSource::Managed { metadata, client_id };
        Azure { source, resource: RESOURCE.to_owned(), owner }
    }

    fn workload(server: &StandIn, folder: &TempDir) -> Azure {
        let source = TokenSource::Workload {
            authority: server.address(),
            tenant: "tenant-1".to_owned(),
            client_id: "client-1".to_owned(),
            file: folder.path().join("token"),
        };
        Azure { source, resource: RESOURCE.to_owned(), owner: Owner::default() }
    }

    fn token() -> String {
        let body = json!({"access_token": JWT, "expires_in": "3599", "token_type": "Bearer"});
        answer_of("200 OK", "", &body.to_string())
    }

    fn instance(scale_set: &str) -> String {
        let compute = json!({
            "subscriptionId": "sub-1", "resourceGroupName": "group-1", "name": "vm-1",
            "vmScaleSetName": scale_set, "location": "westeurope",
        });
        answer_of("200 OK", "", &json!({"compute": compute, "network": {}}).to_string())
    }

    async fn prove(
        server: &StandIn,
        azure: &Azure,
        answers: &[String],
    ) -> (Result<Value, String>, Vec<String>) {
        let files = Files::default();
        let (proof, requests) = server.answer(answers, azure.prove(&files)).await;
        let fields = proof.map(|Proof(fields)| Value::Object(fields));
        (fields.map_err(|error| error.to_string()), requests)
    }

    #[tokio::test]
    async fn a_managed_identity_proves_its_token_and_the_names_of_the_machine() {
        let server = StandIn::start().await;
        let azure = managed(&server, None, Owner::default());
        let (fields, requests) = prove(&server, &azure, &[token(), instance("")]).await;
        let expected = json!({
            "jwt": JWT, "subscription_id": "sub-1", "resource_group_name": "group-1",
            "vm_name": "vm-1",
        });
        assert_eq!(fields, Ok(expected));
        let target = "GET /metadata/identity/oauth2/token?api-version=2018-02-01\
                      &resource=https%3A%2F%2Fmanagement.azure.com%2F HTTP/1.1\r\n";
        assert!(requests[0].starts_with(target), "{}", requests[0]);
        let target = "GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\n";
        assert!(requests[1].starts_with(target), "{}", requests[1]);
        for request in requests {
            assert!(request.to_lowercase().contains("\r\nmetadata: true\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn the_names_of_settings_take_precedence_over_those_of_the_machine() {
        let all = Owner {
            subscription_id: Some("sub-2".to_owned()),
            resource_group_name: Some("group-2".to_owned()),
            vmss_name: Some("set-2".to_owned()),
            ..Owner::default()
        };
        let group = Owner { resource_group_name: Some("group-2".to_owned()), ..Owner::default() };
        let resource =
            Owner { resource_id: Some("/subscriptions/x".to_owned()), ..Owner::default() };
        for (owner, answers, expected) in [
            (
                all,
                vec![token()],
                json!({
                    "jwt": JWT, "subscription_id": "sub-2", "resource_group_name": "group-2",
                    "vmss_name": "set-2",
                }),
            ),
            (
                group,
                vec![token(), instance("set-1")],
                json!({
                    "jwt": JWT, "subscription_id": "sub-1", "resource_group_name": "group-2",
                    "vm_name": "vm-1", "vmss_name": "set-1",
                }),
            ),
            // Vault ignores the id beside the name of a machine.
            (
                resource,
                vec![token(), instance("set-1")],
                json!({
                    "jwt": JWT, "subscription_id": "sub-1", "resource_group_name": "group-1",
                    "resource_id": "/subscriptions/x",
                }),
            ),
        ] {
            let server = StandIn::start().await;
            let azure = managed(&server, Some("client-1"), owner);
            let (fields, requests) = prove(&server, &azure, &answers).await;
            assert_eq!(fields, Ok(expected));
            assert_eq!(requests.len(), answers.len());
            assert!(requests[0].contains("&client_id=client-1 "), "{}", requests[0]);
        }
    }

    #[tokio::test]
    async fn a_workload_identity_exchanges_the_token_of_the_service_account() {
        let (server, folder) = (StandIn::start().await, tempfile::tempdir().unwrap());
        fs::write(folder.path().join("token"), "a.federated.token\n").unwrap();
        let azure = workload(&server, &folder);
        let (fields, requests) = prove(&server, &azure, &[token()]).await;
        assert_eq!(fields, Ok(json!({ "jwt": JWT })));
        let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /tenant-1/oauth2/v2.0/token HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("application/x-www-form-urlencoded"), "{head}");
        let form: Vec<(String, String)> =
            form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let expected = [
            ("client_id", "client-1"),
            // Two slashes: the audience ends with the first.
            ("scope", "https://management.azure.com//.default"),
            ("grant_type", "client_credentials"),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", "a.federated.token"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(form, expected);
    }

    #[tokio::test]
    async fn a_federated_token_file_that_is_missing_is_named() {
        let (server, folder) = (StandIn::start().await, tempfile::tempdir().unwrap());
        let (fields, requests) = prove(&server, &workload(&server, &folder), &[]).await;
        let error = fields.unwrap_err();
        assert!(error.starts_with("cannot read the federated token file /"), "{error}");
        assert!(requests.is_empty());
    }

    #[tokio::test]
    async fn a_refusal_shows_its_codes_and_nothing_else() {
        let no_identity = r#"{"error":"invalid_request","error_description":"SECRET"}"#;
        let odd = r#"{"error":"SECRET eyJh.eyJz.c2"}"#;
        for (status, body, expected) in [
            (
                "400 Bad Request",
                no_identity,
                "answers with the status 400 (invalid_request); give the node a managed identity",
            ),
            ("429 Too Many Requests", odd, "answers with the status 429"),
            ("500 Internal Server Error", "SECRET", "answers with the status 500"),
            ("302 Found", "SECRET", "answers with the status 302"),
            ("200 OK", r#"{"access_token":"SECRET"}"#, UNDOCUMENTED),
            ("200 OK", "SECRET", UNDOCUMENTED),
        ] {
            let server = StandIn::start().await;
            let azure = managed(&server, None, Owner::default());
            let (fields, _) = prove(&server, &azure, &[answer_of(status, "", body)]).await;
            let error = fields.unwrap_err();
            assert!(error.starts_with(METADATA) && error.contains(expected), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_authority_shows_its_numbers() {
        let body = r#"{"error":"invalid_client","error_description":"AADSTS70021: SECRET",
            "error_codes":[70021,2,3,4]}"#;
        let (server, folder) = (StandIn::start().await, tempfile::tempdir().unwrap());
        fs::write(folder.path().join("token"), "a.SECRET.token").unwrap();
        let answers = [answer_of("401 Unauthorized", "", body)];
        let (fields, _) = prove(&server, &workload(&server, &folder), &answers).await;
        let error = fields.unwrap_err();
        let codes =
            "status 401 (invalid_client, AADSTS70021, AADSTS2, AADSTS3); check the federated";
        assert!(error.contains(codes) && !error.contains("SECRET"), "{error}");
    }

    #[tokio::test]
    async fn names_of_the_machine_that_cannot_be_read_are_an_error() {
        let odd = json!({"compute": {
            "subscriptionId": "a\nb", "resourceGroupName": "c", "name": "d",
        }});
        for (status, body, expected) in [
            ("404 Not Found", "SECRET".to_owned(), "status 404; set VAULT_AZURE_SUBSCRIPTION_ID"),
            ("200 OK", "{}".to_owned(), UNDOCUMENTED),
            ("200 OK", odd.to_string(), UNDOCUMENTED),
        ] {
            let server = StandIn::start().await;
            let azure = managed(&server, None, Owner::default());
            let answers = [token(), answer_of(status, "", &body)];
            let (fields, _) = prove(&server, &azure, &answers).await;
            let error = fields.unwrap_err();
            assert!(error.contains(expected) && !error.contains("SECRET"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_not_waited_for() {
        let server = StandIn::start().await;
        let azure = managed(&server, None, Owner::default());
        let (fields, _) = prove(&server, &azure, &[]).await;
        assert!(fields.unwrap_err().starts_with(METADATA));
    }
}
