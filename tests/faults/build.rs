//! Compiles etcd's API.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../server/proto/etcd");
    let descriptors = protox::compile(["etcd/rpc.proto"], ["../../server/proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
