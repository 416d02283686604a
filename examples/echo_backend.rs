//! A backend to try lockgate with: it answers every request with what it received.
//!
//! `cargo run --example echo_backend`, then `lockgate run --config examples/local.toml`.
//!
//! Not fit for anything else: it knows just enough HTTP/1.1 for a well-behaved proxy in front of it,
//! takes no chunked bodies, and serves no more than [`MAX_CONNECTIONS`] at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const PORT: u16 = 8081;
const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD: u64 = 128 * 1024;
const MAX_BODY: u64 = 1024 * 1024;

/// Longer than lockgate keeps a connection for its next request.
const PATIENCE: Duration = Duration::from_secs(75);

#[expect(clippy::print_stdout, reason = "it is a program to be looked at")]
fn main() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
    println!("echoing on http://{}", listener.local_addr()?);
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        let client = client?;
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            // Dropped, and so closed: the proxy answers 502.
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&open);
        thread::spawn(move || {
            if let Err(error) = serve(&client) {
                println!("connection ended: {error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Answers requests until the proxy closes the connection or sends what is not understood here.
fn serve(client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    while let Some(head) = read_head(&mut reader)? {
        let Some(length) = body_length(&head) else {
            let refusal =
                "HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return (&mut &*client).write_all(refusal.as_bytes());
        };
        if length > MAX_BODY {
            let refusal =
                "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return (&mut &*client).write_all(refusal.as_bytes());
        }
        let mut echo = head.clone().into_bytes();
        reader.by_ref().take(length).read_to_end(&mut echo)?;
        let mut response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            echo.len()
        )
        .into_bytes();
        if !head.starts_with("HEAD ") {
            response.extend_from_slice(&echo);
        }
        (&mut &*client).write_all(&response)?;
    }
    Ok(())
}

/// The request line, the fields and the empty line; `None` where the connection ended before a request.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    let mut reader = reader.take(MAX_HEAD);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
    Ok(Some(head))
}

/// How long the body is; `None` where only its own chunks would tell.
fn body_length(head: &str) -> Option<u64> {
    let mut length = Some(0);
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    length
}
