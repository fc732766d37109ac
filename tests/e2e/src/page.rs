//! The lines of a page of docs/ that are for a shell, so that tests run what readers copy.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// The page, block by block. `kubectl` in it is about one namespace.
pub struct Page {
    blocks: Vec<String>,
    /// Where the lines run; what they write is there.
    pub folder: tempfile::TempDir,
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Page {
    /// Reads `docs/PAGE` for this namespace.
    pub async fn open(page: &str, namespace: &str) -> Result<Self> {
        let text = std::fs::read_to_string(root().join("docs").join(page))?;
        let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
        let blocks = blocks.map(|(block, _)| block.to_string()).collect();
        let this = Self { blocks, folder: tempfile::tempdir()? };
        this.shell(&format!(
            "kubectl config view --raw >config.new && mv config.new kubeconfig && \
             KUBECONFIG=kubeconfig kubectl config set-context --current --namespace={namespace}"
        ))
        .await?;
        Ok(this)
    }

    /// Runs the block that has this text in it, and returns what it printed.
    pub async fn run(&self, part: &str) -> Result<String> {
        let block = self.blocks.iter().find(|block| block.contains(part));
        let block = block.with_context(|| format!("the page has no block with {part:?}"))?;
        let deploy = root().join("deploy");
        self.shell(&format!("export KUBECONFIG=$PWD/kubeconfig; ln -sfn {} deploy\n{block}", deploy.display())).await
    }

    async fn shell(&self, script: &str) -> Result<String> {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}\n{told}{error}");
        Ok(told)
    }
}
