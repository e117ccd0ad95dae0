//! Texts that the register keeps beside the records of ownership: the settings that a gateway works by, and who
//! is in charge of it.
//!
//! Nothing of what keeps mail safe hangs on them. That is in the records.

use serde::{Deserialize, Serialize};

use super::Engine;

/// Longest text, in bytes as it is kept (in JSON). A longer one is refused: one value of etcd has 1.5 MiB at most.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// A text, and how often it was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Grows by one with each change; a change names the version that it replaces.
    pub version: u64,
    /// The text.
    pub text: String,
}

/// A register that keeps texts too. Calls wait for the engine: they are for threads that do nothing else.
///
/// A change that has failed may have been made. Whoever asked for it reads again, and sees by the text.
pub trait Documents: Engine {
    /// The text of that key.
    ///
    /// # Errors
    /// Why the register cannot be used, or what is there is no text of ours.
    fn read(&mut self, key: &str) -> Result<Option<Document>, String>;

    /// Puts that text into the place of the one whose version is one less (of none, if this is the first).
    /// Returns whether that was done; else somebody else has changed it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn swap(&mut self, key: &str, document: &Document) -> Result<bool, String>;
}

/// How long a text is as it is kept.
pub fn kept_size_bytes(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX, |text| text.len())
}

/// Has the register keep that text, whatever is there now. Returns its version; `None`: others change it all the
/// time, and it is to be tried again later.
///
/// # Errors
/// As [`Documents::read`].
pub fn keep(register: &mut dyn Documents, key: &str, text: &str) -> Result<Option<u64>, String> {
    for _ in 0..TRIES_MAX {
        let version = match register.read(key)? {
            Some(present) if present.text == text => return Ok(Some(present.version)),
            present => present.map_or(0, |it| it.version) + 1,
        };
        if register.swap(key, &Document { version, text: text.into() })? {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// How often a text is put into the place of one that has just been changed by others.
const TRIES_MAX: usize = 3;
