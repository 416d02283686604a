//! Bytes on the wire: a stream on either side of the program, read and written by hand.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::within;

/// A stream of any kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A stream, and what was read of it too early.
pub(crate) struct Raw {
    stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

/// A message as it stood on the wire: a request for a backend, an answer for a client.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The start line and the fields, with the empty line, to the byte.
    pub(crate) head: String,
    /// The content, without its framing.
    pub(crate) body: Vec<u8>,
    /// The trailer section of a chunked body, with the empty line, to the byte.
    pub(crate) trailers: String,
}

/// How the other side ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By saying so: FIN, and over TLS close_notify.
    Cleanly,
    /// By a reset, or over TLS without close_notify.
    Broken,
}

impl Message {
    /// The first line.
    pub(crate) fn start(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        let code = self.start().split(' ').nth(1);
        code.and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status in {:?}", self.start()))
    }

    /// The only value of a field, its name in any case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = fields(&self.head).filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value);
        assert!(values.next().is_none(), "several {name}: {}", self.head);
        value
    }

    /// Whether a line stands in the head, to the byte.
    pub(crate) fn has_line(&self, line: &str) -> bool {
        self.head.split("\r\n").any(|have| have == line)
    }

    /// The names of the fields, as they are written.
    pub(crate) fn names(&self) -> Vec<&str> {
        fields(&self.head).map(|(name, _)| name).collect()
    }

    /// The content as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
}

impl Raw {
    /// Takes a stream over.
    pub(crate) fn over(stream: impl Io + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
        }
    }

    /// Writes all of it.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.unwrap();
    }

    /// Writes where the other side may have left.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("the other side takes what is written", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Writes to an other side that may take as long as it likes.
    pub(crate) async fn unhurried_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Ends the sending half.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads once more into the buffer; 0 at the end.
    async fn fill(&mut self) -> std::io::Result<usize> {
        self.stream.read_buf(&mut self.buffer).await
    }

    /// Everything up to and with `end`; `None` if the stream ends before.
    pub(crate) async fn read_to(&mut self, end: &str) -> Option<Vec<u8>> {
        within(&format!("{end:?} comes"), async {
            loop {
                if let Some(at) = find(&self.buffer, end.as_bytes()) {
                    return Some(self.buffer.drain(..at + end.len()).collect());
                }
                if !matches!(self.fill().await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
    }

    /// The next byte, however long it takes; `None` at the end.
    pub(crate) async fn read_byte(&mut self) -> Option<u8> {
        if self.buffer.is_empty() && !matches!(self.fill().await, Ok(1..)) {
            return None;
        }
        Some(self.buffer.remove(0))
    }

    /// Exactly so many bytes.
    pub(crate) async fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let bytes = self.try_read_exactly(length).await;
        bytes.unwrap_or_else(|| panic!("ended before {length} bytes had come"))
    }

    /// The same where the stream may end before.
    pub(crate) async fn try_read_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        within(&format!("{length} bytes come"), async {
            while self.buffer.len() < length {
                if !matches!(self.fill().await, Ok(1..)) {
                    return None;
                }
            }
            Some(self.buffer.drain(..length).collect())
        })
        .await
    }

    /// A head, with its empty line.
    pub(crate) async fn read_head(&mut self) -> Option<String> {
        let head = self.read_to("\r\n\r\n").await?;
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// The next head on a connection that may be idle for as long as it likes.
    pub(crate) async fn read_head_unhurried(&mut self) -> Option<String> {
        while self.buffer.is_empty() {
            if !matches!(self.fill().await, Ok(1..)) {
                return None;
            }
        }
        self.read_head().await
    }

    /// A whole request; `None` if the stream ends before.
    pub(crate) async fn read_request(&mut self) -> Option<Message> {
        let head = self.read_head().await?;
        self.read_body(head, Unframed::Empty).await
    }

    /// The next request on a connection that may be idle for as long as it likes.
    pub(crate) async fn read_request_unhurried(&mut self) -> Option<Message> {
        while self.buffer.is_empty() {
            if !matches!(self.fill().await, Ok(1..)) {
                return None;
            }
        }
        self.read_request().await
    }

    /// A whole answer to a request that was not HEAD.
    pub(crate) async fn read_response(&mut self) -> Message {
        let head = self.read_head().await.expect("an answer");
        let status = head.split(' ').nth(1).unwrap_or("");
        if status.starts_with('1') || status == "204" || status == "304" {
            return Message::of(head);
        }
        let answer = self.read_body(head, Unframed::ToTheEnd).await;
        answer.expect("a whole answer")
    }

    /// An answer to HEAD.
    pub(crate) async fn read_response_to_head(&mut self) -> Message {
        Message::of(self.read_head().await.expect("an answer"))
    }

    async fn read_body(&mut self, head: String, unframed: Unframed) -> Option<Message> {
        let mut message = Message::of(head);
        let chunked = message
            .field("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if chunked {
            self.read_chunks(&mut message).await?;
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().unwrap();
            while self.buffer.len() < length {
                let n = within("the body comes", self.fill()).await;
                if !matches!(n, Ok(1..)) {
                    return None;
                }
            }
            message.body = self.buffer.drain(..length).collect();
        } else if unframed == Unframed::ToTheEnd {
            message.body = self.read_until_close().await;
        }
        Some(message)
    }

    async fn read_chunks(&mut self, message: &mut Message) -> Option<()> {
        while let Some(chunk) = self.read_chunk().await? {
            message.body.extend(chunk);
        }
        loop {
            let line = String::from_utf8(self.read_to("\r\n").await?).unwrap();
            message.trailers += &line;
            if line == "\r\n" {
                return Some(());
            }
        }
    }

    /// The content of one chunk; the inner `None` is the last chunk, its trailers still unread. The outer
    /// is the end of the stream.
    pub(crate) async fn read_chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let line = String::from_utf8(self.read_to("\r\n").await?).unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        if size == 0 {
            return Some(None);
        }
        let mut chunk = self.read_exactly(size + 2).await;
        assert_eq!(chunk.split_off(size), b"\r\n");
        Some(Some(chunk))
    }

    /// Whatever comes next; `None` at the end. It may take as long as it likes.
    pub(crate) async fn read_some(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() && !matches!(self.fill().await, Ok(1..)) {
            return None;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// Everything until the other side ends.
    pub(crate) async fn read_until_close(&mut self) -> Vec<u8> {
        self.read_to_end().await.0
    }

    /// Everything until the other side ends, and how it ended.
    pub(crate) async fn read_to_end(&mut self) -> (Vec<u8>, Ended) {
        within("the other side closes", async {
            let ended = loop {
                match self.fill().await {
                    Ok(0) => break Ended::Cleanly,
                    Ok(_) => {}
                    Err(_) => break Ended::Broken,
                }
            };
            (std::mem::take(&mut self.buffer), ended)
        })
        .await
    }

    /// Reads for as long as the other side lives, and keeps nothing. How many bytes came.
    pub(crate) async fn drain(&mut self) -> u64 {
        let mut count = 0;
        while let Ok(n @ 1..) = self.fill().await {
            count += n as u64;
            self.buffer.clear();
        }
        count
    }

    /// Says that the other side closes within a time, without a further byte.
    pub(crate) async fn expect_closed(&mut self, within: Duration) {
        let end = tokio::time::timeout(within, self.read_to_end()).await;
        let (rest, _) = end.unwrap_or_else(|_| panic!("not closed within {within:?}"));
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
}

/// What a message without a length is taken for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unframed {
    Empty,
    ToTheEnd,
}

impl Message {
    fn of(head: String) -> Self {
        Self {
            head,
            body: Vec::new(),
            trailers: String::new(),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
