//! The servers of a shard that runs: they come and go, and copies move between them.

use tcpstack::{Instant, Transport};

use super::{CohortSettings, MemberLinks, Shard, State, Team};
use crate::link::LinkSettings;
use crate::replication::cohort::MemberSettings;

impl<T: Transport> Shard<T> {
    /// Has these servers from now on, of which the cohorts use those that their settings name, and moves copies as
    /// those say. A server that is not among them any more has no copies.
    pub fn reconfigure_servers(
        &mut self,
        now: Instant,
        servers: &[LinkSettings],
        cohorts: &[CohortSettings],
    ) {
        let Shard { links, state } = self;
        for server in servers {
            if links.place_of_server(&server.server).is_none() {
                let used = state.cohorts.iter().flat_map(|team| &team.members).copied();
                links.add(server.clone(), &used.collect());
            }
        }
        for team in &mut state.cohorts {
            let key = team.cohort.key();
            let Some(settings) = cohorts.iter().find(|it| it.key == key) else { continue };
            let places = team.cohort.set_servers(servers_of(settings, servers), &state.board);
            team.cohort.set_move(settings.order.clone());
            team.cohort.resume(now, settings.resume, &state.board);
            for (place, server) in places.into_iter().zip(&settings.members) {
                let link = links.place_of_server(&servers[*server].server);
                let link = link.expect("there is one for each server");
                if place == team.members.len() {
                    team.members.push(link);
                }
                team.members[place] = link;
                let life = links.links_mut()[link].incarnation();
                if let (Some(life), false) = (life, team.cohort.is_up(place)) {
                    let members = &team.members;
                    let mut outlets = MemberLinks { links: links.links_mut(), members };
                    team.cohort.handle_link_up(now, place, life, &mut outlets);
                }
            }
        }
        links.retain(|server| servers.iter().any(|it| it.server == server));
        state.may_have_to_move = true;
    }
}

impl State {
    /// Copies move in one cohort at a time: in the same one as long as it can go on, else in the first that can. As
    /// long as none wants to, nothing is looked at.
    pub(super) fn let_one_move(&mut self, now: Instant) {
        if !self.may_have_to_move {
            return;
        }
        let wants = |team: &Team| team.cohort.wants_to_move();
        self.may_have_to_move = self.cohorts.iter().any(wants);
        let can = |team: &Team| wants(team) && team.cohort.can_move(now);
        let goes_on = self.moving.filter(|place| can(&self.cohorts[*place]));
        self.moving = goes_on.or_else(|| self.cohorts.iter().position(can));
        for (place, team) in self.cohorts.iter_mut().enumerate() {
            team.cohort.set_may_move(Some(place) == self.moving);
        }
    }
}

/// The servers of a cohort, in order of preference.
pub(super) fn servers_of(cohort: &CohortSettings, links: &[LinkSettings]) -> Vec<MemberSettings> {
    let servers = cohort.members.iter().zip(&cohort.placements).zip(&cohort.drained);
    let server = servers.map(|((link, placement), drained)| MemberSettings {
        server: links[*link].server.clone(),
        placement: placement.clone(),
        is_drained: *drained,
    });
    server.collect()
}
