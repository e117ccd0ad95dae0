//! How the queues of a cohort and their copies are, for the operator.

use std::time::Duration;

use tcpstack::Instant;

use super::members::{Member, Role};
use super::unit::{Service, Unit};
use super::{Cohort, Phase, RegisterState, is_asked_for};
use crate::board::Board;
use crate::link::LinkState;
use crate::replication::copy::Copy;
use crate::status::{CopyState, CopyStatus, QueueStatus, RegisterStatus, ServiceState};

impl Cohort {
    /// Adds the rows of its queues. `links` is by member.
    pub fn status(
        &self,
        now: Instant,
        unix_ms: u64,
        links: &[LinkState],
        board: &Board,
        queues: &mut Vec<QueueStatus>,
    ) {
        for (place, unit) in self.units.iter().enumerate() {
            let copies = (0..self.members.len())
                .filter(|member| !self.members[*member].leaving.is_removed)
                .map(|member| self.copy_status(unit, member, links[member], unix_ms));
            let lease = match self.is_resumed() {
                true => Duration::ZERO,
                false => self.lease_until.saturating_since(now),
            };
            queues.push(QueueStatus {
                index: unit.queue_index().0,
                queue: unit.name().to_owned(),
                cohort: self.key.clone(),
                service: self.service_of(unit),
                is_accepting: self.is_accepting(place),
                is_suspended: board.is_suspended(unit.queue_index()),
                messages: unit.queue.len() as u64,
                transaction: unit.queue.log().head().0,
                committed: unit.committed.0,
                epoch: self.epoch.0,
                record_version: self.record.as_ref().map(|record| record.version),
                register: self.register_status(),
                lease_left_ms: milliseconds(lease),
                must_be_told: self.must_be_told(now),
                is_resumed: self.is_resumed(),
                moving_to: self.moving_to().map(str::to_owned),
                cannot_move: self.is_stuck(),
                copies: copies.collect(),
            });
        }
    }

    fn service_of(&self, unit: &Unit) -> ServiceState {
        match (&self.phase, unit.service) {
            (Phase::Stopped, _) => ServiceState::Stopped,
            (Phase::Reading | Phase::Announcing | Phase::Gathering { .. } | Phase::Claiming, _) => {
                ServiceState::Starting
            }
            (Phase::Serving, Service::Waiting | Service::Fetching { .. }) => {
                ServiceState::Recovering
            }
            (Phase::Serving, Service::Settling { .. }) => ServiceState::Settling,
            (Phase::Serving, Service::Creating) => ServiceState::Creating,
            (Phase::Serving, Service::Open) => ServiceState::Open,
        }
    }

    fn register_status(&self) -> RegisterStatus {
        match self.register {
            RegisterState::Idle => RegisterStatus::Idle,
            _ if self.register_fails() => RegisterStatus::Failed,
            RegisterState::Wanted(_) | RegisterState::Waiting(_) => RegisterStatus::Asked,
            RegisterState::Failed { .. } => RegisterStatus::Failed,
        }
    }

    fn copy_status(&self, unit: &Unit, member: usize, link: LinkState, unix_ms: u64) -> CopyStatus {
        let (it, copy) = (&self.members[member], &unit.copies[member]);
        let record = self.record.as_ref();
        let is_recorded = record.is_some_and(|record| record.incarnation_of(&it.server).is_some())
            || is_asked_for(&self.register, &it.server);
        let answered = copy.acknowledged();
        let log = unit.queue.log();
        let age = |accepted: u64| unix_ms.saturating_sub(accepted);
        let oldest = answered.and_then(|answered| log.first_store_after(answered));
        CopyStatus {
            kvs: it.server.clone(),
            path: link.path,
            standby_path: link.standby_path,
            protocol: link.version.map(|version| version as u8),
            state: self.copy_state(it, copy, is_recorded),
            is_recorded,
            is_drained: it.is_leaving(),
            transaction: answered.map(|it| it.0),
            lag_changes: answered.map(|it| log.head().0.saturating_sub(it.0)),
            lag_bytes: answered.map(|it| log.bytes_after(it)),
            oldest_unanswered_ms: oldest.map(|it| age(it.message.envelope.accepted_unix_ms)),
        }
    }

    fn copy_state(&self, member: &Member, copy: &Copy, is_recorded: bool) -> CopyState {
        let is_up = member.up.is_some();
        match member.role {
            Role::Out { .. }
                if member.is_leaving()
                    && !is_recorded
                    && (!is_up || (member.is_cleared && copy.is_detached())) =>
            {
                CopyState::Drained
            }
            _ if !is_up => CopyState::Ng,
            Role::InSet(_) if copy.is_following() && member.is_leaving() => CopyState::Draining,
            Role::InSet(_) if copy.is_following() && self.is_moved_from(member) => {
                CopyState::Moving
            }
            Role::InSet(_) if copy.is_following() => CopyState::Sync,
            Role::InSet(_) => CopyState::Resuming,
            Role::Expelled { .. } => CopyState::Ng,
            Role::Joining => CopyState::Joining,
            Role::Out { .. } if is_recorded && self.phase != Phase::Serving => CopyState::Resuming,
            Role::Out { .. } => CopyState::Spare,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
