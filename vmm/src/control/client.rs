//! The asking side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{LINE_BYTES, Request, Response, socket_path};

/// How long an instance may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection to a running instance.
#[derive(Debug)]
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects to the instance.
    ///
    /// # Errors
    /// Nobody listens, or the socket is not this user's.
    pub fn connect(instance: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket_path(instance)?)?;
        Ok(Self(BufReader::new(stream)))
    }

    #[cfg(test)]
    pub(super) fn from_stream(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Asks, and waits for the answer for at most 5 s.
    ///
    /// # Errors
    /// The instance ended, did not answer in time, or its answer was no response.
    pub fn ask(&mut self, request: &Request) -> io::Result<Response> {
        self.ask_within(request, ANSWER)
    }

    /// Asks, and waits for the answer for at most `limit`.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn ask_within(&mut self, request: &Request, limit: Duration) -> io::Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line)?;
        self.0.get_mut().set_read_timeout(Some(limit))?;
        let mut answer = Vec::new();
        let limit = LINE_BYTES as u64;
        (&mut self.0).take(limit).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
