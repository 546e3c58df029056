//! Where the keys of AWS come from. The configuration selects one source, in the order of AWS's own
//! clients.

use std::path::PathBuf;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};
use reqwest::{Request, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::super::error::CloudError;
use super::super::http::Service;
use super::instance::Instance;
use super::keys::Keys;
use super::sts::Sts;
use crate::credentials::credential::{Credential, is_token, read_token};
use crate::credentials::files::Files;

const WEB_IDENTITY_TOKEN: &str = "the web identity token file";
const AUTHORIZATION_TOKEN: &str = "the file of the container authorization token";

/// A source of keys.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Keys that are given.
    Given(Keys),
    /// The token of a service account, for which AWS gives the keys of a role.
    WebIdentity(WebIdentity),
    /// A server on the node that gives keys to the pod.
    Container(Container),
    /// The role that is attached to the instance.
    Instance(Instance),
}

/// The token of a service account and its role in AWS.
#[derive(Clone, Debug)]
pub(crate) struct WebIdentity {
    /// The name of the role, as an ARN.
    pub(crate) role: String,
    /// The name of the session, for the logs of AWS.
    pub(crate) session: String,
    /// The file with the token. The file is read for each use, because projected tokens rotate.
    pub(crate) token: PathBuf,
}

/// A server that gives keys to the containers of a node.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    /// The address of the keys, with its path and query.
    pub(crate) address: Url,
    /// The value of the header `Authorization`.
    pub(crate) authorization: Option<Credential>,
}

impl Source {
    /// Returns new keys.
    pub(super) async fn keys(&self, sts: &Sts, files: &Files) -> Result<Keys, CloudError> {
        match self {
            Self::Given(keys) => Ok(keys.clone()),
            Self::WebIdentity(WebIdentity { role, session, token }) => {
                let token = read_token(files, WEB_IDENTITY_TOKEN, token).await?;
                sts.assume_role(role, session, &token).await
            }
            Self::Container(container) => container.keys(files).await,
            Self::Instance(instance) => instance.keys().await,
        }
    }

    /// Returns the credential for the keys that is read from a file.
    pub(super) async fn credential(&self, files: &Files) -> Option<SecretString> {
        match self {
            Self::WebIdentity(WebIdentity { token, .. }) => {
                read_token(files, WEB_IDENTITY_TOKEN, token).await.ok()
            }
            Self::Container(Container { authorization: Some(authorization), .. }) => {
                authorization.read(files, AUTHORIZATION_TOKEN).await.ok()
            }
            Self::Given(_) | Self::Container(_) | Self::Instance(_) => None,
        }
    }
}

impl Container {
    async fn keys(&self, files: &Files) -> Result<Keys, CloudError> {
        let service = Service {
            name: "the credential server of the container",
            address: self.address.clone(),
        };
        let mut request = Request::new(Method::GET, self.address.clone());
        if let Some(authorization) = &self.authorization {
            let token = authorization.read(files, AUTHORIZATION_TOKEN).await?;
            let value = Some(token.expose_secret().trim()).filter(|token| is_token(token));
            let value = value.and_then(|token| HeaderValue::from_str(token).ok());
            let mut value = value
                .ok_or_else(|| service.error("its authorization token holds no printable text"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let body = service.read(request).await?;
        Keys::of_json(&body).ok_or_else(|| service.error("its answer contains no keys"))
    }
}
