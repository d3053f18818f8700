//! The end of a connection, so that the peer sees it.
//!
//! A socket that is closed with bytes in it that nobody read is reset, and a reset may overtake what was sent before: a client
//! that was about to begin a stream fails with "broken pipe" where the goodbye would have told it to begin elsewhere. So
//! whoever closes first says that it is done, and reads what still comes until the peer closes too (RFC 9112, 9.6).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::oneshot;

/// How long the peer has to close its end. Enough for what was under way; the peer is told nothing more.
pub const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read at a time, to be thrown away.
const PIECE: usize = 4 << 10;

/// A stream that is lent to a server which does not give it back, such as hyper's for HTTP/2: when it is dropped, its
/// [`Owner`] has it again.
#[derive(Debug)]
pub struct Lent<T> {
    // Taken at the drop alone.
    stream: Option<T>,
    back: Option<oneshot::Sender<T>>,
}

/// Gets a stream back that was lent.
#[derive(Debug)]
pub struct Owner<T>(oneshot::Receiver<T>);

/// Lends a stream.
pub fn lend<T>(stream: T) -> (Lent<T>, Owner<T>) {
    let (back, owner) = oneshot::channel();
    (Lent { stream: Some(stream), back: Some(back) }, Owner(owner))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Owner<T> {
    /// Says on a stream that came back that nothing more is sent, and reads until the peer has closed it as well, for [`LINGER`]
    /// at most. Does nothing while the stream is still lent.
    pub async fn linger(mut self) {
        let Ok(mut stream) = self.0.try_recv() else { return };
        // A peer that is gone, or that does not close, was told all there is.
        let _ = tokio::time::timeout(LINGER, close(&mut stream, usize::MAX)).await;
    }
}

/// Says that nothing more is sent, and reads until the peer has closed as well, in so many pieces at most.
pub(crate) async fn close<T: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut T,
    pieces: usize,
) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = vec![0; PIECE];
    for _ in 0..pieces {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        if let (Some(back), Some(stream)) = (self.back.take(), self.stream.take()) {
            // Without an owner it is closed here.
            let _ = back.send(stream);
        }
    }
}

impl<T: Unpin> Lent<T> {
    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut T>> {
        self.get_mut().stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
