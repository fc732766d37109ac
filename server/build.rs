//! Compiles the wire API in `proto/` to Rust; protox parses it, so no protoc is needed. What the JSON gateway transcodes
//! by, the descriptors, lie next to the generated code.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    // For tests/simulation: who looks for this function by its name finds the one that answers by the seed.
    println!("cargo:rustc-link-arg-tests=-Wl,--export-dynamic-symbol=getrandom");
    let mut files = Vec::new();
    for folder in ["proto/etcd", "proto/keelson"] {
        for entry in std::fs::read_dir(folder)? {
            files.push(PathBuf::from(entry?.path().strip_prefix("proto")?));
        }
    }
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(files)?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let services = tonic_prost_build::configure().codec_path("crate::codec::Codec");
    services.bytes(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
