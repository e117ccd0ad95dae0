//! The register in etcd (v3), a cluster of machines of their own.
//!
//! Reads are linearizable, changes are transactions on the revision of their key: both need a
//! majority of the members. One member is asked at a time; when it fails or does not answer in
//! time, the next one is. So a request can reach the cluster more than once, which
//! `KeyedRegister` expects.

mod wire;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use config::Secret;
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::keyed::{Kept, Store};
use wire::{
    Authenticated, Change, Range, RangeAnswer, Sign, TransactionAnswer, compare_and_put, unary,
};

/// How long one member may take to answer. A cluster that elects a leader takes about as long.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a request may take in all, whichever members are asked: then it has failed.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is made anew: nobody looked whether it still stands.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);

/// Where etcd is, and who we are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdSettings {
    /// The members. At least one.
    pub members: Vec<SocketAddr>,
    /// Name and password, if etcd asks for them.
    pub user: Option<(String, Secret)>,
}

/// A client of the cluster.
pub(super) struct Etcd {
    /// Runs while a request is under way, on the thread that asks.
    runtime: Runtime,
    cluster: Cluster,
}

struct Cluster {
    members: Vec<(SocketAddr, Endpoint)>,
    /// Who is asked first: who answered last.
    preferred: usize,
    user: Option<(String, Secret)>,
    line: Option<Line>,
}

/// The connection to the preferred member.
struct Line {
    channel: Channel,
    /// What shows who we are.
    token: Option<AsciiMetadataValue>,
    used_at: Instant,
}

impl Etcd {
    /// A client of that cluster. Nothing is sent before something is asked.
    ///
    /// # Errors
    /// If there is no room for a runtime.
    pub(super) fn new(settings: &EtcdSettings) -> io::Result<Etcd> {
        let endpoint = |member: &SocketAddr| {
            let endpoint = Endpoint::from_shared(format!("http://{member}"));
            let endpoint = endpoint.map_err(|error| io::Error::other(text_of(&error)))?;
            Ok((*member, endpoint.connect_timeout(ANSWER_TIME_MAX)))
        };
        let members = settings.members.iter().map(endpoint).collect::<io::Result<_>>()?;
        let cluster = Cluster { members, preferred: 0, user: settings.user.clone(), line: None };
        Ok(Etcd { runtime: Builder::new_current_thread().enable_all().build()?, cluster })
    }

    fn ask<A: Message + Default + 'static>(
        &mut self,
        method: &'static str,
        request: &(impl Message + Clone + 'static),
    ) -> Result<A, String> {
        self.runtime.block_on(self.cluster.ask(method, request))
    }
}

impl Store for Etcd {
    fn get(&mut self, key: &str) -> Result<Option<Kept>, String> {
        let answer: RangeAnswer = self.ask(wire::RANGE, &Range::of(key))?;
        Ok(answer.first())
    }

    fn replace(
        &mut self,
        key: &str,
        revision: i64,
        value: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, String> {
        let request: Change = compare_and_put(key, revision, value);
        let answer: TransactionAnswer = self.ask(wire::TRANSACTION, &request)?;
        Ok(answer.refused_for())
    }
}

impl Cluster {
    /// Asks one member after the other until one answers, each at most once.
    async fn ask<A: Message + Default + 'static>(
        &mut self,
        method: &'static str,
        request: &(impl Message + Clone + 'static),
    ) -> Result<A, String> {
        let until = Instant::now() + REQUEST_TIME_MAX;
        let mut failures = Vec::new();
        for _ in 0..self.members.len() {
            let time = ANSWER_TIME_MAX.min(until.saturating_duration_since(Instant::now()));
            if time.is_zero() {
                break;
            }
            let why = match timeout(time, self.ask_preferred(method, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => describe(&status),
                Err(_) => format!("no answer within {} ms", time.as_millis()),
            };
            failures.push(format!("{}: {why}", self.members[self.preferred].0));
            self.line = None;
            self.preferred = (self.preferred + 1) % self.members.len();
        }
        Err(format!("etcd: {}", failures.join("; ")))
    }

    async fn ask_preferred<A: Message + Default + 'static>(
        &mut self,
        method: &'static str,
        request: &(impl Message + Clone + 'static),
    ) -> Result<A, Status> {
        let line = self.line().await?;
        let answer = unary(line.channel.clone(), method, request.clone(), line.token.clone()).await;
        line.used_at = Instant::now();
        answer
    }

    /// The connection, made and signed in if need be.
    async fn line(&mut self) -> Result<&mut Line, Status> {
        let fresh = self.line.take().filter(|line| line.used_at.elapsed() < IDLE_TIME_MAX);
        let line = match fresh {
            Some(line) => line,
            None => {
                let channel = self.members[self.preferred].1.connect_lazy();
                let mut token = None;
                if let Some((name, password)) = &self.user {
                    let sign = Sign { name: name.clone(), password: password.expose().into() };
                    let answer: Authenticated =
                        unary(channel.clone(), wire::AUTHENTICATE, sign, None).await?;
                    let parsed = answer.token.parse::<AsciiMetadataValue>();
                    token = Some(parsed.map_err(|error| Status::internal(error.to_string()))?);
                }
                Line { channel, token, used_at: Instant::now() }
            }
        };
        Ok(self.line.insert(line))
    }
}

/// What a status says, for the operator: etcd's own words, or why there are none.
fn describe(status: &Status) -> String {
    match status.source() {
        Some(cause) => text_of(cause),
        None if status.code() == Code::Unknown && status.message().is_empty() => "unknown".into(),
        None => status.message().to_owned(),
    }
}

/// The last of the causes says most.
fn text_of(mut error: &(dyn Error + 'static)) -> String {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn client(members: &[SocketAddr]) -> Etcd {
        Etcd::new(&EtcdSettings { members: members.to_vec(), user: None }).unwrap()
    }

    /// An address where nobody listens any more.
    fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn members_that_cannot_be_reached_are_all_tried_and_named() {
        let members = [nobody(), nobody()];
        let why = client(&members).get("/hikyaku/g").unwrap_err();
        for member in members {
            assert!(why.contains(&format!("{member}: ")), "{why}");
        }
        assert!(why.contains("refused"), "{why}");
    }

    #[test]
    fn a_member_that_says_nothing_holds_nothing_up_for_long() {
        // The kernel accepts, nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let began = Instant::now();
        let why = client(&[silent.local_addr().unwrap()]).get("/hikyaku/g").unwrap_err();
        assert!(why.contains("no answer within"), "{why}");
        assert!(began.elapsed() >= ANSWER_TIME_MAX && began.elapsed() < 5 * REQUEST_TIME_MAX);
    }
}
