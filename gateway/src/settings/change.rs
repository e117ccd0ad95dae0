//! Other settings for a running gateway: what cannot change, and the board's part of what can.

use super::Settings;
use crate::board::Board;
use crate::link::Route;
use crate::message::QueueIndex;
use crate::replication::placement::Placement;

impl Settings {
    /// A board with these bounds, budget and switches. No queue accepts yet.
    pub fn board(&self) -> Board {
        let board = Board::new(self.bounds(), signed(self.memory_bytes));
        self.set_switches(&board);
        board
    }

    /// The bounds of each queue: messages and bytes.
    pub fn bounds(&self) -> impl Iterator<Item = (i64, i64)> {
        self.queues.iter().map(|it| (signed(it.messages_max), signed(it.bytes_max)))
    }

    /// Moves a board that was made by the settings `from` to these. Both have the same queues.
    pub fn change_board(&self, from: &Settings, board: &Board) {
        self.set_switches(board);
        for (queue, (old, new)) in (0..).zip(from.bounds().zip(self.bounds())) {
            board.move_bounds(QueueIndex(queue), new.0 - old.0, new.1 - old.1);
        }
        board.move_budget(signed(self.memory_bytes) - signed(from.memory_bytes));
    }

    /// The keys whose values are not those of the running gateway, although only a start can
    /// change them: as they are called in the file. Everything that is not compared here changes
    /// while the gateway runs.
    pub fn fixed_differences(&self, running: &Settings) -> Vec<&'static str> {
        type Same = fn(&Settings, &Settings) -> bool;
        let fixed: [(&str, Same); 25] = [
            ("name", |a, b| a.name == b.name),
            ("hostname", |a, b| a.hostname == b.hostname),
            ("listen", |a, b| a.reception.listen == b.reception.listen),
            // The servers were asked whether they take mail as large as before, and not larger.
            ("message_size_max (a larger one)", |a, b| {
                a.reception.message_size_max <= b.reception.message_size_max
            }),
            ("register", |a, b| a.register.place() == b.register.place()),
            ("register_user", |a, b| a.register.user() == b.register.user()),
            ("status_socket", |a, b| a.status_socket == b.status_socket),
            ("log", |a, b| a.log_json == b.log_json),
            ("threads", |a, b| a.threads == b.threads),
            ("links, interface", |a, b| a.segments == b.segments),
            ("min_sync", |a, b| a.policy.min_sync == b.policy.min_sync),
            ("account", |a, b| a.links[0].account == b.links[0].account),
            ("secret", |a, b| a.links[0].secret == b.links[0].secret),
            ("protocol_max", |a, b| a.links[0].version_max == b.links[0].version_max),
            // Only those that are there before and after: others come and go.
            ("kvs (addresses, labels)", |a, b| a.same_servers(b)),
            ("placement", |a, b| a.policy.placement == b.policy.placement),
            ("group (names, order)", |a, b| a.group_names().eq(b.group_names())),
            ("queue (names, groups, order)", |a, b| a.homes().eq(b.homes())),
            ("times.heart_beat", |a, b| a.links[0].heart_beat == b.links[0].heart_beat),
            ("times.lease", |a, b| a.policy.lease == b.policy.lease),
            ("times.link_deadline", |a, b| a.links[0].deadline == b.links[0].deadline),
            ("times.path_deadline", |a, b| a.links[0].path_deadline == b.links[0].path_deadline),
            ("times.hedge_after", |a, b| a.links[0].hedge_after == b.links[0].hedge_after),
            ("times.isolate_after", |a, b| a.policy.isolate_after == b.policy.isolate_after),
            ("times.recovery_wait", |a, b| a.policy.recovery_wait == b.policy.recovery_wait),
        ];
        fixed.into_iter().filter(|(_, same)| !same(self, running)).map(|(key, _)| key).collect()
    }

    fn set_switches(&self, board: &Board) {
        for (queue, it) in (0..).zip(&self.queues) {
            board.set_suspended(QueueIndex(queue), it.is_suspended);
        }
        board.resync().set_rate(self.resync_rate);
    }

    /// The servers that groups of the running gateway have, and have no more by these settings: the place of the
    /// group, and the server.
    pub fn servers_gone<'s>(&self, running: &'s Settings) -> Vec<(usize, &'s str)> {
        let mut gone = Vec::new();
        for (place, (old, new)) in running.groups.iter().zip(&self.groups).enumerate() {
            let name = |member: &usize| running.links[*member].server.as_str();
            let has = |server: &str| new.members.iter().any(|it| self.links[*it].server == server);
            let servers = old.members.iter().map(name).filter(|server| !has(server));
            gone.extend(servers.map(|server| (place, server)));
        }
        gone
    }

    /// The same settings, but that these servers are to have no copies.
    pub fn with_drained(&self, servers: &[(usize, &str)]) -> Settings {
        let mut settings = self.clone();
        for (link, is_drained) in self.links.iter().zip(&mut settings.drained) {
            *is_drained |= servers.iter().any(|(_, server)| *server == link.server);
        }
        settings
    }

    fn same_servers(&self, other: &Settings) -> bool {
        self.servers().all(|server| other.servers().all(|it| it.0 != server.0 || it == server))
    }

    fn servers(&self) -> impl Iterator<Item = (&str, Route, Option<Route>, &Placement)> {
        let servers = self.links.iter().zip(&self.placements);
        servers.map(|(it, placement)| {
            (it.server.as_str(), (it.address, it.local), it.standby, placement)
        })
    }

    fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| group.name.as_str())
    }

    fn homes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.queues.iter().map(|it| (it.name.as_str(), it.group))
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
