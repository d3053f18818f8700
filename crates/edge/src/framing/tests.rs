use proptest::prelude::*;

use super::*;

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\n";

/// Reads bytes in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> (Framing, Result<(), Wrong>) {
    let mut framing = Framing::new(1000);
    let result = bytes.chunks(step).try_for_each(|piece| framing.read(piece));
    (framing, result)
}

fn fault(fields: &str) -> Option<Fault> {
    let text = format!("{POST}{fields}\r\n");
    let whole = read(text.as_bytes(), usize::MAX).1;
    assert_eq!(whole, read(text.as_bytes(), 1).1, "{text:?}: pieces make a difference");
    match whole {
        Err(Wrong::Head { after: 0, fault }) => Some(fault),
        Err(other) => panic!("{other:?}"),
        Ok(()) => None,
    }
}

#[test]
fn heads_that_can_be_read_in_two_ways_are_wrong() {
    for (fields, wanted) in [
        ("content-length: 2\r\ntransfer-encoding: chunked\r\n", Fault::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nCONTENT-LENGTH: 2\r\n", Fault::LengthAndCoding),
        ("content-length: 2\r\ncontent-length: 2\r\n", Fault::Length),
        ("content-length: 2\r\ncontent-length: 3\r\n", Fault::Length),
        ("content-length: 2, 2\r\n", Fault::Length),
        ("content-length: +2\r\n", Fault::Length),
        ("content-length: 0x2\r\n", Fault::Length),
        ("content-length:\r\n", Fault::Length),
        ("content-length: 18446744073709551616\r\n", Fault::Length),
        ("transfer-encoding: gzip, chunked\r\n", Fault::Coding),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Fault::Coding),
        ("transfer-encoding: identity\r\n", Fault::Coding),
        ("transfer-encoding: \x0bchunked\r\n", Fault::Coding),
        ("transfer-encoding: \"chunked\"\r\n", Fault::Coding),
        ("x: 1\ny: 2\r\n", Fault::BareLineFeed),
        ("x: 1\r\n\n", Fault::BareLineFeed),
        ("Host: b\r\n", Fault::Host),
        ("upgrade: h2c\r\n", Fault::Upgrade),
        ("upgrade: h2c\r\nconnection: close, upgraded\r\n", Fault::Upgrade),
    ] {
        assert_eq!(fault(fields), Some(wanted), "{fields:?}");
    }
}

#[test]
fn usual_heads_are_fine() {
    for fields in [
        "",
        "content-length: 0\r\n",
        "Content-Length:\t7 \r\n",
        "transfer-encoding: Chunked\r\n",
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n",
        "upgrade: websocket\r\nconnection: upgrade\r\n",
        "content-lengths: 1\r\ncontent-length: 1\r\nx-content-length: 2\r\n",
        "hosts: b\r\n",
    ] {
        assert_eq!(fault(fields), None, "{fields:?}");
    }
    let (framing, result) =
        read(b"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 3);
    assert_eq!((framing.heads, result), (2, Ok(())));
    assert!(read(b"\r\n\r\nGET / HTTP/1.1\r\n", 3).1.is_err());
}

#[test]
fn bodies_are_no_heads_and_heads_after_them_are() {
    let smuggled = "GET /x HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n";
    let bad = format!("{POST}upgrade: x\r\n\r\n");
    for body in [
        format!("content-length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!(
            "transfer-encoding: chunked\r\n\r\n{:x};a=\"b\"\r\n{smuggled}\r\n0\r\nt: 1\r\n\r\n",
            smuggled.len()
        ),
    ] {
        for step in [1, 7, usize::MAX] {
            let (framing, result) = read(format!("{POST}{body}").as_bytes(), step);
            assert_eq!((framing.heads, framing.at, result), (1, At::Start, Ok(())), "{body:?}");
            let result = read(format!("{POST}{body}{bad}").as_bytes(), step).1;
            assert_eq!(result, Err(Wrong::Head { after: 1, fault: Fault::Upgrade }), "{body:?}");
        }
    }
}

#[test]
fn a_wrong_chunk_ends_the_body_where_it_begins() {
    for chunk in [
        "+2\r\n",
        "-2\r\n",
        "0x2\r\n",
        " 2\r\n",
        "2 \r\n",
        "\r\n",
        ";a\r\n",
        "2\n",
        "10000000000000000\r\n",
        "2\r\nabc\r\n",
    ] {
        let head = format!("{POST}transfer-encoding: chunked\r\n\r\n1\r\na\r\n");
        let result = read(format!("{head}{chunk}").as_bytes(), usize::MAX).1;
        let Err(Wrong::Body { good }) = result else { panic!("{chunk:?}: {result:?}") };
        assert!(good >= head.len(), "{chunk:?}: {good}");
    }
}

#[test]
fn a_line_without_end_is_kept_within_the_limit() {
    let mut framing = Framing::new(100);
    assert_eq!(framing.read(&[b'a'; 100]), Ok(()));
    let result = framing.read(b"a");
    assert_eq!(result, Err(Wrong::Head { after: 0, fault: Fault::LongLine }));
    assert_eq!(framing.line.capacity(), 0);
}

proptest! {
    /// However the bytes are cut, the same is found.
    #[test]
    fn pieces_make_no_difference(text in "(GET / HTTP/1\\.1\r\n|content-length: [0-3]\r\n|transfer-encoding: chunked\r\n|x: y\r?\n|\r\n|[0-3]\r\n|ab|host: a\r\n){0,12}", step in 1_usize..9) {
        let (whole, first) = read(text.as_bytes(), usize::MAX);
        let (pieces, second) = read(text.as_bytes(), step);
        prop_assert_eq!(whole.at, pieces.at);
        prop_assert_eq!(whole.heads, pieces.heads);
        prop_assert_eq!(first.is_ok(), second.is_ok());
        if let Err(Wrong::Head { .. }) = first {
            prop_assert_eq!(first, second);
        }
    }
}
