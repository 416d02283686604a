//! Reads the files that a configuration names, and the configuration itself: regular ones, up to a size.
//!
//! A file is asked what it is before it is opened: opening a pipe would wait for a writer, and with it
//! everything that a signal asks for (attacks.md row 66).

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// Why a file was not read.
#[derive(Debug)]
pub enum ReadError {
    /// The system refuses it.
    Unreadable(io::Error),
    /// It is something else: what, in words.
    NotAFile(&'static str),
    /// It is larger than it may be.
    TooLarge,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// Reads a regular file, or a link to one, of at most `most` bytes.
///
/// # Errors
/// Where it is none, is larger, or cannot be read.
pub fn read(path: &Path, most: u64) -> Result<(Vec<u8>, Metadata), ReadError> {
    let facts = fs::metadata(path)?;
    if facts.is_dir() {
        return Err(ReadError::NotAFile("a directory"));
    }
    if !facts.is_file() {
        return Err(ReadError::NotAFile("a device, pipe or socket"));
    }
    // In one piece where it can be: a secret leaves no copies behind as its buffer grows.
    let room = facts.len().min(most) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        Err(ReadError::TooLarge)
    } else {
        Ok((bytes, facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_read_up_to_its_bound_and_nothing_else_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap().0, b"12345");
        assert!(matches!(read(&file, 4), Err(ReadError::TooLarge)));
        let pipe = folder.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RWXU, 0).unwrap();
        for (path, what) in [
            (folder.path(), "a directory"),
            (&pipe, "a device, pipe or socket"),
        ] {
            assert!(matches!(read(path, 5), Err(ReadError::NotAFile(is)) if is == what));
        }
        let gone = read(&folder.path().join("gone"), 5);
        assert!(
            matches!(gone, Err(ReadError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound)
        );
    }
}
