//! Compiles the wire API in `proto/` to Rust; protox parses it, so no protoc is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = Vec::new();
    for folder in ["proto/etcd", "proto/keelson"] {
        for entry in std::fs::read_dir(folder)? {
            files.push(PathBuf::from(entry?.path().strip_prefix("proto")?));
        }
    }
    files.sort();
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
