//! The configuration of logins with the identity of Azure.

use super::super::environment::Environment;
use super::super::error::{ConfigError, error, error_without_value};
use super::super::value::secret_path;
use super::address::{address, guarded};
use crate::cloud::azure::{Azure, Owner, TokenSource, is_name};

/// The default resource: the API of Azure's public cloud.
const DEFAULT_RESOURCE: &str = "https://management.azure.com/";

/// The variable of Azure's clients that names another instance metadata service.
const METADATA_HOST: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";

/// The default address of the instance metadata service.
const DEFAULT_METADATA: &str = "http://169.254.169.254";

/// The variables that the webhook of Azure Workload Identity sets.
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const TENANT: &str = "AZURE_TENANT_ID";
const CLIENT: &str = "AZURE_CLIENT_ID";
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";

/// The default address of the authority.
const DEFAULT_AUTHORITY: &str = "https://login.microsoftonline.com";

/// Returns the login with a workload identity if the environment has one, else with the managed
/// identity of the machine.
pub(super) fn azure(env: &Environment<'_>) -> Result<Azure, ConfigError> {
    let owner = owner(env)?;
    let source = match env.of_pod(TOKEN_FILE) {
        Some(file) => {
            check_whole(&owner)?;
            workload(env, &file)?
        }
        None => managed(env)?,
    };
    Ok(Azure { source, resource: resource(env)?, owner })
}

fn resource(env: &Environment<'_>) -> Result<String, ConfigError> {
    let Some((name, text)) = env.get("AZURE_RESOURCE") else {
        return Ok(DEFAULT_RESOURCE.to_owned());
    };
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || !is_name(&text) {
        let problem = format!("not the name of a resource; the usual one is {DEFAULT_RESOURCE}");
        return Err(error(&name, &text, &problem));
    }
    Ok(text)
}

fn managed(env: &Environment<'_>) -> Result<TokenSource, ConfigError> {
    let metadata = env.of_pod(METADATA_HOST).unwrap_or_else(|| DEFAULT_METADATA.to_owned());
    Ok(TokenSource::Managed {
        metadata: address(METADATA_HOST, &metadata)?,
        client_id: client(env)?,
    })
}

fn workload(env: &Environment<'_>, file: &str) -> Result<TokenSource, ConfigError> {
    let tenant = env.of_pod(TENANT).ok_or_else(|| {
        error_without_value(TENANT, &format!("not set, and {TOKEN_FILE} is; set both, or none"))
    })?;
    let client_id = client(env)?.ok_or_else(|| {
        error_without_value(
            "VAULT_AZURE_CLIENT_ID",
            &format!("not set, and {TOKEN_FILE} is; set it or {CLIENT} to that of the identity"),
        )
    })?;
    let authority = env.of_pod(AUTHORITY).unwrap_or_else(|| DEFAULT_AUTHORITY.to_owned());
    Ok(TokenSource::Workload {
        authority: guarded(AUTHORITY, &authority)?,
        tenant: id(TENANT, tenant)?,
        client_id,
        file: secret_path(TOKEN_FILE, file)?.into(),
    })
}

/// Returns the client id of the identity.
fn client(env: &Environment<'_>) -> Result<Option<String>, ConfigError> {
    let given = env.get("AZURE_CLIENT_ID");
    let given = given.or_else(|| Some((CLIENT.to_owned(), env.of_pod(CLIENT)?)));
    given.map(|(name, text)| id(&name, text)).transpose()
}

/// Checks the id of a tenant or a client. The id of a tenant becomes a part of a path.
fn id(name: &str, text: String) -> Result<String, ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if text.starts_with('.') || text.len() > 253 || !text.bytes().all(is_plain) {
        return Err(error(name, &text, "not an id; write it as Azure shows it"));
    }
    Ok(text)
}

/// Returns the names of what has the identity.
fn owner(env: &Environment<'_>) -> Result<Owner, ConfigError> {
    let name = |suffix: &str| match env.get(suffix) {
        Some((variable, text)) if !is_name(&text) => {
            Err(error(&variable, &text, "not the name of a resource"))
        }
        given => Ok(given.map(|(_, text)| text)),
    };
    let names = ["AZURE_VM_NAME", "AZURE_VMSS_NAME", "AZURE_RESOURCE_ID"];
    let mut given = names.iter().filter_map(|suffix| env.get(suffix));
    if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
        // Vault would use one and ignore the other.
        let problem = format!("does not go with {first}; remove one of them");
        return Err(error_without_value(&second, &problem));
    }
    Ok(Owner {
        subscription_id: name("AZURE_SUBSCRIPTION_ID")?,
        resource_group_name: name("AZURE_RESOURCE_GROUP")?,
        vm_name: name("AZURE_VM_NAME")?,
        vmss_name: name("AZURE_VMSS_NAME")?,
        resource_id: name("AZURE_RESOURCE_ID")?,
    })
}

/// Checks that the names are all there or none is. A workload identity is not of the machine, whose
/// metadata could complete them.
fn check_whole(owner: &Owner) -> Result<(), ConfigError> {
    let has_resource =
        owner.vm_name.is_some() || owner.vmss_name.is_some() || owner.resource_id.is_some();
    let parts = [
        ("VAULT_AZURE_SUBSCRIPTION_ID", owner.subscription_id.is_some()),
        ("VAULT_AZURE_RESOURCE_GROUP", owner.resource_group_name.is_some()),
        ("VAULT_AZURE_RESOURCE_ID", has_resource),
    ];
    let missing = parts.iter().find(|(_, is_set)| !is_set);
    let given = parts.iter().find(|(_, is_set)| *is_set);
    match (missing, given) {
        (Some((missing, _)), Some(_)) => Err(error_without_value(
            missing,
            "not set; with a workload identity, Vault needs the subscription, the resource group \
             and the resource, or none of them",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: [(&str, &str); 3] = [
        (TOKEN_FILE, "/var/run/secrets/azure/tokens/azure-identity-token"),
        (TENANT, "tenant-1"),
        (CLIENT, "client-1"),
    ];

    fn read(variables: &[(&str, &str)]) -> Result<Azure, String> {
        let look_up = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        azure(&Environment::of_process(&look_up)).map_err(|error| error.to_string())
    }

    fn and<'a>(
        variables: &[(&'a str, &'a str)],
        more: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        variables.iter().chain(more).copied().collect()
    }

    #[test]
    fn without_a_federated_token_the_identity_is_that_of_the_machine() {
        let azure = read(&[]).unwrap();
        assert_eq!(azure.resource, DEFAULT_RESOURCE);
        assert_eq!(azure.owner, Owner::default());
        let TokenSource::Managed { metadata, client_id } = azure.source else {
            panic!("another source")
        };
        assert_eq!((metadata.as_str(), client_id), ("http://169.254.169.254/", None));
        let variables = [
            ("VAULT_AZURE_CLIENT_ID", "client-2"),
            (CLIENT, "client-1"),
            ("VAULT_AZURE_RESOURCE", "api://vault"),
            (METADATA_HOST, "http://127.0.0.1:8080"),
        ];
        let azure = read(&variables).unwrap();
        assert_eq!(azure.resource, "api://vault");
        let TokenSource::Managed { metadata, client_id } = azure.source else {
            panic!("another source")
        };
        assert_eq!(metadata.as_str(), "http://127.0.0.1:8080/");
        assert_eq!(client_id.as_deref(), Some("client-2"));
    }

    #[test]
    fn the_variables_of_the_webhook_make_a_workload_identity() {
        let TokenSource::Workload { authority, tenant, client_id, file } =
            read(&WORKLOAD).unwrap().source
        else {
            panic!("another source")
        };
        assert_eq!(authority.as_str(), "https://login.microsoftonline.com/");
        assert_eq!((tenant.as_str(), client_id.as_str()), ("tenant-1", "client-1"));
        assert_eq!(file.to_str(), Some(WORKLOAD[0].1));
        let china = [(AUTHORITY, "https://login.partner.microsoftonline.cn/")];
        let azure = read(&and(&WORKLOAD, &china)).unwrap();
        assert!(matches!(
            azure.source,
            TokenSource::Workload { authority, .. } if authority.as_str() == china[0].1
        ));
        let whole = [
            ("VAULT_AZURE_SUBSCRIPTION_ID", "sub-1"),
            ("VAULT_AZURE_RESOURCE_GROUP", "group-1"),
            ("VAULT_AZURE_RESOURCE_ID", "/subscriptions/sub-1/resourceGroups/group-1"),
        ];
        assert!(read(&and(&WORKLOAD, &whole)).is_ok());
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        let both = [("VAULT_AZURE_VM_NAME", "a"), ("VAULT_AZURE_RESOURCE_ID", "b")];
        for (variables, expected) in [
            (WORKLOAD[..1].to_vec(), "AZURE_TENANT_ID: not set"),
            (WORKLOAD[..2].to_vec(), "VAULT_AZURE_CLIENT_ID: not set"),
            (and(&WORKLOAD, &[(AUTHORITY, "http://a.example.com")]), "AZURE_AUTHORITY_HOST"),
            (
                and(&WORKLOAD[..1], &[(TENANT, "../a"), (CLIENT, "client-1")]),
                "AZURE_TENANT_ID=\"../a\"",
            ),
            (
                and(&[(TOKEN_FILE, "eyJhbGci.SECRET.c2ln")], &WORKLOAD[1..]),
                "AZURE_FEDERATED_TOKEN_FILE: not the path",
            ),
            (and(&WORKLOAD, &both[..1]), "VAULT_AZURE_SUBSCRIPTION_ID: not set"),
            (both.to_vec(), "VAULT_AZURE_RESOURCE_ID: does not go with VAULT_AZURE_VM_NAME"),
            (vec![("VAULT_AZURE_RESOURCE", "a b")], "VAULT_AZURE_RESOURCE=\"a b\""),
            (vec![("VAULT_AZURE_CLIENT_ID", "a/b")], "VAULT_AZURE_CLIENT_ID=\"a/b\""),
            (vec![("BAO_AZURE_VM_NAME", "a\nb")], "BAO_AZURE_VM_NAME"),
            (vec![(METADATA_HOST, "169.254.169.254")], METADATA_HOST),
        ] {
            let problem = read(&variables).unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
            assert!(!problem.contains("SECRET"), "{problem}");
        }
    }
}
