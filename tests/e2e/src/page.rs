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

/// The blocks for a shell. Above those that are a script of their own stands its path.
fn blocks(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split("```sh\n").collect();
    let ours = parts.windows(2).filter(|parts| !parts[0].ends_with(" -->\n"));
    ours.filter_map(|parts| parts[1].split_once("```")).map(|(block, _)| block.to_string()).collect()
}

impl Page {
    /// Reads `docs/PAGE` for this namespace.
    pub async fn open(page: &str, namespace: &str) -> Result<Self> {
        let text = std::fs::read_to_string(root().join("docs").join(page))?;
        let this = Self { blocks: blocks(&text), folder: tempfile::tempdir()? };
        let programs = this.folder.path().join("programs");
        std::fs::create_dir(&programs)?;
        // The program that KEELSON_OPERATOR names is a plugin of kubectl, too.
        if let Some(operator) = std::env::var_os("KEELSON_OPERATOR") {
            let operator = std::fs::canonicalize(operator)?;
            for name in ["keelson-operator", "kubectl-keelson"] {
                std::os::unix::fs::symlink(&operator, programs.join(name))?;
            }
        }
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
        let environment = "export KUBECONFIG=$PWD/kubeconfig PATH=$PWD/programs:$PATH";
        self.shell(&format!("{environment}; ln -sfn {} deploy\n{block}", deploy.display())).await
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What is between two marks, again and again.
    fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(begin).skip(1).filter_map(move |rest| Some(rest.split_once(end)?.0))
    }

    /// Blocks that a scenario names in the text behind `Page::open`, as `Page::run` finds them, by their number.
    fn named(scenario: &str, page: &str, blocks: &[String]) -> Vec<usize> {
        let opened = scenario.split("Page::open(\"").skip(1);
        let mine = opened.filter(|text| text.split_once('"').is_some_and(|(name, _)| name == page));
        let parts = mine.flat_map(|text| between(text, ".run(\"", "\")"));
        let found = parts.map(|part| {
            let part = part.replace("\\\"", "\"");
            let found = blocks.iter().position(|block| block.contains(&part));
            found.unwrap_or_else(|| panic!("docs/{page} has no block with {part:?}"))
        });
        found.collect()
    }

    /// A block that no test runs is wrong one day. Those of docs/http.md are run by server/tests/member/gateway.rs.
    #[test]
    fn every_block_for_a_shell_is_run_once() {
        let folder = root().join("tests/e2e/tests/e2e");
        let scenarios = std::fs::read_dir(folder).unwrap();
        let scenarios: Vec<String> =
            scenarios.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
        let pages = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let pages: BTreeMap<String, Vec<String>> = pages
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, blocks(&std::fs::read_to_string(&path).unwrap()))
            })
            .filter(|(name, blocks)| name != "http.md" && !blocks.is_empty())
            .collect();
        assert!(pages.len() >= 6, "{:?}", pages.keys());
        for (page, blocks) in pages {
            let run: Vec<usize> = scenarios.iter().flat_map(|scenario| named(scenario, &page, &blocks)).collect();
            for (number, block) in blocks.iter().enumerate() {
                let times = run.iter().filter(|it| **it == number).count();
                assert_eq!(times, 1, "how often scenarios run this block of docs/{page}:\n{block}");
            }
        }
    }
}
