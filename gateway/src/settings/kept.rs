//! The settings of a gateway that the register keeps, so that a sender program delivers as the gateway would.
//!
//! They are the file's without what belongs to the gateway's machine, what is secret, and what is about
//! reception only. What a sender has of its own stands in their place: [`Local`].

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use config::{Mistakes, Secret, excerpt};

use super::{Settings, Threads};
use crate::link::Route;
use crate::register::RegisterSettings;

/// What a sender has of its own.
#[derive(Clone, Debug)]
pub struct Local {
    /// Where the register is.
    pub register: RegisterSettings,
    /// The account at the servers, if it is not the gateway's.
    pub account: Option<String>,
    /// Its secret there.
    pub secret: Secret,
    /// Threads.
    pub threads: Threads,
    /// Log records as JSON instead of text.
    pub log_json: bool,
    /// Where the status can be asked for, if anywhere.
    pub status_socket: Option<PathBuf>,
    /// Servers that are reached otherwise than the gateway reaches them.
    pub ways: Vec<Way>,
}

/// How a server is reached from here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// Which.
    pub server: String,
    /// Its first worker, if elsewhere than for the gateway.
    pub address: Option<SocketAddr>,
    /// The address to connect from.
    pub local: Option<IpAddr>,
    /// The same on the second network segment, if elsewhere than for the gateway.
    pub standby: Option<Route>,
}

/// The register's key of the settings of that gateway.
pub fn key(gateway: &str) -> String {
    format!("{gateway}/settings")
}

/// What is kept of a file's text.
pub fn kept(text: &str) -> String {
    excerpt(text, is_kept)
}

fn is_kept(path: &[&str]) -> bool {
    !matches!(
        path,
        ["listen" | "status_socket" | "log" | "trace_header" | "trace_recipient"]
            | ["register" | "register_user" | "register_password" | "register_password_file"]
            | ["secret" | "secret_file" | "threads" | "placement" | "relay" | "checks"]
            | ["links" | "interface"]
            | ["kvs", "local" | "standby_local"]
            | ["queue", "recipients_file"]
    )
}

impl Settings {
    /// Reads settings that were kept, of a gateway that accepts nothing. Where the gateway stands is unknown:
    /// what a sender has in memory is not counted as one of the copies.
    ///
    /// # Errors
    /// Every mistake that was found: the gateway's program knows more than ours does.
    pub fn parse_kept(gateway: &str, text: &str, local: &Local) -> Result<Settings, Mistakes> {
        let label = format!("the settings of {gateway} in the register");
        let mut settings = Settings::read(&label, Path::new("."), text, Some(local))?;
        for link in &mut settings.links {
            let Some(way) = local.ways.iter().find(|way| way.server == link.server) else {
                continue;
            };
            link.address = way.address.unwrap_or(link.address);
            link.local = way.local;
            link.standby = way.standby.or(link.standby);
        }
        Ok(settings)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::Drivers;
    use crate::settings::tests::GOOD;

    pub(crate) fn local() -> Local {
        let drivers = Drivers::Merged { workers: 2 };
        Local {
            register: RegisterSettings::Directory("/var/lib/register".into()),
            account: None,
            secret: Secret::new("the sender's".into()),
            threads: Threads { drivers, cores: Vec::new(), spin: Duration::ZERO },
            log_json: false,
            status_socket: None,
            ways: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_has_no_secrets_and_says_how_to_deliver() {
        let text = GOOD
            .replace("secret = ", "status_socket = \"s\"\nregister_password = \"pw\"\nsecret = ")
            .replace(
                "address = \"127.0.0.1:7001\"",
                "address = \"127.0.0.1:7001\"\nlocal = \"127.0.0.9\"",
            );
        let kept = kept(&text);
        for gone in ["between us", "pw", "127.0.0.9", "listen", "threads", "status_socket"] {
            assert!(!kept.contains(gone), "{gone}: {kept}");
        }
        let whole = Settings::parse(Path::new("gw1.toml"), GOOD).unwrap();
        let settings = Settings::parse_kept("gw1", &kept, &local()).unwrap();
        assert!(settings.reception.listen.is_empty());
        let shown = |settings: &Settings| {
            let Settings { delivery, queues, groups, reports, hostname, .. } = settings;
            let queue_for = |domain| settings.reception.routes.queue_for(domain);
            let routes = ["example.net", "example.org", "elsewhere.example"].map(queue_for);
            format!("{delivery:?} {queues:?} {groups:?} {reports:?} {hostname:?} {routes:?}")
        };
        assert_eq!(shown(&settings), shown(&whole));
        assert_eq!(settings.threads.drivers, Drivers::Merged { workers: 2 });
        assert_eq!(settings.links[0].account, "gw1");
        assert_eq!(settings.links[0].local, None);
        let secret = kvs_proto::auth::Secret::new(b"the sender's");
        assert!(settings.links.iter().all(|link| link.secret == secret));
    }

    #[test]
    fn servers_may_be_reached_by_other_ways() {
        let way = Way {
            server: "b".into(),
            address: Some("10.0.0.2:7002".parse().unwrap()),
            local: Some("10.0.0.1".parse().unwrap()),
            standby: None,
        };
        let local = Local { ways: vec![way], account: Some("sender".into()), ..local() };
        let settings = Settings::parse_kept("gw1", &kept(GOOD), &local).unwrap();
        assert_eq!(settings.links[0].address.to_string(), "127.0.0.1:7001");
        assert_eq!(settings.links[1].address.to_string(), "10.0.0.2:7002");
        assert_eq!(settings.links[1].local.unwrap().to_string(), "10.0.0.1");
        assert!(settings.links.iter().all(|link| link.account == "sender"));
    }

    #[test]
    fn a_gateway_that_knows_more_than_we_do_is_named() {
        let text = kept(&GOOD.replace("hostname", "novelty = 1\nhostname"));
        let why = Settings::parse_kept("gw1", &text, &local()).unwrap_err().to_string();
        assert!(why.contains("the settings of gw1 in the register:"), "{why}");
        assert!(why.contains("`novelty` is no key"), "{why}");
    }

    #[test]
    fn settings_that_are_too_long_to_be_kept_are_a_mistake() {
        let long = "x".repeat(1 << 20);
        let text = GOOD.replace("domains = []", &format!("domains = [\"{long}.example\"]"));
        let why = Settings::parse(Path::new("gw1.toml"), &text).unwrap_err().to_string();
        assert!(why.contains("bytes of this file would be kept in the register"), "{why}");
        // What is not kept may be as long as it likes.
        let text = format!("{GOOD}\n[checks]\nsenders_refused = [\"{long}.example\"]\n");
        let whole = Settings::parse(Path::new("gw1.toml"), &text);
        assert!(!whole.is_err_and(|why| why.to_string().contains("kept in the register")));
    }
}
