//! Identities of Amazon Web Services: a request that the keys of a role sign, or the signed document of
//! an instance.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::error::CloudError;
use super::proof::{Proof, proof};
use crate::credentials::credential::Credential;
use crate::credentials::files::Files;

pub(crate) mod instance;
pub(crate) mod keys;
mod signature;
pub(crate) mod source;
pub(crate) mod sts;

use instance::Instance;
use keys::Keys;
use source::Source;
use sts::Sts;

const NONCE: &str = "the file of the nonce";

/// An identity of AWS.
#[derive(Clone, Debug)]
pub struct Aws(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Iam(Box<Iam>),
    Ec2(Ec2),
}

/// A principal of IAM.
#[derive(Debug)]
struct Iam {
    sts: Sts,
    /// What Vault expects in the header that names the server.
    server_id: Option<String>,
    source: Source,
    /// The keys of the last login.
    kept: Mutex<Option<Kept>>,
}

/// Keys, and until when they are used again.
#[derive(Debug)]
struct Kept {
    keys: Keys,
    until: Timestamp,
}

/// An instance of EC2.
#[derive(Debug)]
struct Ec2 {
    instance: Instance,
    nonce: Nonce,
}

/// What Vault accepts further logins of an instance with. Whoever knows it can log in as the instance.
#[derive(Debug)]
enum Nonce {
    Given(Credential),
    /// A random nonce of this process. The controller does not take the nonce that Vault can make: if
    /// the answer to a login is lost, so is that nonce, and Vault refuses all further logins.
    Random(SecretString),
}

impl Aws {
    /// A principal of IAM. `server_id` is the value of the header that names the Vault server.
    pub(crate) fn iam(sts: Sts, server_id: Option<String>, source: Source) -> Self {
        let iam = Iam { sts, server_id, source, kept: Mutex::default() };
        Self(Arc::new(Kind::Iam(Box::new(iam))))
    }

    /// An instance of EC2. Without a nonce, this process makes one.
    pub(crate) fn ec2(instance: Instance, nonce: Option<Credential>) -> Self {
        let random = || Nonce::Random(Uuid::new_v4().to_string().into());
        let nonce = nonce.map_or_else(random, Nonce::Given);
        Self(Arc::new(Kind::Ec2(Ec2 { instance, nonce })))
    }

    /// Whether logins need a nonce that ends with this process.
    pub(crate) fn has_random_nonce(&self) -> bool {
        matches!(&*self.0, Kind::Ec2(Ec2 { nonce: Nonce::Random(_), .. }))
    }

    /// Returns a new proof of the identity.
    pub(crate) async fn prove(&self, files: &Files) -> Result<Proof, CloudError> {
        match &*self.0 {
            Kind::Iam(iam) => {
                let keys = iam.keys(files, Timestamp::now()).await?;
                Ok(iam.sts.caller_identity(&keys, iam.server_id.as_deref(), Timestamp::now()))
            }
            Kind::Ec2(Ec2 { instance, nonce }) => {
                let nonce = match nonce {
                    Nonce::Given(given) => given.read(files, NONCE).await?,
                    Nonce::Random(nonce) => nonce.clone(),
                };
                let pkcs7 = instance.signed_document().await?;
                Ok(proof([("pkcs7", pkcs7), ("nonce", nonce.expose_secret().to_owned())]))
            }
        }
    }

    /// Returns the credential that a proof reads from a file.
    pub(crate) async fn credential(&self, files: &Files) -> Option<SecretString> {
        match &*self.0 {
            Kind::Iam(iam) => iam.source.credential(files).await,
            Kind::Ec2(Ec2 { nonce: Nonce::Given(given), .. }) => {
                given.read(files, NONCE).await.ok()
            }
            Kind::Ec2(Ec2 { nonce: Nonce::Random(_), .. }) => None,
        }
    }

    /// Forgets the keys of the last login.
    pub(crate) async fn forget(&self) {
        if let Kind::Iam(iam) = &*self.0 {
            *iam.kept.lock().await = None;
        }
    }
}

impl Iam {
    /// Returns the keys to sign with. A login costs no request for keys while the last ones last.
    async fn keys(&self, files: &Files, now: Timestamp) -> Result<Keys, CloudError> {
        let mut kept = self.kept.lock().await;
        if let Some(last) = kept.as_ref().filter(|last| now < last.until) {
            return Ok(last.keys.clone());
        }
        let keys = self.source.keys(&self.sts, files).await?;
        *kept = Some(Kept { until: keys.kept_until(now), keys: keys.clone() });
        Ok(keys)
    }
}

#[cfg(test)]
mod tests;
