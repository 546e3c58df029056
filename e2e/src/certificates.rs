//! The keys and certificates of a bed. They are made before any server starts, so that all servers
//! can start at once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// The file of the public key that verifies tokens of `ServiceAccounts`, in the bed's folder.
pub(crate) const ACCOUNT_PUBLIC_KEY: &str = "account.pub";

/// Files in the bed's folder.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    /// The certificate authority, as PEM.
    pub(crate) ca: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) server_certificate: PathBuf,
    pub(crate) server_key: PathBuf,
    /// Signs the tokens of `ServiceAccounts`.
    pub(crate) account_key: PathBuf,
    pub(crate) account_public_key: PathBuf,
}

impl Certificates {
    /// Makes the keys and certificates, and writes them into the folder.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let mut these = Self {
            ca: String::new(),
            ca_file: file("ca.crt"),
            server_certificate: file("apiserver.crt"),
            server_key: file("apiserver.key"),
            account_key: file("account.key"),
            account_public_key: file(ACCOUNT_PUBLIC_KEY),
        };
        these.make().context("cannot make the bed's certificates")?;
        Ok(these)
    }

    fn make(&mut self) -> Result<()> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "bed-ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
        let mut server = CertificateParams::new(names.map(str::to_owned))?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let server_key = KeyPair::generate()?;
        let server = server.signed_by(&server_key, &authority)?;

        let account_key = KeyPair::generate()?;
        self.ca = authority.pem();
        for (path, content) in [
            (&self.ca_file, self.ca.clone()),
            (&self.server_certificate, server.pem()),
            (&self.server_key, server_key.serialize_pem()),
            (&self.account_key, account_key.serialize_pem()),
            (&self.account_public_key, account_key.public_key_pem()),
        ] {
            std::fs::write(path, content)?;
        }
        Ok(())
    }
}
