//! Secrets, and the one function here that touches a file.

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
/// A message that names the file and says what would be right: it cannot be read, is longer than
/// [`FILE_BYTES_MAX`], or is not UTF-8.
pub fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!(
            "{shown} is longer than {FILE_BYTES_MAX} bytes: is it the right file?"
        ));
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
    fn an_endless_file_is_refused() {
        let message = read_file(Path::new("/dev/zero")).unwrap_err();
        assert!(message.contains("longer than"), "{message}");
    }
}
