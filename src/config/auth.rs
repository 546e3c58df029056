//! The configuration of the auth method that gives the controller a token. A variable of one method
//! that is set for another method is refused, because a mix-up would log in as another identity.

use std::path::Path;

use secrecy::SecretString;

use super::cloud;
use super::environment::Environment;
use super::error::{ConfigError, error, error_without_value};
use super::service_account::service_account;
use super::value::secret_path;
use crate::credentials::credential::{self, Credential};
use crate::credentials::service_account::ServiceAccount;
use crate::vault::approle::{AppRole, AppRoleSecretId};
use crate::vault::login::Method;
use crate::vault::login::cloud::CloudLogin;
use crate::vault::login::jwt::{JwtLogin, JwtSource};

/// The file with the pod's own service account token.
pub(super) const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The values of `VAULT_AUTH_METHOD`, beside those of clouds.
const METHODS: [&str; 7] = ["jwt", "kubernetes", "approle", "userpass", "cert", "token", "none"];

/// Variables that belong to some auth methods, without their prefix.
const OWN: [(&str, &[&str]); 8] = [
    ("ROLE_ID", &["approle"]),
    ("ROLE_ID_FILE", &["approle"]),
    ("SECRET_ID", &["approle"]),
    ("SECRET_ID_FILE", &["approle"]),
    ("SECRET_ID_WRAPPED", &["approle"]),
    ("USERNAME", &["userpass"]),
    ("PASSWORD", &["userpass"]),
    ("PASSWORD_FILE", &["userpass"]),
];

/// Variables of a login with a JWT of a ServiceAccount, without their prefix.
const OF_JWT: [&str; 3] = ["JWT_FILE", "JWT_SERVICE_ACCOUNT", "JWT_AUDIENCE"];

/// Returns the auth method that the variables describe.
pub(super) fn method(env: &Environment<'_>, is_tls: bool) -> Result<Method, ConfigError> {
    let chosen = env.get("AUTH_METHOD");
    let name = chosen.as_ref().map(|(_, name)| name.as_str());
    for (suffix, methods) in OWN.iter().chain(cloud::OWN) {
        if let Some((variable, _)) = env.get(suffix)
            && !name.is_some_and(|name| methods.contains(&name))
        {
            let problem =
                format!("is for VAULT_AUTH_METHOD={}; set that, or remove it", methods[0]);
            return Err(error_without_value(&variable, &problem));
        }
    }
    if let Some((variable, name)) = &chosen
        && METHODS.contains(&name.as_str())
        && !["jwt", "kubernetes", "cert"].contains(&name.as_str())
    {
        refuse(env, &["ROLE"], variable, name)?;
    }
    if let Some((variable, name)) = &chosen
        && !["jwt", "kubernetes"].contains(&name.as_str())
        && (METHODS.contains(&name.as_str()) || cloud::method(name).is_some())
    {
        refuse(env, &OF_JWT, variable, name)?;
    }
    if let Some((variable, name)) = &chosen
        && !["jwt", "kubernetes", "token"].contains(&name.as_str())
    {
        refuse(env, &["TOKEN", "TOKEN_PATH"], variable, name)?;
    }
    match name {
        Some("approle") => Ok(Method::AppRole(app_role(env)?)),
        Some("userpass") => Ok(Method::UserPass {
            mount: mount(env, "userpass")?,
            username: user_name(env)?,
            password: required(env, "PASSWORD")?,
        }),
        Some("cert") => cert(env, is_tls),
        Some("none") => Ok(Method::None),
        Some("token") => given(env)?.ok_or_else(|| {
            error_without_value(
                "VAULT_TOKEN",
                "not set; give a token, or a file of it by VAULT_TOKEN_PATH",
            )
        }),
        None | Some("jwt" | "kubernetes") => match (service_account(env)?, given(env)?) {
            (None, Some(given)) => Ok(given),
            (account, _) => jwt(env, chosen.is_some(), account),
        },
        Some(name) => match cloud::method(name) {
            Some(chosen) => Ok(Method::Cloud(Box::new(of_cloud(env, chosen)?))),
            None => Err(error(
                "VAULT_AUTH_METHOD",
                name,
                &format!(
                    "an unknown auth method; use one of {}, {}",
                    METHODS.join(", "),
                    cloud::names().join(", ")
                ),
            )),
        },
    }
}

/// Refuses variables that do not go with the chosen method.
fn refuse(
    env: &Environment<'_>,
    suffixes: &[&str],
    variable: &str,
    name: &str,
) -> Result<(), ConfigError> {
    match suffixes.iter().find_map(|suffix| env.get(suffix)) {
        Some((other, _)) => {
            let problem = format!("does not go with {variable}={name}; remove one of them");
            Err(error_without_value(&other, &problem))
        }
        None => Ok(()),
    }
}

/// Returns the token that a variable holds or names the file of, if one is set.
fn given(env: &Environment<'_>) -> Result<Option<Method>, ConfigError> {
    if let Some((name, token)) = env.get("TOKEN") {
        let token = token.trim();
        if !credential::is_token(token) {
            return Err(error_without_value(
                &name,
                "not a token: one line of printable characters is expected",
            ));
        }
        return Ok(Some(Method::Token(SecretString::from(token))));
    }
    let Some((name, file)) = env.get("TOKEN_PATH") else { return Ok(None) };
    Ok(Some(Method::TokenFile(secret_path(&name, &file)?.into())))
}

/// Returns the login with a role and a token of `account`, or the pod's own token. Without a role and
/// an account, returns the token file in the user's home folder, or no login if an agent adds the
/// token.
fn jwt(
    env: &Environment<'_>,
    is_chosen: bool,
    account: Option<ServiceAccount>,
) -> Result<Method, ConfigError> {
    let Some(role) = env.text("ROLE") else {
        if account.is_some() {
            return Err(no_role());
        }
        let home = env.other("HOME").map(|home| Path::new(&home).join(".vault-token"));
        return match home.filter(|file| file.is_file()) {
            Some(file) => Ok(Method::TokenFile(file)),
            None if !is_chosen && env.get("AGENT_ADDR").is_some() => Ok(Method::None),
            None => Err(error_without_value(
                "VAULT_ROLE",
                "not set; name the role to log in with, or give a token by VAULT_TOKEN or \
                 VAULT_TOKEN_PATH, or set VAULT_AUTH_METHOD for another auth method",
            )),
        };
    };
    let source = match account {
        Some(account) => JwtSource::ServiceAccount(account),
        None => jwt_file(env)?,
    };
    Ok(Method::Jwt(JwtLogin { mount: mount(env, "kubernetes")?, role, source }))
}

fn jwt_file(env: &Environment<'_>) -> Result<JwtSource, ConfigError> {
    let (name, file) = env
        .other("KUBERNETES_SERVICE_ACCOUNT_TOKEN")
        .map(|file| ("KUBERNETES_SERVICE_ACCOUNT_TOKEN".to_owned(), file))
        .or_else(|| env.get("JWT_FILE"))
        .unwrap_or_else(|| ("VAULT_JWT_FILE".to_owned(), POD_TOKEN.to_owned()));
    Ok(JwtSource::File(secret_path(&name, &file)?.into()))
}

fn no_role() -> ConfigError {
    error_without_value("VAULT_ROLE", "not set; name the role to log in with")
}

fn app_role(env: &Environment<'_>) -> Result<AppRole, ConfigError> {
    let is_wrapped = env.boolean("SECRET_ID_WRAPPED")?;
    let secret_id = env.credential("SECRET_ID")?;
    if is_wrapped && secret_id.is_none() {
        return Err(error_without_value(
            "VAULT_SECRET_ID_WRAPPED",
            "is set, and no secret id; give it by VAULT_SECRET_ID_FILE",
        ));
    }
    Ok(AppRole {
        mount: mount(env, "approle")?,
        role_id: required(env, "ROLE_ID")?,
        secret_id: secret_id.map(|given| AppRoleSecretId::new(given, is_wrapped)),
    })
}

fn cert(env: &Environment<'_>, is_tls: bool) -> Result<Method, ConfigError> {
    if env.get("CLIENT_CERT").is_none() {
        return Err(error_without_value(
            "VAULT_CLIENT_CERT",
            "not set; VAULT_AUTH_METHOD=cert logs in with it and VAULT_CLIENT_KEY",
        ));
    }
    if !is_tls {
        return Err(error_without_value(
            "VAULT_ADDR",
            "is plain HTTP, and VAULT_AUTH_METHOD=cert needs HTTPS",
        ));
    }
    Ok(Method::Cert { mount: mount(env, "cert")?, role: env.text("ROLE") })
}

/// Returns the login with the identity of a cloud.
fn of_cloud(env: &Environment<'_>, chosen: cloud::CloudMethod) -> Result<CloudLogin, ConfigError> {
    let Some(role) = env.text("ROLE") else { return Err(no_role()) };
    let identity = cloud::identity(env, chosen)?;
    Ok(CloudLogin { mount: mount(env, identity.method())?, role, identity })
}

/// Returns the name of the user. The name becomes a part of a request path.
fn user_name(env: &Environment<'_>) -> Result<String, ConfigError> {
    let (name, user) = env.get("USERNAME").ok_or_else(|| {
        error_without_value("VAULT_USERNAME", "not set; VAULT_AUTH_METHOD=userpass logs in with it")
    })?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+~".contains(c);
    if !user.chars().all(is_plain) {
        return Err(error(&name, &user, "not the name of a user"));
    }
    Ok(user)
}

/// Returns the mount path of an auth method, without `auth/`.
fn mount(env: &Environment<'_>, usual: &str) -> Result<String, ConfigError> {
    let (name, path) =
        env.get("PATH").unwrap_or_else(|| ("VAULT_PATH".to_owned(), usual.to_owned()));
    let mount = path.trim_matches('/');
    let mount = mount.strip_prefix("auth/").unwrap_or(mount);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./~".contains(c);
    if mount.is_empty() || !mount.chars().all(is_plain) {
        let problem = format!("not the path of an auth method; the usual one is {usual}");
        return Err(error(&name, &path, &problem));
    }
    Ok(mount.to_owned())
}

fn required(env: &Environment<'_>, suffix: &str) -> Result<Credential, ConfigError> {
    env.credential(suffix)?.ok_or_else(|| {
        let problem = format!("not set; give it, or a file that holds it by VAULT_{suffix}_FILE");
        error_without_value(&format!("VAULT_{suffix}"), &problem)
    })
}
