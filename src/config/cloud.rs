//! The configuration of logins with the identity of a cloud.

use super::environment::Environment;
use super::error::ConfigError;
use crate::cloud::Identity;

mod address;
mod aws;
mod azure;
mod gcp;

/// An auth method of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloudMethod {
    /// A signed request to the Security Token Service of AWS.
    AwsIam,
    /// The identity document of an EC2 instance.
    AwsEc2,
    /// The identity token of Google's metadata server.
    GcpGce,
    /// A JWT that Google signs for a service account.
    GcpIam,
    /// An access token of a managed identity or a workload identity.
    Azure,
}

/// The values of `VAULT_AUTH_METHOD`. The short names are those of the Vault Secrets Operator.
const METHODS: [(&str, CloudMethod); 7] = [
    ("aws-iam", CloudMethod::AwsIam),
    ("aws", CloudMethod::AwsIam),
    ("aws-ec2", CloudMethod::AwsEc2),
    ("gcp-gce", CloudMethod::GcpGce),
    ("gcp-iam", CloudMethod::GcpIam),
    ("gcp", CloudMethod::GcpGce),
    ("azure", CloudMethod::Azure),
];

/// Variables that belong to some auth methods, without their prefix.
pub(super) const OWN: &[(&str, &[&str])] = &[
    ("AWS_REGION", &["aws-iam", "aws"]),
    ("AWS_HEADER_VALUE", &["aws-iam", "aws"]),
    ("AWS_STS_ENDPOINT", &["aws-iam", "aws"]),
    ("AWS_NONCE", &["aws-ec2"]),
    ("AWS_NONCE_FILE", &["aws-ec2"]),
    ("GCP_SERVICE_ACCOUNT", &["gcp-iam"]),
    ("GCP_IAM_ENDPOINT", &["gcp-iam"]),
    ("AZURE_RESOURCE", &["azure"]),
    ("AZURE_CLIENT_ID", &["azure"]),
    ("AZURE_SUBSCRIPTION_ID", &["azure"]),
    ("AZURE_RESOURCE_GROUP", &["azure"]),
    ("AZURE_VM_NAME", &["azure"]),
    ("AZURE_VMSS_NAME", &["azure"]),
    ("AZURE_RESOURCE_ID", &["azure"]),
];

/// Returns the method with a name.
pub(super) fn method(name: &str) -> Option<CloudMethod> {
    METHODS.iter().find(|(known, _)| *known == name).map(|(_, method)| *method)
}

/// Returns the names of all methods.
pub(super) fn names() -> Vec<&'static str> {
    METHODS.iter().map(|(name, _)| *name).collect()
}

/// Returns the identity that the variables describe.
pub(super) fn identity(
    env: &Environment<'_>,
    method: CloudMethod,
) -> Result<Identity, ConfigError> {
    Ok(match method {
        CloudMethod::AwsIam => Identity::Aws(aws::iam(env)?),
        CloudMethod::AwsEc2 => Identity::Aws(aws::ec2(env)?),
        CloudMethod::GcpGce => Identity::Gcp(gcp::gce(env)?),
        CloudMethod::GcpIam => Identity::Gcp(gcp::iam(env)?),
        CloudMethod::Azure => Identity::Azure(azure::azure(env)?),
    })
}

/// Returns what the operator should know about an identity.
pub(super) fn warning(identity: &Identity) -> Option<&'static str> {
    match identity {
        Identity::Aws(identity) => aws::warning(identity),
        Identity::Gcp(_) | Identity::Azure(_) => None,
    }
}
