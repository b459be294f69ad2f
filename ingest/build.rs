//! Generates the gRPC server. The messages come from `fieldproof-proto`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/fieldproof");
    let descriptors = protox::compile(["fieldproof/v1/ingest.proto"], ["../proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .extern_path(".fieldproof.v1", "::fieldproof_proto::v1")
        .codec_path("crate::codec::IngestCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
