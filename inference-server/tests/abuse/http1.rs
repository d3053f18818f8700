//! Over HTTP/1.1, byte by byte.

use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Process, request};

const HEAD: &str =
    "POST /v2/models/digits/infer HTTP/1.1\r\nhost: digits\r\ncontent-type: application/json\r\n";

async fn connect(server: &Process) -> TcpStream {
    let stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What the server says until it closes, of at most 64 KiB. It may reset what it does not want to read.
async fn told(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while text.len() < 64 << 10 {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(length) => text.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The status of the first answer.
fn status(text: &str) -> &str {
    text.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn bodies_that_come_a_byte_at_a_time_are_given_up() {
    let server = Process::start(&["--request-timeout", "500ms"]).await;
    let slow = async |server: &Process| {
        let one = async || {
            let mut stream = connect(server).await;
            stream.write_all(format!("{HEAD}content-length: 1000000\r\n\r\n").as_bytes()).await.unwrap();
            for _ in 0..20 {
                // It is closed in the meantime.
                if stream.write_all(b" ").await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            told(stream).await
        };
        let said = join_all((0..200).map(|_| one())).await;
        // A reset may overtake the answer; it must not overtake all.
        assert!(said.iter().any(|text| status(text) == "408"), "{:?}", said[0]);
        assert!(said.iter().all(|text| text.is_empty() || status(text) == "408"), "{said:?}");
    };
    server.bears(slow).await;
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_a_head_hold_nothing() {
    let server = Process::start(&[]).await;
    let silent = async |server: &Process| {
        let mut streams = join_all((0..300).map(|_| connect(server))).await;
        for stream in streams.iter_mut().step_by(2) {
            stream.write_all(&HEAD.as_bytes()[..60]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(streams);
    };
    server.bears(silent).await;
}

#[tokio::test]
async fn a_body_in_chunks_of_six_bytes_is_read_and_takes_no_more_than_its_bytes() {
    let server = Process::start(&[]).await;
    let chunked = async |server: &Process| {
        let one = async || {
            let mut stream = connect(server).await;
            // Blanks before the JSON make the body longer and change nothing.
            let body = " ".repeat(60_000) + &request();
            let mut text =
                format!("{HEAD}transfer-encoding: chunked\r\nconnection: close\r\n\r\n").into_bytes();
            for piece in body.as_bytes().chunks(6) {
                text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            stream.write_all(&text).await.unwrap();
            told(stream).await
        };
        let said = join_all((0..50).map(|_| one())).await;
        assert!(said.iter().all(|text| status(text) == "200"), "{said:?}");
    };
    server.bears(chunked).await;
}

#[tokio::test]
async fn an_endless_body_in_chunks_of_six_bytes_ends_at_the_bound() {
    let server = Process::start(&["--max-body", "64Ki"]).await;
    let endless = async |server: &Process| {
        let one = async || {
            let stream = connect(server).await;
            let (mut reader, mut writer) = stream.into_split();
            let writing = tokio::spawn(async move {
                let head = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
                let many = "6\r\n      \r\n".repeat(1000);
                if writer.write_all(head.as_bytes()).await.is_ok() {
                    for _ in 0..20 {
                        if writer.write_all(many.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                }
            });
            let mut first = [0; 12];
            let read = reader.read_exact(&mut first).await;
            writing.abort();
            read.map(|_| String::from_utf8_lossy(&first).into_owned()).unwrap_or_default()
        };
        let said = join_all((0..20).map(|_| one())).await;
        assert!(said.iter().any(|text| text == "HTTP/1.1 413"), "{said:?}");
    };
    server.bears(endless).await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let server = Process::start(&[]).await;
    let flood = async |server: &Process| {
        let one = async |field: &'static str, count: usize| {
            let mut stream = connect(server).await;
            let text = HEAD.to_owned() + &field.repeat(count);
            // The refusal may come before all is sent.
            drop(stream.write_all(text.as_bytes()).await);
            told(stream).await
        };
        let long: &str = Box::leak(format!("x: {}\r\n", "y".repeat(4000)).into_boxed_str());
        let many = join_all((0..50).map(|_| one("a: b\r\n", 20_000))).await;
        let large = join_all((0..50).map(|_| one(long, 200))).await;
        for text in many.iter().chain(&large) {
            assert!(text.is_empty() || status(text) == "431", "{text}");
        }
        assert!(many.iter().chain(&large).any(|text| status(text) == "431"));
    };
    server.bears(flood).await;
}

#[tokio::test]
async fn clients_that_read_no_answers_do_not_fill_the_server() {
    let server = Process::start(&[]).await;
    let deaf = async |server: &Process| {
        let body = request();
        let one = format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len());
        let many = one.repeat(500);
        let mut streams = join_all((0..40).map(|_| connect(server))).await;
        let sent = streams.iter_mut().map(async |stream| {
            // The server stops reading when its answers find no room.
            drop(tokio::time::timeout(Duration::from_millis(700), stream.write_all(many.as_bytes())).await);
        });
        join_all(sent).await;
        drop(streams);
    };
    server.bears(deaf).await;
}
