//! The environment variables that the controller reads, as the documentation lists them.
//!
//! Invariant: the configuration reads no other variable. In debug builds, `Config::load` checks each
//! name against this table. A test compares the table with what the configuration reads.

/// What a group of variables is about. Each group has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The connection to a Vault server.
    Server,
    /// Certificates of a Vault server and for it.
    Tls,
    /// The login to a Vault server.
    Login,
    /// The login with the identity of AWS.
    Aws,
    /// The login with the identity of Google Cloud.
    Gcp,
    /// The login with the identity of Azure.
    Azure,
    /// The process itself.
    Process,
}

impl Group {
    /// Returns the name of the group, as in "variables of the server".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "the server",
            Self::Tls => "TLS",
            Self::Login => "the login",
            Self::Aws => "AWS",
            Self::Gcp => "Google Cloud",
            Self::Azure => "Azure",
            Self::Process => "the process",
        }
    }
}

/// An environment variable, or several with one meaning.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// The group.
    pub group: Group,
    /// The names. A name that begins with `VAULT_` may also begin with `BAO_`.
    pub names: &'static [&'static str],
    /// The default value, as Markdown: a value between backticks, or words.
    pub default: &'static str,
    /// The meaning, as Markdown without links.
    pub meaning: &'static str,
}

const fn variable(
    group: Group,
    names: &'static [&'static str],
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { group, names, default, meaning }
}

/// Variables without a row, because every program is told them.
const OF_EVERY_PROGRAM: [&str; 2] = ["HOME", "HOSTNAME"];

/// Returns whether the configuration may read a variable of this name. Variables of proxies may be in
/// lower case.
pub(super) fn may_be_read(name: &str) -> bool {
    let name = &*name.to_uppercase();
    let of_vault = name.strip_prefix("BAO_").map(|suffix| format!("VAULT_{suffix}"));
    let is_it = |listed: &&str| *listed == name || of_vault.as_deref() == Some(*listed);
    OF_EVERY_PROGRAM.contains(&name)
        || VARIABLES.iter().any(|variable| variable.names.iter().any(is_it))
}

/// All variables, in the order of the documentation.
pub const VARIABLES: &[Variable] = &[
    variable(
        Group::Server,
        &["VAULT_ADDR"],
        "`https://vault:8200`",
        "the address. It may have a path, and may be a Unix socket",
    ),
    variable(
        Group::Server,
        &["VAULT_NAMESPACE"],
        "none",
        "the Vault namespace of workloads that name none. A workload names its Vault namespace \
         by the annotation `vault-namespace` (`bao-namespace` for `bao:`), or by a variable of a \
         container",
    ),
    variable(
        Group::Server,
        &["VAULT_CLIENT_TIMEOUT"],
        "`10s`",
        "the time-out of one request. A number without a unit means seconds",
    ),
    variable(
        Group::Server,
        &["VAULT_PROXY_ADDR", "VAULT_HTTP_PROXY"],
        "none",
        "a proxy. The first one that is set applies. The proxy gets all requests to the server: \
         as in the official client, `NO_PROXY` does not count",
    ),
    variable(
        Group::Server,
        &["VAULT_AGENT_ADDR"],
        "none",
        "the address of a Vault agent or proxy, also as a Unix socket. The controller sends \
         requests there instead of to `VAULT_ADDR`",
    ),
    variable(
        Group::Server,
        &["VAULT_REDIRECT_ADDRS"],
        "none",
        "other addresses that Vault may redirect to, such as the nodes of its cluster, separated \
         by commas. An address with a path allows redirects below that path. The controller \
         sends its token to the target of a redirect, so it follows no other redirect. Not \
         together with `VAULT_TLS_SERVER_NAME`",
    ),
    variable(Group::Server, &["VAULT_DISABLE_REDIRECTS"], "`false`", "follow no redirect at all"),
    variable(
        Group::Server,
        &["VAULT_ADDR_ALLOWLIST", "BAO_ADDR_ALLOWLIST"],
        "none",
        "the allow-lists of the webhook: addresses that the webhook accepts in `vault-addr` and \
         `bao-addr`",
    ),
    variable(
        Group::Server,
        &["VAULT_IGNORE_MISSING_SECRETS"],
        "`false`",
        "the controller logs a missing secret as a warning, and does not hold reloads for it",
    ),
    variable(
        Group::Server,
        &["HTTPS_PROXY", "HTTP_PROXY"],
        "none",
        "not used for Vault. If one is set, the controller logs a warning, unless `NO_PROXY` covers \
         the address of Vault",
    ),
    variable(
        Group::Server,
        &["NO_PROXY"],
        "none",
        "the addresses that these proxies are not for, as other programs read it",
    ),
    variable(
        Group::Server,
        &["VAULT_HEADERS", "VAULT_HEADERS_FILE"],
        "none",
        "headers that the controller adds to all requests, or a file that holds them",
    ),
    variable(
        Group::Server,
        &["VAULT_RATE_LIMIT"],
        "none",
        "the maximum rate of requests to the server: `10` per second, or `10:20` with a burst of \
         20",
    ),
    variable(
        Group::Server,
        &["VAULT_MAX_RETRIES"],
        "`2`",
        "how often a poll sends a request again after an error. `0` for never. At most 10",
    ),
    variable(
        Group::Server,
        &["VAULT_SRV_LOOKUP"],
        "`false`",
        "not supported. `true` ends the process at the start, unless the address has a port",
    ),
    variable(
        Group::Tls,
        &["VAULT_TLS_SECRET"],
        "none",
        "a Kubernetes Secret whose `ca.crt` is the CA. Takes precedence over `VAULT_CACERT`, \
         `VAULT_CACERT_BYTES` and `VAULT_CAPATH`. The chart grants `get`, `list` and `watch` on \
         this Secret only",
    ),
    variable(Group::Tls, &["VAULT_TLS_SECRET_NS"], "`default`", "the namespace of that Secret"),
    variable(Group::Tls, &["VAULT_CACERT"], "none", "a file with the CA"),
    variable(
        Group::Tls,
        &["VAULT_CACERT_BYTES"],
        "none",
        "the CA as PEM. `VAULT_CACERT` takes precedence",
    ),
    variable(
        Group::Tls,
        &["VAULT_CAPATH"],
        "none",
        "a folder with CAs. The two variables above take precedence. Without any of them, the \
         controller uses the CAs of the system",
    ),
    variable(
        Group::Tls,
        &["VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"],
        "none",
        "files with a client certificate and its key",
    ),
    variable(
        Group::Tls,
        &["VAULT_TLS_SERVER_NAME"],
        "the host of the address",
        "the name that the certificate of the server must have. Not together with a proxy",
    ),
    variable(
        Group::Tls,
        &["VAULT_SKIP_VERIFY"],
        "`false`",
        "do not verify the certificate. The controller logs a warning with the risk",
    ),
    variable(
        Group::Login,
        &["VAULT_AUTH_METHOD"],
        "`jwt`",
        "the method: `jwt`, `kubernetes`, `approle`, `userpass`, `cert`, `token`, `none`, \
         `aws-iam`, `aws-ec2`, `gcp-gce`, `gcp-iam` or `azure`. `aws` means `aws-iam`, and `gcp` \
         means `gcp-gce`",
    ),
    variable(
        Group::Login,
        &["VAULT_PATH"],
        "the usual mount of the method",
        "the mount of the auth method. For `jwt` and `kubernetes` the usual mount is `kubernetes`",
    ),
    variable(
        Group::Login,
        &["VAULT_AUTH_NAMESPACE"],
        "`VAULT_NAMESPACE`",
        "the Vault namespace of the login. `/` is the root namespace",
    ),
    variable(
        Group::Login,
        &["VAULT_ROLE"],
        "none",
        "the role to log in with: `jwt`, `kubernetes`, `cert`, and the methods of clouds",
    ),
    variable(
        Group::Login,
        &["KUBERNETES_SERVICE_ACCOUNT_TOKEN"],
        "none",
        "a file with the JWT. Takes precedence over `VAULT_JWT_FILE`",
    ),
    variable(
        Group::Login,
        &["VAULT_JWT_FILE"],
        "the pod's own token",
        "a file with the JWT. The controller reads the file for each login. Refused with a \
         method other than `jwt` and `kubernetes`",
    ),
    variable(
        Group::Login,
        &["VAULT_JWT_SERVICE_ACCOUNT"],
        "none",
        "a ServiceAccount as `NAMESPACE/NAME`. For each login, the controller requests a new \
         token of it. Not together with a file with the JWT or a token",
    ),
    variable(
        Group::Login,
        &["VAULT_JWT_AUDIENCE"],
        "that of the API server",
        "the audience of this token, which the role in Vault must name",
    ),
    variable(
        Group::Login,
        &["VAULT_ROLE_ID", "VAULT_ROLE_ID_FILE"],
        "none",
        "the role id of an approle, or a file that holds it",
    ),
    variable(
        Group::Login,
        &["VAULT_SECRET_ID", "VAULT_SECRET_ID_FILE"],
        "none",
        "the secret id of an approle, or a file that holds it",
    ),
    variable(
        Group::Login,
        &["VAULT_SECRET_ID_WRAPPED"],
        "`false`",
        "the given secret id is a response-wrapping token for the real one",
    ),
    variable(Group::Login, &["VAULT_USERNAME"], "none", "the user of `userpass`"),
    variable(
        Group::Login,
        &["VAULT_PASSWORD", "VAULT_PASSWORD_FILE"],
        "none",
        "the password of `userpass`, or a file that holds it",
    ),
    variable(Group::Login, &["VAULT_TOKEN"], "none", "a token. Takes precedence over a role"),
    variable(
        Group::Login,
        &["VAULT_TOKEN_PATH"],
        "none",
        "a file with a token. The file may be replaced at any time",
    ),
    variable(
        Group::Login,
        &["VAULT_TOKEN_RENEW_THRESHOLD"],
        "none",
        "the same as `--vault-token-renew-threshold`. For the default server, the flag takes \
         precedence",
    ),
    variable(
        Group::Aws,
        &["VAULT_AWS_REGION"],
        "`AWS_REGION`, or else `AWS_DEFAULT_REGION`",
        "the region that `aws-iam` signs for. `aws-global` means the global endpoint. Without a \
         region, the global endpoint is used",
    ),
    variable(
        Group::Aws,
        &["VAULT_AWS_STS_ENDPOINT"],
        "the one of the region",
        "the address of the Security Token Service. With IRSA it gets the token of the \
         ServiceAccount, so it must use `https`, unless it is on the same machine",
    ),
    variable(
        Group::Aws,
        &["VAULT_AWS_HEADER_VALUE"],
        "none",
        "the value of the header `X-Vault-AWS-IAM-Server-ID`, if Vault requires it \
         (`iam_server_id_header_value`)",
    ),
    variable(
        Group::Aws,
        &["VAULT_AWS_NONCE", "VAULT_AWS_NONCE_FILE"],
        "a random nonce of this process",
        "the nonce of `aws-ec2`, or a file that holds it. Without it, Vault refuses logins after \
         a restart",
    ),
    variable(Group::Aws, &["AWS_REGION", "AWS_DEFAULT_REGION"], "none", "the region of the pod"),
    variable(
        Group::Aws,
        &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        "none",
        "keys to sign with",
    ),
    variable(Group::Aws, &["AWS_SESSION_TOKEN"], "none", "the session token of temporary keys"),
    variable(
        Group::Aws,
        &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
        "none",
        "a token of the ServiceAccount, and the role that AWS gives for it. IRSA sets both",
    ),
    variable(
        Group::Aws,
        &["AWS_ROLE_SESSION_NAME"],
        "`vault-secrets-reloader`",
        "the name of that session in the logs of AWS",
    ),
    variable(
        Group::Aws,
        &["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
        "none",
        "the server that gives keys to the pod. Pod Identity sets it",
    ),
    variable(
        Group::Aws,
        &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
        "none",
        "a path at 169.254.170.2. Takes precedence",
    ),
    variable(
        Group::Aws,
        &["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN"],
        "none",
        "a file with the token for that server, or the token. The file takes precedence",
    ),
    variable(
        Group::Aws,
        &["AWS_EC2_METADATA_SERVICE_ENDPOINT"],
        "`http://169.254.169.254`",
        "the metadata server of the instance",
    ),
    variable(
        Group::Aws,
        &["AWS_EC2_METADATA_DISABLED"],
        "`false`",
        "the metadata server is not used",
    ),
    variable(
        Group::Gcp,
        &["VAULT_GCP_SERVICE_ACCOUNT"],
        "the pod's service account",
        "the service account that `gcp-iam` signs for",
    ),
    variable(
        Group::Gcp,
        &["VAULT_GCP_IAM_ENDPOINT"],
        "`https://iamcredentials.googleapis.com`",
        "the address of the IAM credentials API. It gets an access token, so it must use \
         `https`, unless it is on the same machine",
    ),
    variable(
        Group::Gcp,
        &["GCE_METADATA_HOST"],
        "`169.254.169.254`",
        "the metadata server: a host, with a port if need be",
    ),
    variable(
        Group::Azure,
        &["VAULT_AZURE_RESOURCE"],
        "`https://management.azure.com/`",
        "the resource that the access token is for",
    ),
    variable(
        Group::Azure,
        &["VAULT_AZURE_CLIENT_ID", "AZURE_CLIENT_ID"],
        "none",
        "the client id of the identity. The first one that is set applies. A workload identity \
         needs one",
    ),
    variable(
        Group::Azure,
        &["VAULT_AZURE_SUBSCRIPTION_ID", "VAULT_AZURE_RESOURCE_GROUP"],
        "those of the node, for a managed identity",
        "where the machine or resource is that has the identity",
    ),
    variable(
        Group::Azure,
        &["VAULT_AZURE_VM_NAME", "VAULT_AZURE_VMSS_NAME", "VAULT_AZURE_RESOURCE_ID"],
        "those of the node, for a managed identity",
        "the virtual machine, the scale set or the whole id of another resource. Only one of them",
    ),
    variable(
        Group::Azure,
        &["AZURE_FEDERATED_TOKEN_FILE"],
        "none",
        "the file with the token of a workload identity. Without it, the controller uses the \
         managed identity of the node",
    ),
    variable(Group::Azure, &["AZURE_TENANT_ID"], "none", "the tenant of a workload identity"),
    variable(
        Group::Azure,
        &["AZURE_AUTHORITY_HOST"],
        "`https://login.microsoftonline.com`",
        "the authority of a workload identity. It gets the token of the service account, so it \
         must use `https`, unless it is on the same machine",
    ),
    variable(
        Group::Azure,
        &["AZURE_POD_IDENTITY_AUTHORITY_HOST"],
        "`http://169.254.169.254`",
        "the instance metadata service",
    ),
    variable(
        Group::Process,
        &["LISTEN_ADDRESS"],
        "`:8080`",
        "the address for probes and metrics. An empty host means all addresses",
    ),
    variable(
        Group::Process,
        &["POD_NAME"],
        "the host's name",
        "the name of this replica in the Lease. The chart sets it",
    ),
    variable(
        Group::Process,
        &["POD_NAMESPACE"],
        "none",
        "the namespace of the Lease. The chart sets it",
    ),
    variable(
        Group::Process,
        &["KUBECONFIG"],
        "`~/.kube/config`",
        "the kubeconfig. If no such file exists, the pod's service account is used",
    ),
];
