//! The sender program: stands by, takes over, delivers, hands back.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvs_proto::Version;
use tcpstack::{Clock, KernelOptions, KernelTransport, Transport};
use tracing::{error, info, warn};

use super::charge::{read_seat, write_seat};
use super::inquiry::{Answer, Inquiry, QUEUES_MAX, Question};
use super::seat::{Hold, Holder, Kind, Seat};
use super::settings::Duty;
use super::watch::{Verdict, Watch, delay, order};
use super::{Ending, REGISTER_RETRY};
use crate::bypass;
use crate::gateway::Gateway;
use crate::register::{self, Documents, WriterId};
use crate::reload::Reloader;
use crate::replication::record::{Record, RegisterAnswer, RegisterCall};
use crate::settings::{Settings, kept};
use crate::status::{About, LinksStatus, SenderState, SenderStatus, Snapshot};
use crate::worker::Shared;

/// How often a sender in charge looks at the seat, and how often at most one that stands by asks the servers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Least time between two looks: the delay's end is met by this.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How often one that stands by reads settings and records again although nothing goes on.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// How long servers may take to answer.
const INQUIRY_TIME_MAX: Duration = Duration::from_secs(2);

/// How much longer than deliveries under way the rest of leaving takes at most: the copies have to answer.
const LEAVE_TIME: Duration = Duration::from_secs(12);

/// How long workers may take to tell how they are.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// How often a sender that was told to end tries to say that it has left.
const RELEASE_TRIES: u32 = 3;

/// When a sender takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At once; and it ends when it has handed the queues back.
    AtOnce,
    /// When its delay without an owner is over; then it stands by again.
    StandBy,
}

/// A sender for one gateway.
pub struct Sender {
    duty: Duty,
    start: Start,
    ending: Arc<Ending>,
    register: Box<dyn Documents>,
    transport: KernelTransport,
    random: fastrand::Rng,
    told: Arc<Told>,
    /// What was last complained about.
    complaint: Option<String>,
    /// The version of the settings in the register that cannot be worked by: it is complained of once.
    refused: Option<u64>,
}

/// What it tells of itself, to whoever asks.
#[derive(Debug)]
pub struct Told {
    about: About,
    state: Mutex<(SenderStatus, Option<Arc<Shared>>)>,
}

/// What the register has of a gateway.
struct View {
    /// The text of the settings.
    text: String,
    settings: Settings,
    records: Vec<Record>,
}

/// Why it does not own the queues any more.
enum Outcome {
    /// The gateway is back.
    HandedBack,
    /// It was told to end.
    Ended,
    /// Somebody took them, or something went wrong.
    Lost(String),
}

impl Sender {
    /// For that gateway. The seed must not be guessable.
    ///
    /// # Errors
    /// If the register or sockets cannot be opened.
    pub fn new(duty: Duty, start: Start, ending: Arc<Ending>, seed: u64) -> io::Result<Sender> {
        let mut random = fastrand::Rng::with_seed(seed);
        let register = register::open(&duty.local.register, WriterId(random.u64(..)))?;
        let transport = KernelTransport::new(KernelOptions {
            connect_timeout: INQUIRY_TIME_MAX,
            user_timeout: Some(INQUIRY_TIME_MAX),
            ..KernelOptions::default()
        })?;
        let about = About {
            name: duty.of.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            process: std::process::id(),
            started_unix_ms: Clock::new().unix_ms(),
            register: duty.local.register.to_string(),
            // By the kernel: it is seldom in charge, and its machine's NIC queues are the server's.
            links: LinksStatus::default(),
        };
        let status = SenderStatus {
            beside: duty.beside.clone(),
            state: SenderState::StandingBy,
            rank: None,
            takes_over_after_ms: None,
            owner_silent_ms: None,
            trouble: None,
        };
        let told = Arc::new(Told { about, state: Mutex::new((status, None)) });
        let (complaint, refused) = (None, None);
        Ok(Sender { duty, start, ending, register, transport, random, told, complaint, refused })
    }

    /// What it tells of itself, from any thread.
    pub fn told(&self) -> Arc<Told> {
        self.told.clone()
    }

    /// Runs until it is told to end, or has handed back what it took at once.
    ///
    /// # Errors
    /// Why it could not take over at once, or had to give up; or a broken invariant.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            let taken = match self.start {
                Start::AtOnce => Some(self.take_now()?),
                Start::StandBy => self.stand_by(),
            };
            let Some((view, me)) = taken else { return Ok(()) };
            let outcome = self.deliver(view, &me)?;
            match (outcome, self.start) {
                (Outcome::Ended, _) | (Outcome::HandedBack, Start::AtOnce) => return Ok(()),
                (Outcome::Lost(why), Start::AtOnce) => return Err(why),
                (Outcome::HandedBack, Start::StandBy) => {}
                (Outcome::Lost(why), Start::StandBy) => {
                    error!(
                        of = self.duty.of,
                        why, "the queues are not ours any more; standing by again"
                    );
                    if self.ending.sleep(LOOK_EVERY) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sits down whoever is in charge.
    fn take_now(&mut self) -> Result<(View, Holder), String> {
        let view = self.view()?;
        if view.records.is_empty() {
            return Err(format!("the register knows no queues of {}", self.duty.of));
        }
        let me = self.holder();
        loop {
            let (version, before) = read_seat(self.register.as_mut(), &self.duty.of)?;
            if let Some(Seat { holder, .. }) = before {
                info!(of = self.duty.of, from = holder.name, kind = ?holder.kind, "taking over");
            }
            let seat = Seat::taken_by(me.clone());
            if write_seat(self.register.as_mut(), &self.duty.of, version, &seat)? {
                return Ok((view, me));
            }
        }
    }

    /// Waits until it is our turn, and sits down. `None`: it was told to end.
    fn stand_by(&mut self) -> Option<(View, Holder)> {
        info!(of = self.duty.of, beside = self.duty.beside, "standing by");
        self.set_state(SenderState::StandingBy, None);
        let mut watch = Watch::new();
        let mut view: Option<View> = None;
        let mut refresh_at = Clock::new().now();
        loop {
            let now = Clock::new().now();
            if view.is_none() || now >= refresh_at {
                view = self.settle(Sender::view);
                refresh_at = now + REFRESH_EVERY;
            }
            let mut pause = LOOK_EVERY;
            if let Some(seen) = &view {
                match self.judge(&mut watch, seen) {
                    Verdict::Unknown => refresh_at = refresh_at.min(now + LOOK_EVERY),
                    Verdict::Wait(left) => pause = left.clamp(LOOK_AGAIN, LOOK_EVERY),
                    Verdict::Due => {
                        // What was read a while ago may say less than what is there now.
                        view = self.settle(Sender::view);
                        refresh_at = now + REFRESH_EVERY;
                        if let Some(fresh) = view.take()
                            && let Some(taken) = self.take_if_due(&mut watch, fresh)
                        {
                            return Some(taken);
                        }
                    }
                }
            }
            if self.ending.sleep(pause) {
                return None;
            }
        }
    }

    /// Sits down if it is still time by what is read and heard now, and nobody else has.
    fn take_if_due(&mut self, watch: &mut Watch, view: View) -> Option<(View, Holder)> {
        if self.judge(watch, &view) != Verdict::Due {
            return None;
        }
        let me = self.holder();
        let is_ours = self.settle(|it| {
            let (version, _) = read_seat(it.register.as_mut(), &it.duty.of)?;
            if !watch.has_seen(version) {
                return Ok(false);
            }
            write_seat(it.register.as_mut(), &it.duty.of, version, &Seat::taken_by(me.clone()))
        });
        if is_ours != Some(true) {
            return None;
        }
        info!(of = self.duty.of, "nobody owns the queues: taking them over");
        Some((view, me))
    }

    /// Whether it is our turn, by what the servers say.
    fn judge(&mut self, watch: &mut Watch, view: &View) -> Verdict {
        let Some((version, _)) = self.settle(|it| read_seat(it.register.as_mut(), &it.duty.of))
        else {
            return Verdict::Unknown;
        };
        let servers = view.settings.links.iter().map(|link| link.server.as_str());
        let order = order(&view.records, servers);
        let Some(rank) = order.iter().position(|name| *name == self.duty.beside) else {
            self.complain(format!("{} has no [[kvs]] named {}", self.duty.of, self.duty.beside));
            return Verdict::Unknown;
        };
        let delay = delay(self.duty.after, self.duty.further, rank);
        let answers = self.ask(questions(view));
        let idle = answers.iter().filter_map(|answer| answer.idle).min();
        match answers.iter().find_map(|answer| answer.error.clone()).filter(|_| idle.is_none()) {
            Some(error) => self.complain(format!("no server tells of an owner: {error}")),
            None => self.complaint = None,
        }
        let trouble = self.complaint.clone();
        self.change_status(|status| {
            status.rank = Some(rank);
            status.takes_over_after_ms = Some(milliseconds(delay));
            status.owner_silent_ms = idle.map(milliseconds);
            status.trouble = trouble;
        });
        watch.judge(Clock::new().now(), version, idle, delay)
    }

    fn ask(&mut self, questions: Vec<Question>) -> Vec<Answer> {
        let clock = Clock::new();
        let (now, seed) = (clock.now(), self.random.u64(..));
        let until = now + INQUIRY_TIME_MAX;
        let mut inquiry = Inquiry::begin(now, &mut self.transport, questions, seed);
        loop {
            let worked = inquiry.turn(clock.now(), &mut self.transport);
            let now = clock.now();
            if inquiry.is_over() || now >= until || self.ending.is_asked() {
                return inquiry.finish(&mut self.transport);
            }
            if !worked {
                self.transport.wait(now, Some(until));
            }
        }
    }

    /// Reads what the register has.
    fn view(&mut self) -> Result<View, String> {
        let of = &self.duty.of;
        let Some(text) = self.register.read(&kept::key(of))? else {
            return Err(format!(
                "the register has no settings of {of}: no gateway of that name has started with it"
            ));
        };
        let settings = Settings::parse_kept(of, &text.text, &self.duty.local);
        let settings = settings.map_err(|mistakes| mistakes.to_string().trim_end().to_owned())?;
        let mut records = Vec::new();
        for key in settings.record_keys() {
            match self.register.call(&key, &RegisterCall::Read) {
                RegisterAnswer::Read(record) => records.extend(record),
                RegisterAnswer::Failed(error) => return Err(error),
                answer => return Err(format!("the register answers {answer:?}")),
            }
        }
        Ok(View { text: text.text, settings, records })
    }

    /// Owns the queues and delivers, until somebody wants them.
    ///
    /// # Errors
    /// A broken invariant.
    fn deliver(&mut self, view: View, me: &Holder) -> Result<Outcome, String> {
        self.set_state(SenderState::TakingOver, None);
        let started = bypass::open(&view.settings)
            .and_then(|links| Gateway::start(&view.settings, links, self.random.u64(..)));
        let gateway = match started {
            Ok(gateway) => gateway,
            Err(error) => {
                self.release(me);
                return Ok(Outcome::Lost(format!("cannot start: {error}")));
            }
        };
        let stopper = gateway.stopper();
        self.set_state(SenderState::InCharge, Some(stopper.clone()));
        let View { text, settings, .. } = view;
        let (board, shared) = (gateway.board(), stopper.clone());
        let local = self.duty.local.clone();
        let mut reloader = Reloader::of_kept(local, text, settings, board, shared);
        let mut outcome = None;
        while outcome.is_none() && !gateway.has_ended() {
            if self.ending.sleep(LOOK_EVERY) {
                outcome = Some(Outcome::Ended);
                stopper.stop();
            } else if let Some(left) = self.look(me) {
                outcome = Some(left);
                stopper.stop_within(self.duty.hand_back);
            } else {
                self.follow_settings(&mut reloader);
            }
        }
        if outcome.is_some() {
            self.set_state(SenderState::Leaving, Some(stopper));
        }
        let ended = gateway.join();
        self.set_state(SenderState::Leaving, None);
        self.release(me);
        match (ended, outcome) {
            (Err(fatal), _) if fatal.is_panic() => Err(fatal.0),
            (Err(fatal), None) => Ok(Outcome::Lost(fatal.0)),
            (Ok(()), None) => Ok(Outcome::Lost("the workers have ended".into())),
            (_, Some(outcome)) => Ok(outcome),
        }
    }

    /// Looks at the seat while we sit there; says so if we are to leave.
    fn look(&mut self, me: &Holder) -> Option<Outcome> {
        let leaves_within = self.duty.hand_back + LEAVE_TIME;
        self.settle(|it| {
            let (version, seat) = read_seat(it.register.as_mut(), &it.duty.of)?;
            match Hold::of(me.life, leaves_within, seat.as_ref()) {
                Hold::Stay => Ok(None),
                Hold::Lost => {
                    let by = seat.map_or("nobody".into(), |it| it.holder.name);
                    Ok(Some(Outcome::Lost(format!("{by} has taken charge"))))
                }
                Hold::Leave(leaving) => {
                    let is_told = write_seat(it.register.as_mut(), &it.duty.of, version, &leaving)?;
                    if is_told {
                        info!(
                            of = it.duty.of,
                            "the gateway is back: no more attempts, those under way are finished"
                        );
                    }
                    Ok(is_told.then_some(Outcome::HandedBack))
                }
            }
        })?
    }

    /// Works by what the register has now: an operator may have changed it for a gateway that does not run.
    fn follow_settings(&mut self, reloader: &mut Reloader) {
        let text = self.settle(|it| it.register.read(&kept::key(&it.duty.of)));
        if let Some(Some(text)) = text
            && self.refused.as_ref() != Some(&text.version)
        {
            self.refused = (!reloader.follow_register(&text.text)).then_some(text.version);
        }
    }

    /// Says that we have left. While the register is away it is tried again: nobody waits for ever.
    fn release(&mut self, me: &Holder) {
        let mut tries = 0;
        loop {
            let is_done = self.settle(|it| {
                let (version, seat) = read_seat(it.register.as_mut(), &it.duty.of)?;
                match seat {
                    Some(seat) if seat.holder.life == me.life && !seat.is_released => {
                        write_seat(it.register.as_mut(), &it.duty.of, version, &seat.released())
                    }
                    _ => Ok(true),
                }
            });
            tries += 1;
            if is_done == Some(true) {
                info!(of = self.duty.of, "the queues are left");
                return;
            }
            let gives_up = self.ending.is_asked() || self.start == Start::AtOnce;
            if gives_up && tries >= RELEASE_TRIES {
                return warn!(
                    of = self.duty.of,
                    "the register does not know that the queues are left"
                );
            }
            if is_done.is_none() {
                std::thread::sleep(REGISTER_RETRY);
            }
        }
    }

    /// Does something with the register; complains, once, if that is not possible.
    fn settle<R>(&mut self, what: impl FnOnce(&mut Sender) -> Result<R, String>) -> Option<R> {
        match what(self) {
            Ok(result) => Some(result),
            Err(error) => {
                self.complain(error);
                None
            }
        }
    }

    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            warn!(of = self.duty.of, "{why}");
            self.change_status(|status| status.trouble = Some(why.clone()));
            self.complaint = Some(why);
        }
    }

    fn holder(&mut self) -> Holder {
        Holder {
            kind: Kind::Sender,
            name: self.duty.beside.clone(),
            life: self.random.u64(..),
            since_unix_ms: Clock::new().unix_ms(),
        }
    }

    fn set_state(&self, state: SenderState, workers: Option<Arc<Shared>>) {
        let mut told = self.told.state.lock().expect("nobody panics while holding it");
        told.0.state = state;
        if state != SenderState::StandingBy {
            told.0.owner_silent_ms = None;
        }
        told.1 = workers;
    }

    fn change_status(&self, change: impl FnOnce(&mut SenderStatus)) {
        change(&mut self.told.state.lock().expect("nobody panics while holding it").0);
    }
}

impl Told {
    /// As it is now.
    pub fn snapshot(&self) -> Snapshot {
        let (status, workers) = {
            let told = self.state.lock().expect("nobody panics while holding it");
            (told.0.clone(), told.1.clone())
        };
        let parts = workers.map(|it| it.ask_status(STATUS_PATIENCE)).unwrap_or_default();
        let snapshot = Snapshot::of(&self.about, Clock::new().unix_ms(), &parts);
        Snapshot { sender: Some(status), ..snapshot }
    }
}

/// What is asked of each recorded server: about a queue of each record that names it.
fn questions(view: &View) -> Vec<Question> {
    let View { settings, records, .. } = view;
    let mut questions: Vec<Question> = Vec::new();
    for record in records {
        let Some(queue) = record.queues.first() else { continue };
        let name = format!("{}/{queue}", settings.name);
        for member in &record.members {
            let known = questions.iter_mut().find(|it| it.server.server == member.server);
            let link = settings.links.iter().find(|link| link.server == member.server);
            match (known, link) {
                (Some(known), _) if known.queues.len() < QUEUES_MAX => {
                    known.queues.push(name.clone())
                }
                (None, Some(link)) => {
                    let mut server = link.clone();
                    server.version_max = Version::CURRENT;
                    questions.push(Question { server, queues: vec![name.clone()] });
                }
                _ => {}
            }
        }
    }
    questions
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
