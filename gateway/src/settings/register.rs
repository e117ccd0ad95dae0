//! Where the register is: a directory, or the members of etcd.

use std::net::SocketAddr;
use std::path::Path;

use config::{PathOrList, Table};

use crate::register::{EtcdSettings, RegisterSettings};

/// `register` and, for etcd, `register_user` with its password.
pub(crate) fn read_register(root: &Table<'_>, directory: &Path) -> RegisterSettings {
    let wants = "the path of a directory in quotes, or a list of etcd's members, such as \
                 [\"http://10.0.0.1:2379\"]";
    let register = root.path_or_list("register", wants, parse_member).required();
    let user = root.string("register_user").not_empty().optional();
    let password = root.secret("register_password", "register_password_file", |path| {
        config::read_file(&directory.join(path))
    });
    let members = match register {
        PathOrList::List(members) => members,
        PathOrList::Path(path) => {
            let password = password.optional().map(drop);
            let given = user.map(|_| "register_user").or(password.map(|()| "register_password"));
            if let Some(key) = given {
                root.mistake_at(key, "a directory asks for no user: leave this out");
            }
            return RegisterSettings::Directory(directory.join(path));
        }
    };
    for (place, member) in members.iter().enumerate() {
        if members[..place].contains(member) {
            root.mistake_at_item("register", place, format!("{member} is named twice"));
        }
    }
    let user = match user {
        Some(name) => Some((name, password.required())),
        None => {
            if password.optional().is_some() {
                let why = "a password without a name: give `register_user` too";
                root.mistake_at("register_password", why);
            }
            None
        }
    };
    RegisterSettings::Etcd(EtcdSettings { members, user })
}

fn parse_member(text: &str) -> Result<SocketAddr, String> {
    const RIGHT: &str = "give http://, an IP address and a port, such as \"http://10.0.0.1:2379\"";
    if text.starts_with("https://") {
        return Err(format!("etcd is spoken to by http without TLS; {RIGHT}"));
    }
    let address = text.strip_prefix("http://").and_then(|address| address.parse().ok());
    address.ok_or_else(|| RIGHT.to_owned())
}
