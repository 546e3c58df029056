//! TLS: the CAs that verify the server, and the client certificate. Both are read again at run
//! time, because certificates are replaced.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::credentials::files::read_at_most;

/// The longest file, in bytes. The CAs of a system take a quarter of a megabyte.
const LONGEST_FILE: usize = 4 << 20;

/// The most bytes of all files of a folder together.
const LONGEST_FOLDER: usize = 16 << 20;

/// How the server's certificate is checked, and which client certificate is sent.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The CAs that verify the server.
    pub authority: Authority,
    /// The client certificate, if the server asks for one.
    pub identity: Option<Identity>,
    /// The name that the server's certificate must contain, if it is not the host of the address.
    pub server_name: Option<String>,
    /// Whether every certificate of the server is accepted.
    pub skip_verify: bool,
}

/// The source of the CA certificates, in PEM.
#[derive(Clone, Default)]
pub enum Authority {
    /// The CAs of the system.
    #[default]
    System,
    /// Certificates as bytes.
    Bytes(Vec<u8>),
    /// A file.
    File(PathBuf),
    /// All files of a folder.
    Folder(PathBuf),
    /// Certificates that another task keeps up to date.
    Followed(watch::Receiver<Vec<u8>>),
}

/// The files of the client certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The client certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// The present content of the files, in PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// The CA certificates; `None` means those of the system.
    pub ca: Option<Vec<u8>>,
    /// The client certificate, followed by its key.
    pub identity: Option<Vec<u8>>,
}

/// A file or folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {} cannot be read: {message}", .path.display())]
pub struct TlsFileError {
    /// The variable that names the file or folder.
    pub variable: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The error.
    pub message: std::io::Error,
}

impl Authority {
    /// The variable that sets the CA certificates.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        match self {
            Self::System => "SSL_CERT_FILE",
            Self::Bytes(_) => "VAULT_CACERT_BYTES",
            Self::File(_) => "VAULT_CACERT",
            Self::Folder(_) => "VAULT_CAPATH",
            Self::Followed(_) => "VAULT_TLS_SECRET",
        }
    }
}

impl Tls {
    /// Reads the present content of the files, and blocks while it reads: see [`crate::credentials::files`].
    pub fn read(&self) -> Result<Material, TlsFileError> {
        let variable = self.authority.variable();
        let ca = match &self.authority {
            Authority::System => None,
            Authority::Bytes(bytes) => Some(bytes.clone()),
            Authority::File(file) => Some(read(variable, file)?),
            Authority::Folder(folder) => Some(read_folder(variable, folder)?),
            Authority::Followed(followed) => Some(followed.borrow().clone()),
        };
        let identity = self.identity.as_ref().map(|Identity { certificate, key }| {
            let mut pem = read("VAULT_CLIENT_CERT", certificate)?;
            pem.push(b'\n');
            pem.extend(read("VAULT_CLIENT_KEY", key)?);
            Ok(pem)
        });
        Ok(Material { ca, identity: identity.transpose()? })
    }
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, TlsFileError> {
    let unreadable = |message| TlsFileError { variable, path: path.to_owned(), message };
    // Reading a pipe may never end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(std::io::Error::other("it is no file")));
    }
    read_at_most(path, LONGEST_FILE).map_err(unreadable)
}

/// Reads all files of a folder into one. In a Kubernetes volume, the files are links.
fn read_folder(variable: &'static str, folder: &Path) -> Result<Vec<u8>, TlsFileError> {
    let unreadable = |message| TlsFileError { variable, path: folder.to_owned(), message };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
    }
    // The result must not depend on the order in which the folder is listed.
    files.sort_unstable();
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        all.extend(read(variable, file)?);
        all.push(b'\n');
        if all.len() > LONGEST_FOLDER {
            let limit = LONGEST_FOLDER >> 10;
            let problem = format!("its files together are longer than {limit} KiB");
            return Err(unreadable(std::io::Error::other(problem)));
        }
    }
    Ok(all)
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File(file) => write!(f, "File({})", file.display()),
            Self::Folder(folder) => write!(f, "Folder({})", folder.display()),
            Self::Followed(_) => f.write_str("Followed"),
        }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("ca", &self.ca.as_ref().map(Vec::len))
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_key() {
        let identity = Some(b"PRIVATE".to_vec());
        let shown = format!("{:?}", Material { identity, ca: None });
        assert!(!shown.contains("PRIVATE") && !shown.contains("80, 82, 73"), "{shown}");
    }
}
