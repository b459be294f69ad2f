//! Generates the gRPC client. The messages come from `fieldproof-proto`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto/fieldproof");
    let descriptors = protox::compile(["fieldproof/v1/ingest.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .extern_path(".fieldproof.v1", "::fieldproof_proto::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
