//! Configuration files read as a whole, every mistake named with its line.
//!
//! One TOML file per program is parsed into a [`Document`] that remembers where each value stands.
//! The program then asks its [`Table`]s for what it knows, key by key. A mistake never stops the
//! reading: it is noted, a placeholder is handed out in place of the value, and
//! [`Document::finish`] names all mistakes at once. Keys that were never asked for are mistakes too.
//!
//! A value passes three stages: the method of [`Table`] that reads it fixes its type; checks such
//! as [`Field::range`] narrow it; and one of [`Field::required`], [`Field::default`] or
//! [`Field::optional`] says what holds when the key is missing.
//!
//! ```
//! use std::{net::SocketAddr, time::Duration};
//!
//! use config::{Document, Mistakes};
//!
//! struct Settings {
//!     name: String,
//!     listen: Vec<SocketAddr>,
//!     workers: usize,
//!     memory_bytes: u64,
//!     heart_beat: Duration,
//!     queues: Vec<String>,
//! }
//!
//! fn read(path: &str, text: &str) -> Result<Settings, Mistakes> {
//!     let document = Document::parse(path, text);
//!     let root = document.root();
//!     let mut settings = Settings {
//!         name: root.string("name").not_empty().required(),
//!         listen: root.addresses("listen").not_empty().required(),
//!         workers: root.integer("workers").range(1..=64).default(1),
//!         memory_bytes: root.bytes("memory").range(1 << 20..=1 << 50).required(),
//!         heart_beat: root.duration("heart_beat").default(Duration::from_millis(500)),
//!         queues: Vec::new(),
//!     };
//!     for queue in root.tables("queue") {
//!         let name = queue.string("name").required();
//!         if settings.queues.contains(&name) {
//!             queue.mistake_at("name", format!("two queues are named {name:?}; names differ"));
//!         }
//!         settings.queues.push(name);
//!     }
//!     document.finish()?;
//!     Ok(settings)
//! }
//!
//! let text = "name = \"gw1\"\nlisten = [\"127.0.0.1\"]\nworkers = 0\nmemory = \"1 GiB\"\nqueues = 3\n";
//! let mistakes = read("gw1.toml", text).err().unwrap().to_string();
//! assert_eq!(
//!     mistakes,
//!     "gw1.toml:2:11: `listen` is \"127.0.0.1\": give an IP address and a port, such as \
//!      \"127.0.0.1:2525\" or \"[::1]:2525\"\n\
//!      gw1.toml:3:11: `workers` is 0: give an integer from 1 to 64\n\
//!      gw1.toml:5:1: `queues` is no key of the top of the file; did you mean `queue`?\n"
//! );
//! ```

#![forbid(unsafe_code)]

mod difference;
mod document;
mod excerpt;
mod field;
mod links;
mod mistake;
mod nearest;
mod secret;
mod table;
mod units;

pub use difference::{Difference, differences};
pub use document::Document;
pub use excerpt::excerpt;
pub use field::Field;
pub use links::{Interface, Links, LinksKind};
pub use mistake::{MISTAKES_MAX, Mistake, Mistakes};
pub use secret::{FILE_BYTES_MAX, Secret, read_file, read_file_up_to};
pub use table::{Integer, PathOrList, Table};
pub use units::{parse_duration, show_bytes, show_duration};
