//! Makes the messages and the services of gRPC from `proto`, by protox: no compiler of protobuf must be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["open_inference.proto", "health.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // The client is for tests.
        .build_client(true)
        .build_transport(false)
        // Raw tensors stay where they were received.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        // A stream outlives the call that began it, and holds what it needs.
        .use_arc_self(true)
        .codec_path("crate::proto::Codec")
        .compile_fds(files)?;
    Ok(())
}
