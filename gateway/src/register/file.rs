//! The embedded register: records of ownership in one file, changed by compare and set.
//!
//! For gateways that share one machine (or one file system with working locks). A change takes the
//! lock, reads the file, compares, writes a new file beside it, syncs it, and renames it over the
//! old one, so that a power failure leaves the old or the new content.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Document, Documents, Engine};
use crate::replication::record::{Record, RegisterAnswer, RegisterCall};

/// The largest file that is read, in bytes; a larger one is not ours.
const FILE_SIZE_BYTES_MAX: u64 = 64 << 20;

/// A register in a directory: `records.json`, `documents.json` for texts, and `lock`.
#[derive(Debug)]
pub struct FileRegister {
    directory: PathBuf,
    /// The last change that is in the file but may not survive a power failure, as the directory
    /// could not be synced. Asked for again, it is ours and not another's.
    unsynced: Option<(String, Record)>,
}

impl FileRegister {
    /// Uses the directory, and makes it if need be.
    ///
    /// # Errors
    /// If it cannot be made, or its file cannot be read.
    pub fn open(directory: &Path) -> io::Result<FileRegister> {
        fs::create_dir_all(directory)?;
        let register = FileRegister { directory: directory.to_owned(), unsynced: None };
        register.lock()?;
        register.read_file::<Record>(RECORDS)?;
        register.read_file::<Document>(DOCUMENTS)?;
        Ok(register)
    }

    fn get(&self, key: &str) -> io::Result<Option<Record>> {
        let _lock = self.lock()?;
        Ok(self.read_file(RECORDS)?.remove(key))
    }

    fn swap_record(&mut self, key: &str, record: &Record) -> io::Result<RegisterAnswer> {
        let _lock = self.lock()?;
        let mut records = self.read_file(RECORDS)?;
        let change = (key.to_owned(), record.clone());
        let is_made = self.unsynced.as_ref() == Some(&change) && records.get(key) == Some(record);
        if !is_made {
            let version = records.get(key).map_or(0, |record| record.version);
            if record.version != version + 1 {
                return Ok(RegisterAnswer::Conflict);
            }
            records.insert(key.to_owned(), record.clone());
            self.write_file(RECORDS, &records)?;
            self.unsynced = Some(change);
        }
        self.sync_directory()?;
        self.unsynced = None;
        Ok(RegisterAnswer::Swapped)
    }

    fn get_document(&self, key: &str) -> io::Result<Option<Document>> {
        let _lock = self.lock()?;
        Ok(self.read_file(DOCUMENTS)?.remove(key))
    }

    fn swap_document(&self, key: &str, document: &Document) -> io::Result<bool> {
        let _lock = self.lock()?;
        let mut documents = self.read_file::<Document>(DOCUMENTS)?;
        let version = documents.get(key).map_or(0, |it| it.version);
        if document.version != version + 1 {
            return Ok(false);
        }
        documents.insert(key.to_owned(), document.clone());
        self.write_file(DOCUMENTS, &documents)?;
        self.sync_directory()?;
        Ok(true)
    }

    fn failed(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.directory.display())
    }

    /// Held until it is dropped; the kernel lets go of it when the process dies.
    fn lock(&self) -> io::Result<File> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn read_file<V: DeserializeOwned>(&self, name: &str) -> io::Result<BTreeMap<String, V>> {
        let path = self.directory.join(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > FILE_SIZE_BYTES_MAX => {
                return Err(io::Error::other(format!("{name} is too large to be a register's")));
            }
            Ok(_) => {}
        }
        let text = fs::read(path)?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {error}")))
    }

    fn write_file<V: Serialize>(&self, name: &str, values: &BTreeMap<String, V>) -> io::Result<()> {
        let new = self.directory.join(format!("{name}.new"));
        let mut file = File::create(&new)?;
        serde_json::to_writer_pretty(&mut file, values)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl Engine for FileRegister {
    fn call(&mut self, key: &str, call: &RegisterCall) -> RegisterAnswer {
        let answer = match call {
            RegisterCall::Read => self.get(key).map(RegisterAnswer::Read),
            RegisterCall::Swap(record) => self.swap_record(key, record),
        };
        answer.unwrap_or_else(|error| RegisterAnswer::Failed(self.failed(&error)))
    }
}

impl Documents for FileRegister {
    fn read(&mut self, key: &str) -> Result<Option<Document>, String> {
        self.get_document(key).map_err(|error| self.failed(&error))
    }

    fn swap(&mut self, key: &str, document: &Document) -> Result<bool, String> {
        self.swap_document(key, document).map_err(|error| self.failed(&error))
    }
}

/// The records; and the texts, which are longer and change for other reasons.
const RECORDS: &str = "records.json";
const DOCUMENTS: &str = "documents.json";

#[cfg(test)]
mod tests {
    use super::super::stored::tests::record;
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("register-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_record_is_kept_by_key_and_survives_reopening() {
        let directory = Directory::new("kept");
        let mut register = FileRegister::open(&directory.0).unwrap();
        assert_eq!(register.call("g/0", &RegisterCall::Read), RegisterAnswer::Read(None));
        let swap = RegisterCall::Swap(record(1, 1));
        assert_eq!(register.call("g/0", &swap), RegisterAnswer::Swapped);
        let mut again = FileRegister::open(&directory.0).unwrap();
        assert_eq!(
            again.call("g/0", &RegisterCall::Read),
            RegisterAnswer::Read(Some(record(1, 1)))
        );
        assert_eq!(again.call("g/1", &RegisterCall::Read), RegisterAnswer::Read(None));
    }

    #[test]
    fn of_two_that_replace_the_same_version_one_wins() {
        let directory = Directory::new("race");
        let won = std::thread::scope(|scope| {
            let attempts = (0..8).map(|epoch| {
                let directory = &directory;
                scope.spawn(move || {
                    let mut register = FileRegister::open(&directory.0).unwrap();
                    register.call("g", &RegisterCall::Swap(record(1, epoch)))
                })
            });
            let attempts = attempts.collect::<Vec<_>>();
            let answers = attempts.into_iter().map(|it| it.join().unwrap());
            answers.filter(|answer| *answer == RegisterAnswer::Swapped).count()
        });
        assert_eq!(won, 1);
        let mut register = FileRegister::open(&directory.0).unwrap();
        let skipping = RegisterCall::Swap(record(3, 9));
        assert_eq!(register.call("g", &skipping), RegisterAnswer::Conflict);
    }

    #[test]
    fn a_change_that_was_made_and_not_synced_does_not_conflict_with_itself() {
        let directory = Directory::new("unsynced");
        let mut register = FileRegister::open(&directory.0).unwrap();
        let change = RegisterCall::Swap(record(1, 1));
        assert_eq!(register.call("g", &change), RegisterAnswer::Swapped);
        // As it is when the directory cannot be synced.
        register.unsynced = Some(("g".into(), record(1, 1)));
        assert_eq!(register.call("g", &change), RegisterAnswer::Swapped);
        assert_eq!(register.call("g", &change), RegisterAnswer::Conflict, "it is settled now");
        // Another gateway that asks for the very same never made it.
        let mut other = FileRegister::open(&directory.0).unwrap();
        assert_eq!(other.call("g", &change), RegisterAnswer::Conflict);
    }

    #[test]
    fn texts_have_a_file_of_their_own_and_of_two_that_replace_one_version_one_wins() {
        let directory = Directory::new("texts");
        let mut register = FileRegister::open(&directory.0).unwrap();
        let text = |version, text: &str| Document { version, text: text.into() };
        assert_eq!(register.read("gw/settings"), Ok(None));
        assert_eq!(register.swap("gw/settings", &text(1, "a\n")), Ok(true));
        let mut other = FileRegister::open(&directory.0).unwrap();
        assert_eq!(other.swap("gw/settings", &text(1, "b")), Ok(false));
        assert_eq!(other.swap("gw/settings", &text(3, "b")), Ok(false));
        assert_eq!(other.swap("gw/owner", &text(1, "c")), Ok(true));
        assert_eq!(register.read("gw/settings"), Ok(Some(text(1, "a\n"))));
        assert!(!directory.0.join(RECORDS).exists());
        fs::write(directory.0.join(DOCUMENTS), "[]").unwrap();
        assert!(register.read("gw/owner").unwrap_err().contains(DOCUMENTS));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_an_empty_register() {
        let directory = Directory::new("damaged");
        fs::write(directory.0.join("records.json"), "{ \"g\": 7").unwrap();
        let error = FileRegister::open(&directory.0).unwrap_err();
        assert!(error.to_string().contains("records.json"), "{error}");
        fs::write(directory.0.join("records.json"), "{}").unwrap();
        let mut register = FileRegister::open(&directory.0).unwrap();
        fs::write(directory.0.join("records.json"), "").unwrap();
        let answer = register.call("g", &RegisterCall::Read);
        assert!(matches!(answer, RegisterAnswer::Failed(_)), "{answer:?}");
    }
}
