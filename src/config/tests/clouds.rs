//! Logins with the identity of a cloud.

use super::*;

#[test]
fn the_identities_of_google_and_azure_log_in_at_their_usual_mounts() {
    for (name, mount) in
        [("gcp", "gcp"), ("gcp-gce", "gcp"), ("gcp-iam", "gcp"), ("azure", "azure")]
    {
        let given = |path| {
            let variables = [ROLE, ("VAULT_AUTH_METHOD", name), ("VAULT_PATH", path)];
            match load(&[], &variables).unwrap().connections.remove(0).method {
                Method::Cloud(login) => (login.mount, login.role),
                _ => panic!("{name} is a login of a cloud"),
            }
        };
        assert_eq!(given(""), (mount.to_owned(), "reloader".to_owned()));
        assert_eq!(given("auth/other").0, "other");
        let without_role = load(&[], &[("VAULT_AUTH_METHOD", name)]).unwrap_err();
        assert!(without_role.starts_with("VAULT_ROLE: not set"), "{without_role}");
        let file = ("VAULT_JWT_FILE", "/jwt");
        let with_file = load(&[], &[ROLE, ("VAULT_AUTH_METHOD", name), file]).unwrap_err();
        let expected =
            format!("VAULT_JWT_FILE: does not go with VAULT_AUTH_METHOD={name}; remove one");
        assert!(with_file.starts_with(&expected), "{with_file}");
    }
}

#[test]
fn variables_of_google_and_azure_go_with_their_methods_only() {
    expect_refusals(&[
        (
            &[],
            &[ROLE, ("VAULT_AUTH_METHOD", "gcp"), ("VAULT_GCP_SERVICE_ACCOUNT", "a@b")],
            "VAULT_GCP_SERVICE_ACCOUNT: is for VAULT_AUTH_METHOD=gcp-iam",
        ),
        (
            &[],
            &[ROLE, ("BAO_AZURE_RESOURCE", "api://a")],
            "BAO_AZURE_RESOURCE: is for VAULT_AUTH_METHOD=azure",
        ),
        (
            &[],
            &[ROLE, ("VAULT_AUTH_METHOD", "azure"), ("VAULT_TOKEN", "hvs.x")],
            "VAULT_TOKEN: does not go with VAULT_AUTH_METHOD=azure",
        ),
    ]);
}

#[test]
fn the_identities_of_aws_log_in_at_their_usual_mount_and_have_their_variables() {
    for name in ["aws", "aws-iam", "aws-ec2"] {
        let login = [ROLE, ("VAULT_AUTH_METHOD", name)];
        let Method::Cloud(cloud) = load(&[], &login).unwrap().connections.remove(0).method else {
            panic!("{name} is a login of a cloud")
        };
        assert_eq!((cloud.mount.as_str(), cloud.role.as_str()), ("aws", "reloader"));
        let warnings = load(&[], &login).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(name == "aws-ec2"), "{warnings:?}");
        let without_role = load(&[], &login[1..]).unwrap_err();
        assert!(without_role.starts_with("VAULT_ROLE: not set"), "{without_role}");
    }
    let (iam, ec2) = (("VAULT_AUTH_METHOD", "aws"), ("VAULT_AUTH_METHOD", "aws-ec2"));
    expect_refusals(&[
        (&[], &[ROLE, ec2, ("VAULT_AWS_REGION", "a")], "is for VAULT_AUTH_METHOD=aws-iam"),
        (&[], &[ROLE, ec2, ("BAO_AWS_HEADER_VALUE", "a")], "is for VAULT_AUTH_METHOD=aws-iam"),
        (&[], &[ROLE, ("VAULT_AWS_STS_ENDPOINT", "a")], "is for VAULT_AUTH_METHOD=aws-iam"),
        (&[], &[ROLE, iam, ("VAULT_AWS_NONCE", "a")], "is for VAULT_AUTH_METHOD=aws-ec2"),
        (&[], &[ROLE, iam, ("VAULT_AWS_NONCE_FILE", "/a")], "is for VAULT_AUTH_METHOD=aws-ec2"),
        (&[], &[ROLE, iam, ("VAULT_TOKEN", "hvs.x")], "does not go with VAULT_AUTH_METHOD=aws"),
        (
            &[],
            &[ROLE, ec2, ("VAULT_JWT_FILE", "/a")],
            "VAULT_JWT_FILE: does not go with VAULT_AUTH",
        ),
    ]);
}
