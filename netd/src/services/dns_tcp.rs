//! DNS over TCP on the gateway's port 53 (RFC 7766): what is too long for UDP. The guest's TCP ends in the
//! packet thread; here its bytes come over a socket pair. Queries of one connection are answered in order.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::services::egress::NamePolicy;
use crate::services::name_server::NameServer;
use crate::services::resolver::Transport;

/// RFC 7766 section 6.2.3: a few seconds; a client that has more to ask connects again.
const IDLE: Duration = Duration::from_secs(10);

/// Serves one connection until the client or silence ends it.
///
/// # Errors
/// When the stream breaks; nothing is lost by that.
pub async fn serve(
    stream: StdUnixStream,
    names: &NameServer,
    policy: &NamePolicy,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    loop {
        let read = tokio::time::timeout(IDLE, read_message(&mut stream)).await;
        let Ok(Some(query)) = read.unwrap_or(Ok(None)) else {
            return Ok(());
        };
        let answer = match policy.refusal(&query).await {
            Some(refusal) => Some(refusal),
            None => names.answer(&query, Transport::Tcp).await,
        };
        // Bytes that are no query: a stream that has lost its frames cannot be mended.
        let Some(answer) = answer else {
            return Ok(());
        };
        policy.learn(&answer).await;
        let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

async fn read_message(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
