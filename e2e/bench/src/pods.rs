//! Pods that answer at once, or after the time that a model of their speed would take.
//!
//! For benchmarks of routers. They live in the thread of the load generator: in a process of their own they would take
//! turns with it on its core, and the scheduler's time slices would be what is measured.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::arrivals::{Poisson, Random};

/// What every pod answers: the size and shape of a real answer for the digits model.
const ANSWER: &str = r#"{"model_name":"digits","model_version":"1","outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[7]},{"name":"probabilities","shape":[1,10],"datatype":"FP32","data":[0.00012,0.00034,0.00101,0.00057,0.00211,0.00017,0.00003,0.99431,0.00045,0.00089]}]}"#;
/// What a pod answers that fails.
const FAILURE: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 23\r\n\r\n{\"error\":\"it is broken\"}";
/// Longest head of a request.
const LONGEST_HEAD: usize = 16 << 10;

/// A pod: `address:port`, or `address:port=4ms` for one that works on one request after the other and takes an
/// exponential time of that mean for each.
#[derive(Clone, Debug)]
pub struct Pod {
    address: String,
    mean: Option<Duration>,
}

impl FromStr for Pod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((address, mean)) = text.split_once('=') else {
            return Ok(Self { address: text.to_owned(), mean: None });
        };
        let mean = humantime::parse_duration(mean).map_err(|error| format!("{text}: {error}"))?;
        Ok(Self { address: address.to_owned(), mean: Some(mean) })
    }
}

/// What part of a pod's answers is bad, and in what way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mood {
    /// The share of bad answers, 0 to 1.
    pub bad: f64,
    /// A bad answer is a good one that comes so late; none: it is a failure, at once.
    pub slow: Option<Duration>,
}

/// Serves at `address` until the runtime ends, in a mood that may change meanwhile.
pub async fn serve_in_mood(address: SocketAddr, mood: Rc<Cell<Mood>>, seed: u64) -> anyhow::Result<()> {
    let random = RefCell::new(Random(seed));
    let next = move || {
        let Mood { bad, slow } = mood.get();
        match (random.borrow_mut().uniform() < bad, slow) {
            (false, _) => Reply::Good,
            (true, None) => Reply::Bad,
            (true, Some(late)) => Reply::Late(Instant::now() + late),
        }
    };
    serve(&address.to_string(), next).await
}

/// How one request is answered.
enum Reply {
    Good,
    Late(Instant),
    Bad,
}

/// Answers all connections to `address`, as `next` says.
async fn serve(address: &str, next: impl Fn() -> Reply + 'static) -> anyhow::Result<()> {
    let bound = TcpListener::bind(address).await;
    let listener = bound.with_context(|| format!("cannot listen on {address}"))?;
    let next: Rc<dyn Fn() -> Reply> = Rc::new(next);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let next = Rc::clone(&next);
            // A connection that breaks is seen by its client.
            tokio::task::spawn_local(async move { drop(answer_all(stream, &*next).await) });
        }
    });
    Ok(())
}

/// The one worker of a pod that takes its time.
struct Worker {
    times: Poisson,
    free_at: Instant,
}

impl Worker {
    /// When a request that came now is done.
    fn done(&mut self) -> Instant {
        self.free_at = self.free_at.max(Instant::now()) + self.times.gap();
        self.free_at
    }
}

impl Pod {
    /// Serves until the runtime ends. Each pod draws other times, and the same ones for the same seed.
    pub async fn serve(&self, seed: u64) -> anyhow::Result<()> {
        let worker = self.mean.map(|mean| Worker {
            times: Poisson::new(mean.as_secs_f64().recip(), seed),
            free_at: Instant::now(),
        });
        let worker = RefCell::new(worker);
        let next = move || worker.borrow_mut().as_mut().map_or(Reply::Good, |busy| Reply::Late(busy.done()));
        serve(&self.address, next).await
    }
}

/// Answers the requests of one connection, one after the other.
async fn answer_all(mut stream: TcpStream, next: &dyn Fn() -> Reply) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let good = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let mut buffer = Vec::with_capacity(LONGEST_HEAD);
    loop {
        let length = loop {
            if let Some(length) = request_length(&buffer)? {
                break length;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        while buffer.len() < length {
            ensure!(stream.read_buf(&mut buffer).await? > 0, "the body broke off");
        }
        buffer.drain(..length);
        let answer = match next() {
            Reply::Good => good.as_str(),
            Reply::Bad => FAILURE,
            Reply::Late(done) => {
                tokio::time::sleep_until(done.into()).await;
                good.as_str()
            }
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Length of the request at the beginning of `bytes`, head and body; `None` when the head is not complete.
fn request_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        ensure!(bytes.len() < LONGEST_HEAD, "the head is too long");
        return Ok(None);
    };
    let mut body = 0;
    for line in bytes[..end].split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            body = std::str::from_utf8(&value[1..])?.trim().parse()?;
        }
        ensure!(!name.eq_ignore_ascii_case(b"transfer-encoding"), "bodies of unknown length are not read");
    }
    Ok(Some(end + 4 + body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_length() {
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET";
        assert_eq!(request_length(request).unwrap(), Some(request.len() - 3));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n\r\n").unwrap(), Some(18));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap(), None);
        assert!(request_length(b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn pods_are_read_with_their_speed() {
        let pod: Pod = "127.0.0.1:80=4ms".parse().unwrap();
        assert_eq!((pod.address.as_str(), pod.mean), ("127.0.0.1:80", Some(Duration::from_millis(4))));
        assert!("127.0.0.1:80".parse::<Pod>().unwrap().mean.is_none());
        assert!("127.0.0.1:80=quick".parse::<Pod>().is_err());
    }
}
