//! Artifacts as strangers serve them, wrong in every way: the server is never ready, ends with the code and the sentence that
//! the operator shows, and writes nothing; no address that is not allowed sees a connection, and no log a credential.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::process::{ending, run, serve};
use crate::raw::{RawServer, answer, cut, header};
use crate::started::fixture;

/// What no output may hold: it is in the token and in the query of each URL.
const CANARY: &str = "canary-hunter2";
const BAD_CONFIGURATION: i32 = 64;
const BAD_ARTIFACT: i32 = 65;
const UNAVAILABLE: i32 = 69;

/// A digest that nothing has.
fn no_digest() -> String {
    format!("sha256:{}", "0".repeat(64))
}

fn digest_of(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// A folder with a token.
fn credentials() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), CANARY).unwrap();
    folder
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Serves the artifact, and fetches it into a folder: both fail with `code` and a sentence that has all of `parts`. What only a
/// loader finds wrong is fetched whole, and is not what was pinned.
fn fails(uri: &str, more: &[&str], code: i32, parts: &[&str]) {
    let (secret, folder) = (credentials(), tempfile::tempdir().unwrap());
    let place = ["--model-uri", uri, "--credentials", secret.path().to_str().unwrap()];
    let mut limits = vec!["--max-artifact", "1Mi"];
    if !more.contains(&"--fetch-retry-for") {
        limits.extend(["--fetch-retry-for", "1ms"]);
    }
    let arguments = [&place[..], &limits, more].concat();

    let served = serve(&arguments);
    let (actual, message) = ending(&served);
    assert_eq!(actual, code, "{uri}: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(!text(&served).contains("\"message\":\"ready\""), "{uri} was served");
    assert!(!text(&served).contains(CANARY), "{}", text(&served));

    let digest = no_digest();
    let pinned = if more.contains(&"--digest") { vec![] } else { vec!["--digest", digest.as_str()] };
    let to = ["--to", folder.path().to_str().unwrap()];
    let fetched = run(&[&["fetch"][..], &arguments, &pinned, &to].concat());
    let (actual, message) = ending(&fetched);
    assert_eq!(actual, code, "fetch {uri}: {message}");
    let not_pinned = ["has the digest", digest.as_str()];
    let loaded = parts.contains(&"cannot be served");
    for part in if loaded { &not_pinned[..] } else { parts } {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(is_empty(folder.path()), "{uri} left something behind");
    assert!(!text(&fetched).contains(CANARY), "{}", text(&fetched));
}

/// As [`fails`], from a server on this machine, which is allowed.
fn fails_at(server: &RawServer, more: &[&str], code: i32, parts: &[&str]) {
    let uri = format!("{}?sig={CANARY}", server.url("/team/a.onnx"));
    fails(&uri, &[&["--allow-network", "127.0.0.1"], more].concat(), code, parts);
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// Says `status` and repeats the request, token included.
fn echo(status: &'static str) -> RawServer {
    RawServer::new(move |_, head, stream| {
        send(stream, &answer(status, "", head.as_bytes()));
    })
}

#[test]
fn servers_without_the_artifact() {
    fails_at(&echo("404 Not Found"), &[], UNAVAILABLE, &["answered 404", "/team/a.onnx?...", "was uploaded"]);
    fails_at(&echo("410 Gone"), &[], UNAVAILABLE, &["answered 410"]);
    fails_at(&echo("403 Forbidden"), &[], UNAVAILABLE, &["answered 403", "credentials"]);
    fails_at(&echo("204 No Content"), &[], UNAVAILABLE, &["answered 204"]);
    fails_at(&echo("206 Partial Content"), &[], UNAVAILABLE, &["answered 206"]);
    let down = echo("500 Internal Server Error");
    fails_at(&down, &["--fetch-retry-for", "600ms"], UNAVAILABLE, &["answered 500", "overloaded or down"]);
    assert!(down.connections() >= 4, "each of two commands tries again");
    let mute = RawServer::new(|_, _, _| {});
    fails_at(&mute, &[], UNAVAILABLE, &["could not be fetched within 1 tries"]);
    let babble = RawServer::of(b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec());
    fails_at(&babble, &[], UNAVAILABLE, &["could not be fetched"]);
    let flood = RawServer::new(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\n");
        while send(stream, b"X-Flood: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n") {}
    });
    fails_at(&flood, &[], UNAVAILABLE, &["could not be fetched"]);
}

#[test]
fn bytes_that_do_not_end_well() {
    let whole = answer("200 OK", "ETag: \"v1\"\r\n", &[7; 1000]);
    let truncated = RawServer::of(cut(&whole, 500));
    fails_at(&truncated, &[], UNAVAILABLE, &["could not be fetched"]);
    // Again and again the same half: no progress, so an end.
    let half = RawServer::of(cut(&answer("200 OK", "", &[7; 1000]), 500));
    fails_at(&half, &["--fetch-retry-for", "600ms"], UNAVAILABLE, &["could not be fetched within"]);

    let model = std::fs::read(fixture("digits-v2.onnx")).unwrap();
    let other = RawServer::of(answer("200 OK", "", &model));
    fails_at(&other, &["--digest", &no_digest()], BAD_ARTIFACT, &[&digest_of(&model), &no_digest()]);
    // More bytes follow than were announced: they are of nobody's artifact.
    let lie = [answer("200 OK", "", &model[..1000]), model[1000..].to_vec()].concat();
    fails_at(&RawServer::of(lie), &["--digest", &digest_of(&model)], BAD_ARTIFACT, &["has the digest"]);

    let huge = RawServer::of(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\nabc".to_vec());
    fails_at(&huge, &[], BAD_ARTIFACT, &["larger than the limit of 1048576 bytes"]);
    let endless = RawServer::new(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while send(stream, &[7; 10_000]) {}
    });
    fails_at(&endless, &[], BAD_ARTIFACT, &["larger than the limit"]);
    let chunked = RawServer::new(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [&b"1000\r\n"[..], &[7; 0x1000], b"\r\n"].concat();
        while send(stream, &chunk) {}
    });
    fails_at(&chunked, &[], BAD_ARTIFACT, &["larger than the limit"]);
}

fn drip(head: &'static str) -> RawServer {
    RawServer::new(move |_, _, stream| {
        send(stream, head.as_bytes());
        while send(stream, b"a") {
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

#[test]
fn bytes_that_come_too_slowly() {
    let patience = ["--fetch-timeout", "2s", "--fetch-retry-for", "60s"];
    let announced = drip("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    fails_at(
        &announced,
        &patience,
        UNAVAILABLE,
        &["comes too slowly", "of 1000000 bytes", "--fetch-timeout"],
    );
    let unknown = drip("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    fails_at(&unknown, &patience, UNAVAILABLE, &["took longer than 2s"]);
    // A byte to each connection is progress each time, and still comes to an end.
    let sips = RawServer::new(|_, head, stream| {
        let from = header(head, "range").map_or(0, |range| range[6..range.len() - 1].parse().unwrap());
        let rest = vec![7; 1000 - from];
        let range = format!("ETag: \"v1\"\r\nContent-Range: bytes {from}-999/1000\r\n");
        let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
        send(stream, &cut(&answer(status, &range, &rest), 1));
    });
    fails_at(&sips, &patience, UNAVAILABLE, &["could not be fetched within", "--fetch-timeout"]);
    let changing = RawServer::new(|number, _, stream| {
        send(stream, &cut(&answer("200 OK", &format!("ETag: \"v{number}\"\r\n"), &[7; 1000]), 500));
    });
    fails_at(&changing, &["--fetch-retry-for", "600ms"], UNAVAILABLE, &["could not be fetched within"]);
}

#[test]
fn files_of_other_kinds() {
    let tar = [&[b'a'; 257][..], b"ustar\0", &[0; 1000]].concat();
    let cases: [(&[u8], &str); 10] = [
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x93.", "Python pickle"),
        (b"PK\x03\x04\x14\0\0\0", "zip archive"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed file"),
        (&tar, "tar archive"),
        (b"<!DOCTYPE html><html>Please log in</html>", "HTML or XML page"),
        (b"{\"error\": \"expired\"}", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\x10\0\0\0\0\0\0\0{\"__metadata__\":", "safetensors"),
        (b"", "it is empty"),
        (b"plain words", "not a valid ONNX"),
    ];
    for (bytes, part) in cases {
        let server = RawServer::of(answer("200 OK", "Content-Type: application/octet-stream\r\n", bytes));
        let parts =
            if part.starts_with("not a") { vec!["cannot be served"] } else { vec!["cannot be served", part] };
        fails_at(&server, &[], BAD_ARTIFACT, &parts);
    }
}

/// A field of protobuf that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let byte = |number: usize| u8::try_from(number).unwrap();
    let length = if bytes.len() < 128 {
        vec![byte(bytes.len())]
    } else {
        vec![byte(bytes.len() % 128) | 0x80, byte(bytes.len() / 128)]
    };
    [&[number << 3 | 2], &length[..], bytes].concat()
}

/// A field of protobuf that holds a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// A model that adds a weight, which is in the file `location`.
fn outside(location: &str) -> Vec<u8> {
    let shape = field(2, &field(1, &number(1, 1)));
    let kind = field(2, &field(1, &[number(1, 1), shape].concat()));
    let value = |name: &[u8]| [field(1, name), kind.clone()].concat();
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    let weight = [number(1, 1), number(2, 1), field(8, b"weight"), field(13, &entry), number(14, 1)].concat();
    let node = [field(1, b"x"), field(1, b"weight"), field(2, b"y"), field(4, b"Add")].concat();
    let graph = [
        field(1, &node),
        field(2, b"graph"),
        field(5, &weight),
        field(11, &value(b"x")),
        field(12, &value(b"y")),
    ];
    [number(1, 8), field(7, &graph.concat()), field(8, &number(2, 17))].concat()
}

#[test]
fn weights_in_other_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weights.bin"), 1_f32.to_le_bytes()).unwrap();
    for location in ["../weights.bin", "/etc/hostname", "../../../../proc/self/environ", "weights.bin"] {
        let model = outside(location);
        let server = RawServer::of(answer("200 OK", "", &model));
        fails_at(&server, &[], BAD_ARTIFACT, &["cannot be served", "`weight`", "outside of the file"]);
        let file = folder.path().join("a.onnx");
        std::fs::write(&file, &model).unwrap();
        let uri = format!("file://{}", file.display());
        fails(&uri, &[], BAD_ARTIFACT, &["cannot be served", "`weight`", "outside of the file"]);
    }
}

#[test]
fn redirects_to_where_nobody_may_go() {
    let inside = RawServer::at("127.0.0.2:0", |_, _, stream| {
        send(stream, &answer("200 OK", "", b"internal"));
    });
    let port = inside.address.port();
    let cases = [
        (format!("http://127.0.0.2:{port}/a"), "127.0.0.2 is a loopback address"),
        (format!("http://2130706434:{port}/a"), "127.0.0.2 is a loopback address"),
        (format!("http://0x7f.2:{port}/a"), "127.0.0.2 is a loopback address"),
        (format!("//127.0.0.2:{port}/a"), "127.0.0.2 is a loopback address"),
        (format!("http://[::ffff:127.0.0.2]:{port}/a"), "::ffff:127.0.0.2 is a loopback address"),
        (format!("http://[64:ff9b::127.0.0.2]:{port}/a"), "is a loopback address"),
        (
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            "169.254.169.254 is the address of a cloud's metadata",
        ),
        (
            "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
            "fd00:ec2::254 is the address of a cloud's metadata",
        ),
        ("http://10.0.0.1/a".to_owned(), "10.0.0.1 is a private address"),
        ("http://192.168.0.1/a".to_owned(), "192.168.0.1 is a private address"),
        ("http://100.64.0.1/a".to_owned(), "100.64.0.1 is an address of the shared space"),
        ("http://0.0.0.0/a".to_owned(), "0.0.0.0 is the unspecified address"),
        ("http://224.0.0.1/a".to_owned(), "224.0.0.1 is a multicast address"),
    ];
    for (target, part) in cases {
        let redirect = answer("302 Found", &format!("Location: {target}\r\n"), b"");
        fails_at(&RawServer::of(redirect), &[], BAD_CONFIGURATION, &[part, "--allow-network"]);
    }
    assert_eq!(inside.connections(), 0, "somebody went there");

    for (target, part) in [
        ("/team/a.onnx", "redirects too often"),
        ("file:///etc/passwd", "neither http nor https"),
        ("ftp://127.0.0.1/a", "neither http nor https"),
    ] {
        let redirect =
            RawServer::of(answer("301 Moved Permanently", &format!("Location: {target}\r\n"), b""));
        fails_at(&redirect, &[], UNAVAILABLE, &[part]);
    }
    fails_at(&RawServer::of(answer("302 Found", "", b"")), &[], UNAVAILABLE, &["answered 302"]);
}

#[test]
fn addresses_that_were_not_allowed() {
    let server = echo("200 OK");
    let port = server.address.port();
    for host in ["127.0.0.1", "127.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"] {
        fails(
            &format!("http://{host}:{port}/a"),
            &[],
            BAD_CONFIGURATION,
            &["is a loopback address", "--allow-network"],
        );
    }
    // What one network allows is not what another does, and a wide one means no metadata service.
    let uri = format!("http://127.0.0.1:{port}/a");
    fails(&uri, &["--allow-network", "10.0.0.0/8"], BAD_CONFIGURATION, &["loopback"]);
    fails("http://169.254.169.254/a", &["--allow-network", "0.0.0.0/0"], BAD_CONFIGURATION, &["metadata"]);
    assert_eq!(server.connections(), 0);

    // By the environment, as in the operator's pods.
    let resolve = |networks: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_stoker-server"))
            .args(["resolve", "--model-uri", &uri])
            .env("STOKER_ALLOW_NETWORKS", networks)
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    };
    assert_eq!(ending(&resolve("10.0.0.0/8,192.168.0.0/16")).0, BAD_CONFIGURATION);
    assert_eq!(resolve("10.0.0.0/8,127.0.0.0/8").status.code(), Some(0));
}

#[test]
fn a_token_stays_with_its_server() {
    // Another port is another server; and the way back does not bring the token back.
    let home = Arc::new(OnceLock::<String>::new());
    let back = Arc::clone(&home);
    let other = RawServer::new(move |_, _, stream| {
        let location = format!("Location: {}/back\r\n", back.get().unwrap());
        send(stream, &answer("307 Temporary Redirect", &location, b""));
    });
    let there = format!("Location: {}\r\n", other.url("/there"));
    let first = RawServer::new(move |_, head, stream| {
        if head.starts_with("GET /back ") {
            send(stream, &answer("404 Not Found", "", b""));
        } else {
            send(stream, &answer("307 Temporary Redirect", &there, b""));
        }
    });
    home.set(first.url("")).unwrap();
    fails_at(&first, &[], UNAVAILABLE, &["answered 404"]);
    let authorization = |server: &RawServer| -> Vec<Option<String>> {
        server.heads().iter().map(|head| header(head, "authorization")).collect()
    };
    let token = Some(format!("Bearer {CANARY}"));
    // Two commands, each there and back.
    assert_eq!(authorization(&first), [token.clone(), None, token, None]);
    assert_eq!(authorization(&other), [None, None]);
}

#[test]
fn places_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [folder.path(), &pipe, Path::new("/dev/zero"), &folder.path().join("gone")] {
        fails(&format!("file://{}", path.display()), &[], UNAVAILABLE, &["cannot be read"]);
    }
    let large = folder.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    fails(&format!("file://{}", large.display()), &[], BAD_ARTIFACT, &["larger than the limit"]);
}

#[test]
fn a_fetched_artifact_is_there_whole_or_not_at_all() {
    let model = std::fs::read(fixture("digits-v2.onnx")).unwrap();
    let digest = digest_of(&model);
    let server = RawServer::of(answer("200 OK", "", &model));
    let uri = server.url("/team/a.onnx");
    let fixed = ["fetch", "--model-uri", &uri, "--digest", &digest, "--allow-network", "127.0.0.1", "--to"];
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    let fetched = run(&[&fixed[..], &[to]].concat());
    assert_eq!(fetched.status.code(), Some(0), "{}", text(&fetched));
    let path = folder.path().join("a.onnx");
    assert_eq!(text(&fetched).lines().last(), path.to_str());
    assert_eq!(std::fs::read(&path).unwrap(), model);

    // What is there stays when the next one is wrong.
    let wrong = no_digest();
    let fixed = ["fetch", "--model-uri", &uri, "--digest", &wrong, "--allow-network", "127.0.0.1", "--to"];
    let (code, message) = ending(&run(&[&fixed[..], &[to]].concat()));
    assert_eq!(code, BAD_ARTIFACT, "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), model);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    for place in ["/no/such/folder", "/proc", path.to_str().unwrap()] {
        let (code, message) = ending(&run(&[&fixed[..], &[place]].concat()));
        assert_eq!(code, UNAVAILABLE, "{message}");
        assert!(message.contains("cannot be kept at") && message.contains(place), "{message}");
    }
}

/// Files of this process may have 1 KiB: the disk is full in the middle of the artifact.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let model = std::fs::read(fixture("digits-v2.onnx")).unwrap();
    let server = RawServer::of(answer("200 OK", "", &model));
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("bash")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 1; exec \"$@\"",
            "bash",
            env!("CARGO_BIN_EXE_stoker-server"),
            "fetch",
        ])
        .args(["--model-uri", &server.url("/a.onnx"), "--digest", &digest_of(&model)])
        .args(["--allow-network", "127.0.0.1", "--to", folder.path().to_str().unwrap()])
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let (code, message) = ending(&output);
    assert_eq!(code, UNAVAILABLE, "{message}");
    assert!(message.contains("a.onnx: File too large") && message.contains("has room"), "{message}");
    assert!(is_empty(folder.path()));
}
