//! The operator works on servers: has the gateway take in other configurations of them, and gives it orders.

use gateway::replication::cohort::MoveOrder;
use gateway::settings::Settings;

use super::inflict::FAULT_PATIENCE;
use super::{World, unix_ms};
use crate::gateways::{Running, settings_at};
use crate::plan::{Fault, ServerWork};
use crate::scenario::{SERVERS_MAX, server_name};

/// What the operator has made of the servers.
#[derive(Debug, Default)]
pub(super) struct Operator {
    drained: [bool; SERVERS_MAX],
    away: [bool; SERVERS_MAX],
    /// One that stays drained.
    for_good: Option<usize>,
    /// Orders given to the present gateway.
    orders: u64,
}

impl World {
    /// Whether that work has to wait, for a gateway that is up and servers that it does not need.
    pub(super) fn server_work_waits(&self, work: ServerWork) -> bool {
        if self.newest().is_none() {
            return true;
        }
        match work {
            ServerWork::Remove { server, .. } => {
                let (now, name) = (self.now(), server_name(server));
                let mut records = self.register().records().map(|(_, record)| record);
                // Of two gateways one does not know of the other's copies.
                let is_named = records.any(|record| {
                    record.incarnation_of(&name).is_some() || record.joining_of(&name).is_some()
                });
                let may_go = |it: &Running| it.host.can_do_without(&name, now, unix_ms(now));
                is_named || !self.gateways().all(may_go)
            }
            _ => false,
        }
    }

    /// The server that stays drained, if there is one.
    pub fn drained_for_good(&self) -> Option<usize> {
        self.operator.for_good
    }

    /// The operator does that.
    pub(super) fn work_on_servers(&mut self, work: ServerWork) {
        let now = self.now();
        let before = self.scenario.settings.clone();
        let mut later = |lasts, work| self.plan.add(now + lasts, Fault::Servers(work));
        let operator = &mut self.operator;
        match work {
            ServerWork::Drain { server, lasts } => {
                operator.drained[server] = true;
                later(lasts, ServerWork::Undrain { server });
            }
            ServerWork::DrainForGood { server } => operator.for_good = Some(server),
            ServerWork::Undrain { server } => operator.drained[server] = false,
            ServerWork::TakeAway { server, lasts } => {
                operator.drained[server] = true;
                later(FAULT_PATIENCE, ServerWork::Remove { server, lasts });
            }
            ServerWork::Remove { server, lasts } => {
                // Two are left at least.
                if operator.drained[server] && !operator.away.contains(&true) {
                    operator.away[server] = true;
                }
                later(lasts, ServerWork::Add { server });
            }
            ServerWork::Add { server } => {
                (operator.drained[server], operator.away[server]) = (false, false);
            }
            ServerWork::Move { from, to } => {
                operator.orders += 1;
                let (from, to) = (server_name(from), server_name(to));
                let order = MoveOrder { number: operator.orders, from, to };
                let keys = before.cohorts().into_iter().map(|it| it.key);
                self.scenario.settings.moves = keys.map(|key| (key, order.clone())).collect();
            }
            ServerWork::CancelMoves => self.scenario.settings.moves.clear(),
        }
        self.take_servers_in(&before);
    }

    /// All servers are there again, only the one is drained that stays so, and nothing is moved any more.
    pub(super) fn end_server_work(&mut self) {
        let before = self.scenario.settings.clone();
        if self.servers.iter().any(Option::is_none) {
            // One is dead for good, and the others are needed.
            self.operator.for_good = None;
        }
        self.operator.drained = Default::default();
        self.operator.away = Default::default();
        self.scenario.settings.moves.clear();
        self.take_servers_in(&before);
    }

    /// A gateway that starts has orders from nobody.
    pub(super) fn forget_orders(&mut self) {
        self.operator.orders = 0;
        self.scenario.settings.moves.clear();
    }

    fn take_servers_in(&mut self, before: &Settings) {
        let settings = &mut self.scenario.settings;
        self.operator.configure(&self.original, settings);
        for Running { host, place, .. } in self.gateways.iter_mut().flatten() {
            host.reconfigure(&settings_at(*place, before), &settings_at(*place, settings));
        }
    }
}

impl Operator {
    /// The servers of these settings, from those that there are.
    fn configure(&self, original: &Settings, settings: &mut Settings) {
        let there = (0..original.links.len()).filter(|it| !self.away[*it]).collect::<Vec<_>>();
        let of = |it: &usize| original.links[*it].clone();
        settings.links = there.iter().map(of).collect();
        settings.placements = there.iter().map(|it| original.placements[*it].clone()).collect();
        let is_drained = |it: &usize| self.drained[*it] || self.for_good == Some(*it);
        settings.drained = there.iter().map(is_drained).collect();
        let place_of = |member: &usize| there.iter().position(|it| it == member);
        for (group, original) in settings.groups.iter_mut().zip(&original.groups) {
            group.members = original.members.iter().filter_map(place_of).collect();
        }
    }
}
