//! Over HTTP/2: streams that are reset at once, and streams that never end.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use h2::client::{self, SendRequest};
use http::Request;
use tokio::net::TcpStream;

use crate::process::Process;

/// Opens a connection. It may be closed by the server at any time.
async fn connect(server: &Process) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn infer() -> Request<()> {
    Request::post("http://digits/v2/models/digits/infer").body(()).unwrap()
}

#[tokio::test]
async fn streams_that_are_reset_at_once_cost_their_connection() {
    let server = Process::start(&[]).await;
    let resets = async |server: &Process| {
        // Whether the server closes the connection.
        let one = async || {
            let mut sender = connect(server).await;
            for _ in 0..40 {
                let mut open = Vec::new();
                for _ in 0..50 {
                    let Ok(ready) = sender.ready().await else { return true };
                    sender = ready;
                    let Ok(stream) = sender.send_request(infer(), false) else { return true };
                    open.push(stream);
                }
                // Requests are taken up in their order: once this one is answered, they all are.
                let live = Request::get("http://digits/v2/health/live").body(()).unwrap();
                let Ok((answer, _)) = sender.send_request(live, true) else { return true };
                if answer.await.is_err() {
                    return true;
                }
                for (_, stream) in &mut open {
                    stream.send_reset(h2::Reason::CANCEL);
                }
            }
            false
        };
        let closed = join_all((0..10).map(|_| one())).await;
        assert!(closed.iter().all(|closed| *closed), "each of them is closed by the server: {closed:?}");
    };
    let server = server.bears(resets).await;
    assert!(server.counted("stoker_server_reset_floods_total").await > 0.0);
}

#[tokio::test]
async fn streams_that_never_end_hold_no_memory_when_their_client_has_gone() {
    let server = Process::start(&[]).await;
    let open = async |server: &Process| {
        let one = async || {
            let mut sender = connect(server).await;
            let mut streams = Vec::new();
            for _ in 0..100 {
                let Ok(ready) = sender.ready().await else { break };
                sender = ready;
                let Ok((answer, mut stream)) = sender.send_request(infer(), false) else { break };
                // Within the window of the stream and beyond that of the connection.
                drop(stream.send_data(Bytes::from(vec![b' '; 32 << 10]), false));
                streams.push((answer, stream));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            streams.len()
        };
        let opened = join_all((0..20).map(|_| one())).await;
        assert!(opened.iter().all(|count| *count > 0), "{opened:?}");
    };
    server.bears(open).await;
}
