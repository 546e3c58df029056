//! The configuration of logins with an identity of AWS: by the variables that AWS's own clients read,
//! in the same order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use secrecy::SecretString;

use super::super::address::without_path;
use super::super::environment::Environment;
use super::super::error::{ConfigError, error, error_without_value};
use super::super::value::{boolean, secret_path};
use super::address::guarded;
use crate::cloud::aws::Aws;
use crate::cloud::aws::instance::Instance;
use crate::cloud::aws::keys::Keys;
use crate::cloud::aws::source::{Container, Source, WebIdentity};
use crate::cloud::aws::sts::Sts;
use crate::credentials::credential::{Credential, is_token};

/// The usual address of the metadata server.
const METADATA: &str = "http://169.254.169.254";

/// The server that `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` is relative to.
const CONTAINER: &str = "http://169.254.170.2";

/// The addresses of credential servers without TLS, beside loopback: of ECS and of EKS.
const CONTAINER_SERVERS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// The name that AWS's clients give the global endpoint, and its host and region.
const GLOBAL: (&str, &str, &str) = ("aws-global", "sts.amazonaws.com", "us-east-1");

/// The longest nonce that Vault accepts.
const LONGEST_NONCE: usize = 128;

const NO_NONCE: &str = "VAULT_AWS_NONCE_FILE is not set: Vault refuses logins of this instance after a \
                        restart of the controller. Give a nonce that stays";

/// Returns the principal of IAM that the variables describe.
pub(super) fn iam(env: &Environment<'_>) -> Result<Aws, ConfigError> {
    let server_id = env.get("AWS_HEADER_VALUE");
    if let Some((name, text)) = &server_id
        && !is_token(text)
    {
        return Err(error(name, text, "printable ASCII without spaces is expected"));
    }
    let sts = sts(env)?;
    let sts = match exchange(env)? {
        Some(address) => sts.exchanging_at(address),
        None => sts,
    };
    Ok(Aws::iam(sts, server_id.map(|(_, text)| text), source(env)?))
}

/// Returns the instance that the variables describe.
pub(super) fn ec2(env: &Environment<'_>) -> Result<Aws, ConfigError> {
    let nonce = env.credential("AWS_NONCE")?;
    if let Some((name, text)) = env.get("AWS_NONCE")
        && text.len() > LONGEST_NONCE
    {
        return Err(error_without_value(&name, "is longer than 128 characters"));
    }
    match instance(env)? {
        Some(instance) => Ok(Aws::ec2(instance, nonce)),
        None => Err(error_without_value(
            "AWS_EC2_METADATA_DISABLED",
            "does not go with VAULT_AUTH_METHOD=aws-ec2, which reads the metadata; remove one of them",
        )),
    }
}

/// Returns what the operator should know about an identity.
pub(super) fn warning(identity: &Aws) -> Option<&'static str> {
    identity.has_random_nonce().then_some(NO_NONCE)
}

/// Returns the Security Token Service that logins are signed for.
fn sts(env: &Environment<'_>) -> Result<Sts, ConfigError> {
    let own = env.get("AWS_REGION");
    let region = own.clone().or_else(|| region_of_pod(env));
    if let Some((name, text)) = &region
        && !is_region(text)
    {
        return Err(error(name, text, "not a region of AWS; write one such as eu-west-1"));
    }
    let (global, global_host, global_region) = GLOBAL;
    if let Some((name, text)) = env.get("AWS_STS_ENDPOINT") {
        let endpoint = guarded(&name, &text)?;
        if endpoint.host_str() == Some(global_host) {
            if let Some((other, region)) =
                own.filter(|(_, it)| ![global, global_region].contains(&&**it))
            {
                let problem =
                    format!("does not go with {name}={text}, which is signed for us-east-1");
                return Err(error(&other, &region, &problem));
            }
            return Ok(Sts::new(global_region.to_owned(), endpoint));
        }
        let Some((_, region)) = region.filter(|(_, region)| region != global) else {
            let problem =
                format!("not set; name the region that requests to {name} are signed for");
            return Err(error_without_value("VAULT_AWS_REGION", &problem));
        };
        return Ok(Sts::new(region, endpoint));
    }
    let region = region.map(|(_, region)| region).filter(|region| region != global);
    let host = region.as_deref().map_or_else(|| global_host.to_owned(), host_of);
    let endpoint = without_path("VAULT_AWS_STS_ENDPOINT", &format!("https://{host}"))?;
    Ok(Sts::new(region.unwrap_or_else(|| global_region.to_owned()), endpoint))
}

/// Returns the variable that names the region of the pod, and the region.
fn region_of_pod(env: &Environment<'_>) -> Option<(String, String)> {
    ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .into_iter()
        .find_map(|name| Some((name.to_owned(), env.of_pod(name)?)))
}

/// Returns the address where the pod exchanges its token for keys, if its region names one. AWS's own
/// clients use the endpoint of the pod's region, whatever logins are signed for. `None` means the
/// address that logins are signed for.
fn exchange(env: &Environment<'_>) -> Result<Option<Url>, ConfigError> {
    let (global, global_host, _) = GLOBAL;
    if let Some((name, text)) = env.get("AWS_STS_ENDPOINT")
        && guarded(&name, &text)?.host_str() != Some(global_host)
    {
        return Ok(None);
    }
    let of_pod = region_of_pod(env).filter(|(_, region)| is_region(region) && region != global);
    let Some((name, region)) = of_pod else { return Ok(None) };
    without_path(&name, &format!("https://{}", host_of(&region))).map(Some)
}

/// Returns the host of the Security Token Service in a region.
fn host_of(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("sts.{region}.{suffix}")
}

/// Whether a text is spelt as a region. It becomes part of the name of a host.
fn is_region(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len())
        && text.bytes().all(is_plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Returns the first source of keys that the variables describe.
fn source(env: &Environment<'_>) -> Result<Source, ConfigError> {
    if let Some(keys) = given(env)? {
        return Ok(Source::Given(keys));
    }
    if let Some(identity) = web_identity(env)? {
        return Ok(Source::WebIdentity(identity));
    }
    if let Some(container) = container(env)? {
        return Ok(Source::Container(container));
    }
    instance(env)?.map(Source::Instance).ok_or_else(|| {
        error_without_value(
            "AWS_EC2_METADATA_DISABLED",
            "leaves no source of AWS credentials; give the service account a role (IRSA or Pod \
             Identity), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    })
}

/// Returns the keys that the variables hold.
fn given(env: &Environment<'_>) -> Result<Option<Keys>, ConfigError> {
    const ID: &str = "AWS_ACCESS_KEY_ID";
    const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
    let (id, secret, session) =
        (env.of_pod(ID), env.of_pod(SECRET), env.of_pod("AWS_SESSION_TOKEN"));
    match (id, secret) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(error_without_value(ID, "not set, and AWS_SECRET_ACCESS_KEY is")),
        (Some(_), None) => Err(error_without_value(SECRET, "not set, and AWS_ACCESS_KEY_ID is")),
        (Some(id), Some(secret)) => match Keys::new(&id, &secret, session.as_deref()) {
            Some(keys) => Ok(Some(keys)),
            None => Err(error_without_value(
                ID,
                "not usable: this variable, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN is not one \
                 line of printable characters",
            )),
        },
    }
}

/// Returns the role and the token that EKS gives a service account.
fn web_identity(env: &Environment<'_>) -> Result<Option<WebIdentity>, ConfigError> {
    const FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
    const ROLE: &str = "AWS_ROLE_ARN";
    const SESSION: &str = "AWS_ROLE_SESSION_NAME";
    let (role, session) = (env.of_pod(ROLE), env.of_pod(SESSION));
    let Some(file) = env.of_pod(FILE) else { return Ok(None) };
    let token = secret_path(FILE, &file)?.into();
    let Some(role) = role else {
        return Err(error_without_value(ROLE, "not set, and AWS_WEB_IDENTITY_TOKEN_FILE is"));
    };
    if !role.starts_with("arn:") || !is_token(&role) {
        return Err(error(ROLE, &role, "not a role; write arn:aws:iam::ACCOUNT:role/NAME"));
    }
    let session = session.unwrap_or_else(|| "vault-secrets-reloader".to_owned());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if !(2..=64).contains(&session.len()) || !session.bytes().all(is_plain) {
        let problem = "not the name of a session: 2 to 64 letters, digits and _+=,.@- are expected";
        return Err(error(SESSION, &session, problem));
    }
    Ok(Some(WebIdentity { role, session, token }))
}

/// Returns the server that gives keys to the pod, as EKS Pod Identity and ECS do.
fn container(env: &Environment<'_>) -> Result<Option<Container>, ConfigError> {
    const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
    const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
    const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    let (relative, full) = (env.of_pod(RELATIVE), env.of_pod(FULL));
    let address = match (relative, full) {
        (Some(path), _) => {
            if !path.starts_with('/') {
                return Err(error(RELATIVE, &path, "does not begin with a slash"));
            }
            Url::parse(&format!("{CONTAINER}{path}"))
                .map_err(|_| error(RELATIVE, &path, "not the path of an address"))?
        }
        (None, Some(text)) => {
            let address = Url::parse(&text)
                .map_err(|_| error_without_value(FULL, "not an address; write http://HOST/PATH"))?;
            if !is_credential_server(&address) {
                return Err(error_without_value(
                    FULL,
                    "names a server that may not be asked for credentials; use https, or plain HTTP \
                     at loopback, 169.254.170.2, 169.254.170.23 or [fd00:ec2::23]",
                ));
            }
            address
        }
        (None, None) => return Ok(None),
    };
    let authorization = match (env.of_pod(TOKEN_FILE), env.of_pod(TOKEN)) {
        (Some(file), _) => Some(Credential::File(secret_path(TOKEN_FILE, &file)?.into())),
        (None, token) => token.map(|token| Credential::Text(SecretString::from(token))),
    };
    Ok(Some(Container { address, authorization }))
}

/// Whether AWS's clients accept an address as that of a credential server.
fn is_credential_server(address: &Url) -> bool {
    if !address.username().is_empty() || address.password().is_some() {
        return false;
    }
    let host = address.host_str().unwrap_or_default();
    match (address.scheme(), host.trim_matches(['[', ']']).parse::<IpAddr>()) {
        ("https", _) => !host.is_empty(),
        ("http", Ok(ip)) => ip.is_loopback() || CONTAINER_SERVERS.contains(&ip),
        ("http", Err(_)) => host == "localhost",
        _ => false,
    }
}

/// Returns the metadata server, unless it is switched off.
fn instance(env: &Environment<'_>) -> Result<Option<Instance>, ConfigError> {
    const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
    const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    let endpoint = env.of_pod(ENDPOINT).unwrap_or_else(|| METADATA.to_owned());
    let is_disabled = match env.of_pod(DISABLED) {
        Some(text) => boolean(DISABLED, &text)?,
        None => false,
    };
    if is_disabled {
        return Ok(None);
    }
    Ok(Some(Instance::new(without_path(ENDPOINT, &endpoint)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "SECRET")];
    const WEB_IDENTITY: [(&str, &str); 2] = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reloader"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
    ];
    const POD_IDENTITY: [(&str, &str); 2] = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/var/run/pod-token"),
    ];

    /// Runs a function with these variables, and returns its result or the text of its error.
    fn with<T>(
        variables: &[&[(&str, &str)]],
        function: impl Fn(&Environment<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, String> {
        let variables = variables.concat();
        let look_up = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        function(&Environment::of_process(&look_up)).map_err(|error| error.to_string())
    }

    fn source_of(variables: &[&[(&str, &str)]]) -> Result<&'static str, String> {
        Ok(match with(variables, source)? {
            Source::Given(_) => "given",
            Source::WebIdentity(_) => "web identity",
            Source::Container(_) => "container",
            Source::Instance(_) => "instance",
        })
    }

    #[test]
    fn the_first_source_of_the_chain_counts() {
        for (variables, expected) in [
            (&[&KEYS[..], &WEB_IDENTITY, &POD_IDENTITY][..], "given"),
            (&[&WEB_IDENTITY, &POD_IDENTITY], "web identity"),
            (&[&POD_IDENTITY], "container"),
            // A role alone is not a source: it may be for something else.
            (&[&WEB_IDENTITY[..1]], "instance"),
            (&[], "instance"),
        ] {
            assert_eq!(source_of(variables).as_deref(), Ok(expected), "{variables:?}");
        }
    }

    #[test]
    fn keys_that_are_not_complete_and_a_chain_without_an_end_are_refused() {
        for (variables, expected) in [
            (&[&KEYS[..1]][..], "AWS_SECRET_ACCESS_KEY: not set, and AWS_ACCESS_KEY_ID is"),
            (&[&KEYS[1..]], "AWS_ACCESS_KEY_ID: not set, and AWS_SECRET_ACCESS_KEY is"),
            (&[&KEYS, &[("AWS_SESSION_TOKEN", "SEC RET")]], "AWS_ACCESS_KEY_ID: not usable"),
            (&[&WEB_IDENTITY[1..]], "AWS_ROLE_ARN: not set, and AWS_WEB_IDENTITY_TOKEN_FILE is"),
            (&[&WEB_IDENTITY[1..], &[("AWS_ROLE_ARN", "reloader")]], "AWS_ROLE_ARN=\"reloader\""),
            (
                &[&WEB_IDENTITY, &[("AWS_ROLE_SESSION_NAME", "a/b")]],
                "AWS_ROLE_SESSION_NAME=\"a/b\"",
            ),
            (
                &[&[("AWS_EC2_METADATA_DISABLED", "true")]],
                "AWS_EC2_METADATA_DISABLED: leaves no source",
            ),
            (
                &[&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ftp://a")]],
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            ),
            (
                &[&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "v2")]],
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            ),
        ] {
            let error = source_of(variables).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("SEC RET"), "{error}");
        }
    }

    #[test]
    fn only_servers_on_the_node_and_servers_with_tls_are_asked_for_keys() {
        for (address, is_allowed) in [
            ("http://169.254.170.2/v2/credentials", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://127.0.0.1:8080/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("https://credentials.example.com/x?y=z", true),
            ("http://169.254.169.254/", false),
            ("http://169.254.170.24/", false),
            ("http://credentials.example.com/", false),
            ("http://localhost.example.com/", false),
            ("http://169.254.170.23@example.com/", false),
            ("https://user:password@example.com/", false),
            ("file:///etc/passwd", false),
        ] {
            let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)];
            assert_eq!(source_of(&[&variables]).is_ok(), is_allowed, "{address}");
        }
        let relative = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "//example.com/v2?id=1")];
        let both = with(&[&relative, &POD_IDENTITY], container).unwrap().unwrap();
        assert_eq!(both.address.as_str(), "http://169.254.170.2//example.com/v2?id=1");
    }

    #[test]
    fn the_endpoint_is_that_of_the_region_and_the_global_one_without_a_region() {
        let endpoint = ("VAULT_AWS_STS_ENDPOINT", "https://sts.example.com:8443");
        let global = ("VAULT_AWS_STS_ENDPOINT", "https://sts.amazonaws.com");
        for (variables, region, host) in [
            (&[][..], "us-east-1", "sts.amazonaws.com"),
            (&[("AWS_REGION", "eu-west-1")], "eu-west-1", "sts.eu-west-1.amazonaws.com"),
            (
                &[("AWS_DEFAULT_REGION", "cn-north-1")],
                "cn-north-1",
                "sts.cn-north-1.amazonaws.com.cn",
            ),
            (
                &[("AWS_REGION", "eu-west-1"), ("VAULT_AWS_REGION", "eu-west-2")],
                "eu-west-2",
                "sts.eu-west-2.amazonaws.com",
            ),
            (
                &[("AWS_REGION", "eu-west-1"), ("VAULT_AWS_REGION", "aws-global")],
                "us-east-1",
                "sts.amazonaws.com",
            ),
            (&[("AWS_REGION", "eu-west-1"), global], "us-east-1", "sts.amazonaws.com"),
            (&[("AWS_REGION", "eu-west-1"), endpoint], "eu-west-1", "sts.example.com"),
        ] {
            let sts = format!("{:?}", with(&[variables], sts).unwrap());
            assert!(sts.contains(&format!("region: {region:?}")), "{sts}");
            assert!(sts.contains(&format!("Domain({host:?})")), "{sts}");
        }
    }

    #[test]
    fn tokens_are_exchanged_in_the_region_of_the_pod() {
        let region = ("AWS_REGION", "eu-west-1");
        let regional = Some("https://sts.eu-west-1.amazonaws.com/");
        for (variables, expected) in [
            (&[][..], None),
            (&[region], regional),
            (&[("AWS_DEFAULT_REGION", "eu-west-1")], regional),
            (&[region, ("VAULT_AWS_REGION", "aws-global")], regional),
            (&[region, ("VAULT_AWS_REGION", "eu-west-2")], regional),
            (&[region, ("VAULT_AWS_STS_ENDPOINT", "https://sts.amazonaws.com")], regional),
            (&[region, ("VAULT_AWS_STS_ENDPOINT", "https://sts.example.com")], None),
            (&[("AWS_REGION", "aws-global")], None),
            (&[("VAULT_AWS_REGION", "eu-west-1")], None),
        ] {
            let address = with(&[variables], exchange).unwrap();
            assert_eq!(address.as_ref().map(Url::as_str), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_region_that_does_not_fit_the_endpoint_is_refused() {
        let global = ("VAULT_AWS_STS_ENDPOINT", "https://sts.amazonaws.com");
        for (variables, expected) in [
            (&[("AWS_REGION", "evil.com/")][..], "AWS_REGION=\"evil.com/\": not a region"),
            (
                &[("VAULT_AWS_REGION", "eu-west-1"), global],
                "VAULT_AWS_REGION=\"eu-west-1\": does not go",
            ),
            (&[("VAULT_AWS_STS_ENDPOINT", "https://sts.example.com")], "VAULT_AWS_REGION: not set"),
            (&[("VAULT_AWS_STS_ENDPOINT", "https://a/path")], "VAULT_AWS_STS_ENDPOINT"),
            // The service gets the token of the service account.
            (
                &[
                    ("AWS_REGION", "eu-west-1"),
                    ("VAULT_AWS_STS_ENDPOINT", "http://sts.example.com"),
                ],
                "VAULT_AWS_STS_ENDPOINT=\"http://sts.example.com\": must use https",
            ),
        ] {
            let error = with(&[variables], sts).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let header = [("VAULT_AWS_HEADER_VALUE", "vault example")];
        assert!(with(&[&header], iam).unwrap_err().starts_with("VAULT_AWS_HEADER_VALUE"));
    }

    #[test]
    fn an_instance_needs_its_metadata_and_is_warned_about_without_a_nonce() {
        let aws = with(&[], ec2).unwrap();
        assert!(warning(&aws).is_some());
        let nonce = [("VAULT_AWS_NONCE_FILE", "/etc/nonce")];
        assert!(warning(&with(&[&nonce], ec2).unwrap()).is_none());
        let long = "x".repeat(LONGEST_NONCE + 1);
        for variables in [
            &[("AWS_EC2_METADATA_DISABLED", "true")][..],
            &[("VAULT_AWS_NONCE", long.as_str())],
            &[("VAULT_AWS_NONCE", "a"), ("VAULT_AWS_NONCE_FILE", "/etc/nonce")],
        ] {
            let error = with(&[variables], ec2).unwrap_err();
            assert!(!error.contains("xxx"), "{error}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let aws = with(&[&KEYS, &[("AWS_SESSION_TOKEN", "SECRET")]], iam).unwrap();
        assert!(!format!("{aws:?}").contains("SECRET"));
        let token = [POD_IDENTITY[0], ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "SECRET")];
        assert!(!format!("{:?}", with(&[&token], iam).unwrap()).contains("SECRET"));
        let nonce = [("VAULT_AWS_NONCE", "SECRET")];
        assert!(!format!("{:?}", with(&[&nonce], ec2).unwrap()).contains("SECRET"));
    }
}
