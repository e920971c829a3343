use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Serves until `count` requests were answered, with `Accepted`.
fn serve(server: &mut Server, count: usize) -> Vec<Request> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let mut fds: Vec<_> = server
            .fds()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut fds, None).unwrap();
        drop(fds);
        server.serve(|request| {
            seen.push(request);
            Response::Accepted
        });
    }
    seen
}

#[test]
fn requests_are_lines_of_json() {
    let power = serde_json::to_string(&Request::PowerButton).unwrap();
    assert_eq!(power, r#"{"command":"power-button"}"#);
    let accepted = serde_json::to_string(&Response::Accepted).unwrap();
    assert_eq!(accepted, r#"{"result":"accepted"}"#);
}

#[test]
fn client_is_answered_until_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i-1.sock");
    let mut server = Server::bind_at(path.clone()).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let stream = UnixStream::connect(&path).unwrap();
    let client = std::thread::spawn(move || {
        let mut client = Client::from_stream(stream);
        (client.ask(&Request::Kill).unwrap(), client)
    });
    assert_eq!(serve(&mut server, 1), [Request::Kill]);
    let (answer, mut client) = client.join().unwrap();
    assert_eq!(answer, Response::Accepted);
    drop(server);
    client.ask(&Request::Status).unwrap_err();
    assert!(!path.exists());
}

#[test]
fn several_requests_in_one_write_and_a_split_one_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i-1.sock");
    let mut server = Server::bind_at(path.clone()).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    let lines = b"{\"command\":\"status\"}\n{\"command\":\"reset\"}\n{\"comm";
    stream.write_all(lines).unwrap();
    assert_eq!(serve(&mut server, 2), [Request::Status, Request::Reset]);
    stream.write_all(b"and\":\"kill\"}\n").unwrap();
    assert_eq!(serve(&mut server, 1), [Request::Kill]);
}

#[test]
fn line_that_is_no_request_is_refused_and_an_endless_one_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i-1.sock");
    let mut server = Server::bind_at(path.clone()).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"{\"command\":\"dance\"}\n").unwrap();
    server.serve(|_| -> Response { unreachable!() });
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with(r#"{"result":"refused","message":"unknown variant `dance`"#));
    // Not read to its end by the server, so the connection may end by a reset.
    let _ = stream.write_all(&[b'x'; LINE_BYTES]);
    server.serve(|_| -> Response { unreachable!() });
    assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
}

#[test]
fn what_takes_long_is_answered_while_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i-1.sock");
    let mut server = Server::bind_at(path.clone()).unwrap();
    let (begin, begun) = std::sync::mpsc::channel();
    let mut slow = Client::from_stream(UnixStream::connect(&path).unwrap());
    let mut quick = Client::from_stream(UnixStream::connect(&path).unwrap());
    let volumes = vec!["vol-0123456789abcdef0".parse().unwrap()];
    let request = Request::Freeze {
        volumes: volumes.clone(),
    };
    let json = serde_json::to_string(&request).unwrap();
    assert_eq!(
        json,
        r#"{"command":"freeze","volumes":["vol-0123456789abcdef0"]}"#
    );
    let slow = std::thread::spawn(move || slow.ask_within(&request, PATIENCE).unwrap());
    let quick = std::thread::spawn(move || {
        let answer = quick.ask(&Request::Status).unwrap();
        // Only now may the slow one be answered.
        begin.send(()).unwrap();
        answer
    });
    let mut begun = Some(begun);
    let mut served = 0;
    while served < 2 {
        let mut fds: Vec<_> = server
            .fds()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut fds, None).unwrap();
        drop(fds);
        server.serve(|request| {
            served += 1;
            match request {
                Request::Freeze { volumes: named } => {
                    assert_eq!(named, volumes);
                    let begun = begun.take().unwrap();
                    Reply::Apart(Box::new(move || {
                        begun.recv().unwrap();
                        Response::Frozen {
                            layers: vec![3],
                            pause_microseconds: 17,
                        }
                    }))
                }
                _ => Reply::Now(Response::Accepted),
            }
        });
    }
    assert_eq!(quick.join().unwrap(), Response::Accepted);
    let frozen = Response::Frozen {
        layers: vec![3],
        pause_microseconds: 17,
    };
    assert_eq!(slow.join().unwrap(), frozen);
}
