//! The secret that replicas share: what one of them derives from it, every other derives too.
//!
//! The file is at least 32 random bytes, as `openssl rand -out lockgate.secret 32` writes them, and counts
//! byte for byte. What is derived is bound to a purpose, so that one secret serves several.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use crate::file::{self, ReadError};

/// The fewest bytes of a secret: as many as of the keys that derive from it.
const LEAST: usize = 32;
/// The most.
const MOST: u64 = 4096;
/// So many different bytes have 32 random ones, in binary, hexadecimal or base64; a file of zeros has not.
const LEAST_VARIETY: usize = 8;
/// Nobody but the owner and the group should read a secret.
const OTHERS_READ: u32 = 0o004;

/// A secret. It never shows in a log.
pub struct Secret(Prk);

impl Secret {
    /// Takes a secret's bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Salt::new(HKDF_SHA256, b"lockgate secret").extract(bytes))
    }

    /// Reads a secret file.
    pub fn read(path: &Path) -> Result<(Self, Exposure), SecretError> {
        let fail = |fault| SecretError {
            path: path.to_owned(),
            fault,
        };
        let (bytes, facts) = file::read(path, MOST).map_err(|error| {
            fail(match error {
                ReadError::Unreadable(error) => SecretFault::Unreadable(error),
                ReadError::NotAFile(_) => SecretFault::NotAFile,
                ReadError::TooLarge => SecretFault::TooLong,
            })
        })?;
        let bytes = Zeroizing::new(bytes);
        judge(&bytes).map_err(fail)?;
        let mode = facts.permissions().mode() & 0o7777;
        let exposure = match mode & OTHERS_READ {
            0 => Exposure::Kept,
            _ => Exposure::Readable { mode },
        };
        Ok((Self::new(&bytes), exposure))
    }

    /// Bytes that belong to a purpose; `None` only where the cryptography fails.
    pub fn derive<const N: usize>(&self, purpose: &[&[u8]]) -> Option<Zeroizing<[u8; N]>> {
        let mut bytes = Zeroizing::new([0; N]);
        self.0
            .expand(purpose, Length(N))
            .and_then(|key| key.fill(&mut *bytes))
            .ok()?;
        Some(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Clone, Copy)]
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn judge(bytes: &[u8]) -> Result<(), SecretFault> {
    if bytes.len() < LEAST {
        return Err(SecretFault::TooShort(bytes.len()));
    }
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(seen) = seen.get_mut(usize::from(*byte)) {
            *seen = true;
        }
    }
    if seen.iter().filter(|seen| **seen).count() < LEAST_VARIETY {
        return Err(SecretFault::NotRandom);
    }
    Ok(())
}

/// Who can read a secret file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Its owner, and perhaps its group.
    Kept,
    /// Every user of the machine.
    Readable {
        /// Its permissions.
        mode: u32,
    },
}

/// A secret file that cannot be used.
#[derive(Debug)]
pub struct SecretError {
    path: PathBuf,
    fault: SecretFault,
}

#[derive(Debug)]
enum SecretFault {
    Unreadable(io::Error),
    NotAFile,
    TooShort(usize),
    TooLong,
    NotRandom,
}

impl SecretError {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self.fault {
            SecretFault::Unreadable(_) => {
                "the file must exist and be readable by the user that lockgate runs as; \
                 make one with `openssl rand -out FILE 32`, the same for every replica"
            }
            SecretFault::NotAFile => "name a regular file, or a link to one",
            SecretFault::TooShort(_) | SecretFault::NotRandom => {
                "make one with `openssl rand -out FILE 32`, the same for every replica"
            }
            SecretFault::TooLong => "32 random bytes are enough; is this the right file?",
        }
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.path.display())?;
        match &self.fault {
            SecretFault::Unreadable(error) => {
                let reason = error.to_string().to_lowercase();
                let reason = reason.split(" (os error").next().unwrap_or_default();
                write!(f, "cannot be read: {reason}")
            }
            SecretFault::NotAFile => f.write_str("is not a regular file"),
            SecretFault::TooShort(length) => {
                write!(f, "is too short for a secret: {length} bytes, not {LEAST}")
            }
            SecretFault::TooLong => write!(f, "is larger than {MOST} bytes"),
            SecretFault::NotRandom => f.write_str("is not random"),
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            SecretFault::Unreadable(error) => Some(error),
            SecretFault::NotAFile
            | SecretFault::TooShort(_)
            | SecretFault::TooLong
            | SecretFault::NotRandom => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BYTES: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn what_is_derived_depends_on_every_byte_and_on_the_purpose() {
        let derive =
            |bytes: &[u8], purpose: &[&[u8]]| *Secret::new(bytes).derive::<48>(purpose).unwrap();
        let one = derive(BYTES, &[b"tickets", b"1"]);
        assert_eq!(one, derive(BYTES, &[b"tickets", b"1"]));
        let mut other = BYTES.to_vec();
        other[31] ^= 1;
        let longer = [BYTES, b"\n"].concat();
        for different in [
            derive(&other, &[b"tickets", b"1"]),
            derive(&longer, &[b"tickets", b"1"]),
            derive(BYTES, &[b"tickets", b"2"]),
            derive(BYTES, &[b"cookies", b"1"]),
        ] {
            assert_ne!(one, different);
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (bytes, reason) in [
            (&[7; 0][..], "is too short for a secret: 0 bytes, not 32"),
            (&BYTES[..31], "is too short for a secret: 31 bytes, not 32"),
            (&[0; 64], "is not random"),
            (&BYTES.repeat(129), "is larger than 4096 bytes"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = Secret::read(&path).unwrap_err();
            assert!(error.to_string().ends_with(reason), "{error}");
        }
        let absent = Secret::read(&folder.path().join("absent")).unwrap_err();
        assert!(
            absent
                .to_string()
                .ends_with("cannot be read: no such file or directory"),
            "{absent}"
        );
        let directory = Secret::read(folder.path()).unwrap_err();
        assert!(
            directory.to_string().ends_with("is not a regular file"),
            "{directory}"
        );
    }

    #[test]
    fn a_file_that_everyone_can_read_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, BYTES).unwrap();
        for (mode, expected) in [
            (0o600, Exposure::Kept),
            (0o640, Exposure::Kept),
            (0o644, Exposure::Readable { mode: 0o644 }),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Secret::read(&path).unwrap().1, expected);
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new(BYTES)), "Secret");
    }
}
