//! The commands of the documentation, run on a bed as a reader runs them: page by page, from top to
//! bottom, in the shell.
//!
//! Invariant: [`Walk::finish`] succeeds only if each block of commands ran, or is in the
//! list `NOT_RUN`.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::timeout;

use crate::bed::Bed;
use crate::binaries::{controller, workspace};

/// The longest block. The longest one waits for a rotation.
const BLOCK_WITHIN: Duration = Duration::from_mins(2);

const NO_DOCKER: &str = "the bed has no container engine";
const NO_RELEASE: &str = "needs a published release, and its signatures";
const NO_LOGS: &str = "the bed runs the controller as a process; the scenario reads its log";
const NO_CLOUD: &str = "needs an account in the cloud, and its auth method";
const RUNS_TESTS: &str = "runs the tests themselves";

/// The blocks that do not run: the page, the start of the first line, the reason.
const NOT_RUN: [(&str, &str, &str); 25] = [
    ("CONTRIBUTING.md", "deploy/charts/check.sh", "`make lint` runs it"),
    ("README.md", "docker build", NO_DOCKER),
    ("README.md", "kubectl --namespace vault-system logs", NO_LOGS),
    ("deploy/examples/README.md", "docker build", NO_DOCKER),
    ("docs/compatibility.md", "make servers", RUNS_TESTS),
    ("docs/install.md", "docker build", NO_DOCKER),
    ("docs/operations.md", "kubectl --namespace vault-system logs", NO_LOGS),
    ("docs/login-aws.md", "vault auth enable aws", NO_CLOUD),
    ("docs/login-aws.md", "vault write auth/aws/config/client", NO_CLOUD),
    ("docs/login-aws.md", "vault write auth/aws/role/reloader auth_type=ec2", NO_CLOUD),
    ("docs/login-azure.md", "az identity create", NO_CLOUD),
    ("docs/login-azure.md", "vault auth enable azure", NO_CLOUD),
    ("docs/login-azure.md", "bao auth enable jwt", NO_CLOUD),
    ("docs/login-gcp.md", "gcloud services enable", NO_CLOUD),
    ("docs/login-gcp.md", "vault auth enable gcp", NO_CLOUD),
    ("docs/login-gcp.md", "vault write auth/gcp/role/reloader type=iam", NO_CLOUD),
    ("docs/login-gcp.md", "vault write auth/gcp/role/reloader type=gce", NO_CLOUD),
    ("docs/login-gcp.md", "bao auth enable jwt", NO_CLOUD),
    (
        "docs/operations.md",
        "promtool",
        "`make lint` and the scenario `alerts` run it if it is there",
    ),
    ("docs/releases.md", "cosign verify ", NO_RELEASE),
    ("docs/releases.md", "cosign verify-blob", NO_RELEASE),
    ("docs/releases.md", "gh attestation", NO_RELEASE),
    ("docs/releases.md", "helm upgrade --install vault-secrets-reloader oci://", NO_RELEASE),
    ("docs/status.md", "kubectl --namespace vault-system port-forward", "does not end by itself"),
    ("docs/try-it.md", "make demo", RUNS_TESTS),
];

/// A block of a page.
#[derive(Debug, Clone)]
struct Block {
    language: String,
    /// The lines, without the indentation of the block.
    text: String,
}

impl Block {
    /// Whether an entry of [`NOT_RUN`] with this start is this block.
    fn is(&self, start: &str) -> bool {
        self.text.starts_with(start)
    }
}

/// A reader who runs the commands of the pages.
#[derive(Debug)]
pub struct Walk<'a> {
    bed: &'a Bed,
    folder: PathBuf,
    env: BTreeMap<String, OsString>,
    /// All blocks of each page.
    blocks: BTreeMap<String, Vec<Block>>,
    /// The commands of each page that have not run yet.
    left: BTreeMap<String, VecDeque<String>>,
    /// The commands that ran, as they are on the pages.
    ran: Vec<String>,
}

impl<'a> Walk<'a> {
    /// Begins a walk: reads the pages, and makes a folder with what a clone of the repository and the
    /// `PATH` of a reader hold. The reader is the administrator of the bed's cluster and Vault.
    ///
    /// # Errors
    /// When a page or a program is missing, or an entry of `NOT_RUN` is no block of its page.
    pub fn begin(bed: &'a Bed) -> Result<Self> {
        let folder = bed.folder().join("walk");
        let programs = folder.join("bin");
        fs::create_dir_all(&programs)?;
        symlink(workspace().join("deploy"), folder.join("deploy"))?;
        for (name, program) in [
            ("helm", bed.binaries().path("helm")),
            ("kubectl", bed.binaries().path("kubectl")),
            // The client is in the server's program. Both servers take the same commands.
            ("vault", bed.binaries().vault()),
            ("vault-secrets-reloader", controller()?),
        ] {
            symlink(fs::canonicalize(program)?, programs.join(name))?;
        }
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display());
        let env: BTreeMap<String, OsString> = BTreeMap::from([
            ("PATH".to_owned(), path.into()),
            ("HOME".to_owned(), folder.clone().into()),
            ("KUBECONFIG".to_owned(), bed.cluster.kubeconfig().into()),
            ("VAULT_ADDR".to_owned(), bed.vault.address().into()),
            ("VAULT_TOKEN".to_owned(), bed.vault.root_token().into()),
        ]);
        let blocks = pages()?;
        let left = commands(&blocks)?;
        Ok(Self { bed, folder, env, blocks, left, ran: Vec::new() })
    }

    /// The folder that the commands run in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file that a command names.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Returns the block of a page that has this language and contains this text.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn block(&self, page: &str, language: &str, contains: &str) -> Result<&str> {
        let blocks = self.blocks.get(page).with_context(|| format!("no page {page}"))?;
        let mut found = blocks
            .iter()
            .filter(|block| block.language == language && block.text.contains(contains));
        match (found.next(), found.next()) {
            (Some(block), None) => Ok(&block.text),
            (None, _) => bail!("{page} has no block of {language} with {contains:?}"),
            (Some(_), Some(_)) => {
                bail!("{page} has several blocks of {language} with {contains:?}")
            }
        }
    }

    /// Returns the values of the chart that the pages show, each with its page.
    #[must_use]
    pub fn chart_values(&self) -> Vec<(&str, &str)> {
        let others = ["apiVersion:", "rules:", "servers:", "spec:"];
        let is_of_another = |line: &str| others.iter().any(|key| line.starts_with(key));
        let mut found = Vec::new();
        for (page, blocks) in &self.blocks {
            for block in blocks {
                if block.language == "yaml" && !block.text.lines().any(is_of_another) {
                    found.push((page.as_str(), block.text.as_str()));
                }
            }
        }
        found
    }

    /// Runs the next commands of a page, and returns what they print. `replaced` are the texts that a
    /// reader has to replace, or that the bed has elsewhere, each with the text in its place.
    ///
    /// # Errors
    /// When the page has no more commands, a text to be replaced is not in them, or one of them fails.
    pub async fn next(&mut self, page: &str, replaced: &[(&str, &str)]) -> Result<String> {
        self.next_with(page, replaced, &[]).await
    }

    /// As [`Self::next`], with variables in place of those of the walk.
    pub async fn next_with(
        &mut self,
        page: &str,
        replaced: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Result<String> {
        let written = self.take(page)?;
        let mut script = written.clone();
        for &(old, new) in replaced {
            ensure!(script.contains(old), "{page}: {old:?} is not in\n{script}");
            script = script.replace(old, new);
        }
        self.ran.push(written);
        self.run(&script, env).await.with_context(|| format!("{page}:\n{script}"))
    }

    /// Notes that the next commands of a page are those of another page, which ran before.
    ///
    /// # Errors
    /// When no commands like these ran.
    pub fn next_ran_before(&mut self, page: &str) -> Result<()> {
        let written = self.take(page)?;
        ensure!(self.ran.contains(&written), "{page}: these did not run before:\n{written}");
        Ok(())
    }

    fn take(&mut self, page: &str) -> Result<String> {
        let left = self.left.get_mut(page).with_context(|| format!("{page} has no commands"))?;
        left.pop_front().with_context(|| format!("{page} has no more commands"))
    }

    /// Runs commands that are no block of a page.
    ///
    /// # Errors
    /// When one of them fails, or they take too long: with what they print.
    pub async fn run(&self, script: &str, env: &[(&str, &str)]) -> Result<String> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-eu", "-c", script])
            .current_dir(&self.folder)
            .env_clear()
            .envs(&self.env)
            .envs(env.iter().copied())
            .stdin(Stdio::null());
        self.bed.group().join(&mut command);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output =
            timeout(BLOCK_WITHIN, output).await.context("the commands do not end")???;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{}; {}; {}", output.status, printed.trim(), errors.trim());
        }
        Ok(printed)
    }

    /// Ends the walk.
    ///
    /// # Errors
    /// When there are commands that did not run.
    pub fn finish(self) -> Result<()> {
        let left: Vec<_> = self.left.iter().filter(|(_, left)| !left.is_empty()).collect();
        ensure!(
            left.is_empty(),
            "did not run, and are not in NOT_RUN of e2e/src/walk.rs: {left:#?}"
        );
        Ok(())
    }
}

/// Reads the blocks of all pages, by the paths of the pages from the root.
fn pages() -> Result<BTreeMap<String, Vec<Block>>> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![(workspace().to_owned(), false)];
    folders.extend(["docs", "deploy"].map(|folder| (workspace().join(folder), true)));
    while let Some((folder, is_deep)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.extend(is_deep.then_some((path, true)));
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(workspace())?.display().to_string();
                pages.insert(name, blocks(&fs::read_to_string(&path)?));
            }
        }
    }
    Ok(pages)
}

/// Returns the blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for line in page.lines() {
        let content = line.trim_start();
        match (content.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                let block = Block { language: language.to_owned(), text: String::new() };
                open = Some((line.len() - content.len(), block));
            }
            (Some(_), Some((_, block))) => blocks.push(block),
            (None, Some((indent, mut block))) => {
                block.text.push_str(line.get(indent..).unwrap_or_default());
                block.text.push('\n');
                open = Some((indent, block));
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Returns the commands of each page that are to run, in order.
fn commands(blocks: &BTreeMap<String, Vec<Block>>) -> Result<BTreeMap<String, VecDeque<String>>> {
    for (page, start, reason) in NOT_RUN {
        let blocks = blocks.get(page).with_context(|| format!("NOT_RUN: no page {page}"))?;
        let count = blocks.iter().filter(|block| block.is(start)).count();
        ensure!(count == 1, "NOT_RUN: {count} blocks of {page} begin with {start:?} ({reason})");
    }
    let is_left_out = |page: &str, block: &Block| {
        NOT_RUN.iter().any(|(of, start, _)| *of == page && block.is(start))
    };
    let mut commands = BTreeMap::new();
    for (page, blocks) in blocks {
        let scripts = blocks.iter().filter(|it| it.language == "sh" && !is_left_out(page, it));
        let scripts: VecDeque<String> = scripts.map(|block| block.text.clone()).collect();
        if !scripts.is_empty() {
            commands.insert(page.clone(), scripts);
        }
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lose_the_indentation_of_their_list() {
        let page = "1. Do:\n\n   ```sh\n   a \\\n     b\n   ```\n\n```yaml\nc: d\n```\n";
        let found = blocks(page);
        let found: Vec<_> =
            found.iter().map(|it| (it.language.as_str(), it.text.as_str())).collect();
        assert_eq!(found, [("sh", "a \\\n  b\n"), ("yaml", "c: d\n")]);
    }

    #[test]
    fn each_reason_for_not_running_is_of_a_block() -> Result<()> {
        let pages = pages()?;
        let commands = commands(&pages)?;
        assert!(commands.len() > 10, "{:?}", commands.keys());
        Ok(())
    }
}
