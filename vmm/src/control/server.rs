//! The answering side of the control socket, driven by the instance's event loop.
//!
//! A client can neither block the loop nor make it grow: sockets are non-blocking, clients are at
//! most [`PEERS`], lines at most 4 KiB, and who does not read the answers is cut off. What takes
//! longer is answered by a thread of its own.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::{LINE_BYTES, Request, Response, socket_path};

/// Clients served at a time; more wait in the socket's backlog.
const PEERS: usize = 16;

/// How long a client of whom a thread takes care may take to read its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a request is answered.
pub enum Reply {
    Now(Response),
    /// By a thread of its own, and then the connection ends: this may wait for a disk.
    Apart(Box<dyn FnOnce() -> Response + Send>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(response) => f.debug_tuple("Now").field(response).finish(),
            Self::Apart(_) => f.write_str("Apart"),
        }
    }
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Now(response)
    }
}

/// A listening control socket; its name is removed when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    peers: Vec<Peer>,
    /// Taking a client failed, as without free file descriptors: none is taken until one leaves.
    /// `kami stop` uses signals then.
    is_exhausted: bool,
}

#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Server {
    /// Listens for `instance`.
    ///
    /// # Errors
    /// The runtime folder is unusable or its path too long for a socket (107 bytes).
    pub fn bind(instance: &str) -> io::Result<Self> {
        Self::bind_at(socket_path(instance)?)
    }

    pub(super) fn bind_at(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path,
            peers: Vec::new(),
            is_exhausted: false,
        })
    }

    /// What to poll for input: the clients, and the listener while there is room for one more.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let has_room = self.peers.len() < PEERS && !self.is_exhausted;
        let listener = has_room.then_some(self.listener.as_fd());
        let peers = self.peers.iter().map(|peer| peer.stream.as_fd());
        listener.into_iter().chain(peers)
    }

    /// Takes new clients and answers every request that has arrived.
    pub fn serve<R: Into<Reply>>(&mut self, mut answer: impl FnMut(Request) -> R) {
        while self.peers.len() < PEERS && !self.is_exhausted {
            match self.listener.accept() {
                Ok((stream, _)) => self.add(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // accept(2): the client has gone away meanwhile.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_exhausted = true,
            }
        }
        let before = self.peers.len();
        self.peers
            .retain_mut(|peer| peer.serve(&mut |request| answer(request).into()));
        self.is_exhausted &= self.peers.len() == before;
    }

    fn add(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() {
            let line = Vec::new();
            self.peers.push(Peer { stream, line });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Peer {
    /// Answers what has arrived; `false` when the connection is to be closed.
    fn serve(&mut self, answer: &mut impl FnMut(Request) -> Reply) -> bool {
        let mut buffer = [0; LINE_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(len) => self.line.extend_from_slice(&buffer[..len]),
            Err(e) => return matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
        while let Some(end) = self.line.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(request) => answer(request),
                Err(e) => Reply::Now(Response::refused(&e)),
            };
            let sent = match reply {
                Reply::Now(response) => send(&self.stream, &response),
                Reply::Apart(work) => match self.stream.try_clone() {
                    Ok(stream) => return answer_apart(stream, work),
                    Err(error) => Err(error),
                },
            };
            if sent.is_err() {
                return false;
            }
        }
        self.line.len() < LINE_BYTES
    }
}

/// Has `work` done and its response sent; the connection is not the event loop's any more.
fn answer_apart(stream: UnixStream, work: Box<dyn FnOnce() -> Response + Send>) -> bool {
    let spawned = thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            let response = work();
            // A client that has gone away wants no answer.
            let _ = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
                .and_then(|()| send(&stream, &response));
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread that answers a request");
    }
    false
}

fn send(mut stream: &UnixStream, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    stream.write_all(&line)
}
