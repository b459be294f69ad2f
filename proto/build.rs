//! Compiles the .proto files with protox, so that no protoc is needed. Messages only: the gRPC
//! stubs are async and live in the crates that serve and call.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=fieldproof");
    let descriptors = protox::compile(["fieldproof/v1/ingest.proto"], ["."])?;
    let directory = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(directory.join("descriptors.bin"), descriptors.encode_to_vec())?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
