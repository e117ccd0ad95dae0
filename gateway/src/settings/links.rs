//! The servers, and the groups that back queues up: `[[kvs]]`, `[[group]]` and the links' times.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use config::Table;
use kvs_proto::Version;
use kvs_proto::auth::Secret;

use super::kept::Local;
use super::{Group, server_name_is_allowed};
use crate::link::{LinkSettings, Route};
use crate::replication::cohort::BACKUPS;
use crate::replication::placement::{Placement, best};
use crate::replication::record::LEASE_DEFAULT;

/// Every `[[kvs]]`, in order.
pub(super) fn read_links(
    root: &Table<'_>,
    directory: &Path,
    message_size_max: u64,
    local: Option<&Local>,
) -> Vec<LinkSettings> {
    let account = root.string("account").not_empty().required();
    let account = local.and_then(|local| local.account.clone()).unwrap_or(account);
    let secret = local.map(|local| local.secret.clone()).unwrap_or_else(|| {
        let secret =
            root.secret("secret", "secret_file", |path| config::read_file(&directory.join(path)));
        secret.required()
    });
    let versions = Version::OLDEST as u8..=Version::CURRENT as u8;
    let version_max = root.integer("protocol_max").range(versions).default(Version::CURRENT as u8);
    let version_max = Version::from_u8(version_max).unwrap_or(Version::CURRENT);
    let times = root.table("times");
    let heart_beat = times.duration("heart_beat").default(Duration::from_millis(500));
    let deadline = times.duration("link_deadline").default(DEADLINE.max(heart_beat * 2));
    let lease = times
        .duration("lease")
        .range(LEASE_MIN..=LEASE_MAX)
        .default(LEASE_DEFAULT.max(heart_beat * 2));
    if lease <= heart_beat {
        times.mistake_at("lease", "must be longer than `heart_beat`, which renews it");
    }
    if deadline <= heart_beat {
        times.mistake_at("link_deadline", "must be longer than `heart_beat`");
    }
    let path_deadline = times.duration("path_deadline");
    let path_deadline = path_deadline.default(PATH_DEADLINE.min(deadline / 2));
    if path_deadline >= deadline {
        times.mistake_at("path_deadline", "must be shorter than `link_deadline`");
    }
    let hedge_after = times.duration("hedge_after").default(HEDGE_AFTER.min(path_deadline / 2));
    if hedge_after >= path_deadline {
        times.mistake_at("hedge_after", "must be shorter than `path_deadline`");
    }
    let mut links = Vec::new();
    for table in root.required_tables("kvs") {
        let server = table.string("name").check(|name| server_name_is_allowed(name)).required();
        if links.iter().any(|link: &LinkSettings| link.server == server) {
            table.mistake_at("name", format!("two servers are named {server:?}; names differ"));
        }
        let address = table.address("address").required();
        let local = read_local(&table, "local");
        let standby = read_standby(&table, Some(address));
        links.push(LinkSettings {
            server,
            address,
            local,
            standby,
            account: account.clone(),
            secret: Secret::new(secret.expose().as_bytes()),
            version_max,
            message_size_max,
            heart_beat,
            lease,
            deadline,
            path_deadline,
            hedge_after,
        });
    }
    links
}

/// The server's address on the second network segment, and ours there.
pub(crate) fn read_standby(table: &Table<'_>, address: Option<SocketAddr>) -> Option<Route> {
    let standby = table.address("standby_address").optional();
    let local = read_local(table, "standby_local");
    let Some(standby) = standby else {
        if local.is_some() {
            table.mistake_at("standby_local", "without a `standby_address` it means nothing");
        }
        return None;
    };
    if Some(standby) == address {
        table.mistake_at("standby_address", "this is `address`; give one on another segment");
    } else if let Some(port) = address.map(|it| it.port())
        && standby.port() != port
    {
        let why = format!("a server has one port at all its addresses: {port}, as in `address`");
        table.mistake_at("standby_address", why);
    }
    Some((standby, local))
}

pub(crate) fn read_local(table: &Table<'_>, key: &'static str) -> Option<IpAddr> {
    let text = table.string(key).optional()?;
    let address = text.parse::<IpAddr>();
    if address.is_err() {
        table.mistake_at(key, format!("{text:?} is no IP address"));
    }
    address.ok()
}

/// Default of how long a silent server is waited for, unless heart-beats are rarer.
const DEADLINE: Duration = Duration::from_secs(1);

/// Defaults of a link with two paths, unless its other times are shorter.
const PATH_DEADLINE: Duration = Duration::from_millis(300);
const HEDGE_AFTER: Duration = Duration::from_millis(10);

/// A lease is recorded in milliseconds, and renewed by a quarter of it.
const LEASE_MIN: Duration = Duration::from_millis(20);
const LEASE_MAX: Duration = Duration::from_secs(3600);

/// Most servers in a group.
const GROUP_MAX: usize = 8;

/// Labels of where a server, or the gateway, stands.
pub(super) fn read_placement(table: &Table<'_>) -> Placement {
    let label = |key| table.string(key).not_empty().optional();
    Placement { node: label("node"), rack: label("rack"), power: label("power") }
}

/// Where the server of each `[[kvs]]` stands, in order.
pub(super) fn read_placements(root: &Table<'_>) -> Vec<Placement> {
    root.tables("kvs").iter().map(read_placement).collect()
}

/// Whether the server of each `[[kvs]]` is to have no copies, in order.
pub(super) fn read_drained(root: &Table<'_>) -> Vec<bool> {
    root.tables("kvs").iter().map(|table| table.boolean("drain").default(false)).collect()
}

/// Every `[[group]]`, in order.
pub(super) fn read_groups(
    root: &Table<'_>,
    links: &[LinkSettings],
    placements: &[Placement],
    own: &Placement,
) -> Vec<Group> {
    let mut groups = Vec::new();
    for table in root.required_tables("group") {
        let name = table.string("name").check(|name| server_name_is_allowed(name)).required();
        if groups.iter().any(|group: &Group| group.name == name) {
            table.mistake_at("name", format!("two groups are named {name:?}; names differ"));
        }
        let names = table.strings("kvs").required();
        let place = |name: &String| links.iter().position(|link| link.server == *name);
        for (item, unknown) in names.iter().enumerate().filter(|(_, name)| place(name).is_none()) {
            table.mistake_at_item("kvs", item, format!("there is no [[kvs]] named {unknown:?}"));
        }
        let members = names.iter().filter_map(place).collect::<Vec<_>>();
        if members.len() == names.len() {
            check_members(&table, &members, placements, own);
        }
        groups.push(Group { name, members });
    }
    groups
}

/// A group must be able to back a queue up: by two servers that do not fail together.
fn check_members(table: &Table<'_>, members: &[usize], placements: &[Placement], own: &Placement) {
    let repeats = (1..members.len()).any(|place| members[..place].contains(&members[place]));
    if repeats || members.len() < BACKUPS {
        table.mistake_at("kvs", "name two different servers or more: each queue has two backups");
    } else if members.len() > GROUP_MAX {
        table.mistake_at("kvs", format!("name {GROUP_MAX} servers at most"));
    } else if !can_back_up(members, placements, own) {
        let why = "no two of these servers have nodes of their own, apart from the gateway's";
        table.mistake_at("kvs", format!("{why}: no two copies of a queue may be on one node"));
    }
}

/// Whether two of them may have copies of one queue.
fn can_back_up(members: &[usize], placements: &[Placement], own: &Placement) -> bool {
    let of = |place: &usize| &placements[*place];
    members.iter().any(|first| {
        !of(first).shares_node(own) && {
            let others = members.iter().filter(|it| *it != first).map(|it| (*it, of(it)));
            best(others, &[own, of(first)]).is_some()
        }
    })
}
