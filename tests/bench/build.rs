//! Compiles the messages of etcd's API; what carries them is `src/wire`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../server/proto/etcd");
    let descriptors = protox::compile(["etcd/rpc.proto"], ["../../server/proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
