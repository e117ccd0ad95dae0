//! Secrets, and the one function here that touches files.

use std::{fmt, fs::File, io::Read, path::Path};

/// A shared secret. It never shows in debugging output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The secret itself: not to be logged.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Reads a whole file of UTF-8 text: a configuration file, or a secret for
/// [`Table::secret`](crate::Table::secret).
///
/// # Errors
/// A message that names the file and says what would be right: it is no regular file, cannot be
/// read, is longer than [`FILE_BYTES_MAX`], or is not UTF-8.
pub fn read_file(path: &Path) -> Result<String, String> {
    read_file_up_to(path, FILE_BYTES_MAX)
}

/// The same for a file that may be so long, such as a list.
///
/// A pipe or a device is not even opened: the reader is a program that runs, and would wait for
/// somebody who writes, or read without end.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_up_to(path: &Path, bytes_max: usize) -> Result<String, String> {
    let shown = path.display();
    let cannot_read = |error| format!("cannot read {shown}: {error}");
    if !path.metadata().map_err(cannot_read)?.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(cannot_read)?;
    if bytes.len() > bytes_max {
        return Err(format!("{shown} is longer than {bytes_max} bytes: is it the right file?"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("{shown} is not UTF-8 text ({})", error.utf8_error()))
}

/// Longest file that [`read_file`] takes, in bytes. A longer one is refused: no configuration comes
/// near it, and a device or a log given by mistake must not fill the memory.
pub const FILE_BYTES_MAX: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_hides_from_debugging_output() {
        assert!(!format!("{:?}", Secret::new("hunter2".to_owned())).contains("hunter2"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let message = read_file(Path::new("/no/such/file")).unwrap_err();
        assert!(message.starts_with("cannot read /no/such/file: "), "{message}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_unread() {
        for path in ["/dev/zero", "/"] {
            let message = read_file(Path::new(path)).unwrap_err();
            assert_eq!(message, format!("{path} is no regular file"));
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let path = std::env::temp_dir().join(format!("hikyaku-long-{}", std::process::id()));
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_file_up_to(&path, 4).as_deref(), Ok("four"));
        let message = read_file_up_to(&path, 3).unwrap_err();
        assert!(message.contains("longer than 3 bytes"), "{message}");
        std::fs::remove_file(&path).unwrap();
    }
}
