//! The register: records of ownership, changed by compare and set.
//!
//! Only changes of owner or of the copies that count come here: never a mail. Where the records are
//! kept is an *engine*:
//!
//! * [`mod@file`] keeps them in a directory, for gateways that share one machine.
//! * [`etcd`] keeps them in etcd, for gateways that do not; `keyed` is how, [`stored`] what.
//!
//! Beside the records there are texts, by [`document`]. [`thread`] carries calls out for the workers, who never wait for an engine.

pub mod document;
pub mod etcd;
pub mod file;
mod keyed;
pub mod stored;
pub mod thread;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use config::Secret;

use crate::replication::record::{RegisterAnswer, RegisterCall};

pub use document::{Document, Documents};
pub use etcd::EtcdSettings;
pub use file::FileRegister;
pub use stored::{Judgement, Stored, WriterId};
pub use thread::{Asker, RegisterThread};

/// Where records are kept.
pub trait Engine: Send {
    /// Carries out a call on the record of that key. It may take long, but not for ever: what
    /// cannot be carried out is answered [`RegisterAnswer::Failed`].
    fn call(&mut self, key: &str, call: &RegisterCall) -> RegisterAnswer;
}

/// Which engine, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterSettings {
    /// A directory.
    Directory(PathBuf),
    /// A cluster.
    Etcd(EtcdSettings),
}

impl RegisterSettings {
    /// The directory, or the members.
    pub fn place(&self) -> (Option<&Path>, &[SocketAddr]) {
        match self {
            RegisterSettings::Directory(directory) => (Some(directory), &[]),
            RegisterSettings::Etcd(settings) => (None, &settings.members),
        }
    }

    /// Who we are there.
    pub fn user(&self) -> Option<&(String, Secret)> {
        match self {
            RegisterSettings::Directory(_) => None,
            RegisterSettings::Etcd(settings) => settings.user.as_ref(),
        }
    }
}

impl fmt::Display for RegisterSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterSettings::Directory(directory) => directory.display().fmt(f),
            RegisterSettings::Etcd(settings) => {
                let members = settings.members.iter().map(|it| format!("http://{it}"));
                f.write_str(&members.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// Opens the register for that life of a gateway. A directory must be usable now; etcd need not be
/// there yet.
///
/// # Errors
/// With the register's name and what is wrong with it.
pub fn open(settings: &RegisterSettings, writer: WriterId) -> io::Result<Box<dyn Documents>> {
    match settings {
        RegisterSettings::Directory(directory) => match FileRegister::open(directory) {
            Ok(register) => Ok(Box::new(register)),
            Err(error) => {
                let text = format!("register {}: {error}", directory.display());
                Err(io::Error::new(error.kind(), text))
            }
        },
        RegisterSettings::Etcd(settings) => {
            Ok(Box::new(keyed::KeyedRegister::new(etcd::Etcd::new(settings)?, writer)))
        }
    }
}
