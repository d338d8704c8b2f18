//! One question to a server on the loopback device of a namespace.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::namespace::Entrance;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for a path; gives the status and the body.
///
/// # Errors
///
/// When there is no answer, or it is no HTTP.
pub(super) fn get(host: &Entrance, port: u16, path: &str) -> Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = host.run(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?))?;
    ask(stream, path)
}

fn ask(mut stream: TcpStream, path: &str) -> Result<(u16, String)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    // Of version 1.0, so that the body comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP head")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// A text as it is written in an address.
pub(super) fn encoded(text: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let written = text.bytes().map(|byte| match byte {
        byte if is_plain(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(answer: &'static str) -> Result<(u16, String)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 64];
            let length = stream.read(&mut asked).unwrap();
            assert!(asked[..length].starts_with(b"GET /x HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let result = ask(stream, "/x");
        server.join().unwrap();
        result
    }

    #[test]
    fn an_answer_has_status_and_body() {
        let answer = answered("HTTP/1.0 503 no\r\nA: b\r\n\r\nnot yet\n");
        assert_eq!(answer.unwrap(), (503, "not yet\n".to_owned()));
        assert!(answered("SSH-2.0\r\n").is_err());
    }

    #[test]
    fn an_expression_becomes_part_of_an_address() {
        assert_eq!(
            encoded("a_b-1{c=\"d\"}[5s]"),
            "a_b-1%7Bc%3D%22d%22%7D%5B5s%5D"
        );
        assert_eq!(encoded("%\n"), "%25%0A");
    }
}
