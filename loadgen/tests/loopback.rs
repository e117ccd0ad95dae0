//! The SMTP load and the sink against each other over kernel loopback, with the ledger's verdict.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use loadgen::content::GeneratorConfig;
use loadgen::ledger::{Ledger, NoRecord, Policy, ProblemKind, Verdict};
use loadgen::sink::{Fault, Faults, Limits, Offer, Phase, Sink, SinkConfig, SinkCounts};
use loadgen::smtp::{Pace, SmtpConfig, SmtpLoad, SmtpStatistics};
use tcpstack::{Clock, KernelOptions, KernelTransport};

struct Outcome {
    sent: SmtpStatistics,
    received: SinkCounts,
    verdict: Verdict,
}

fn smtp_config(total: u64) -> SmtpConfig {
    SmtpConfig {
        mail: GeneratorConfig {
            run: 3,
            seed: 11,
            sizes: "70:1k,25:10k,5:200k".parse().unwrap(),
            domains: (0..3).map(|n| format!("d{n}.example").into()).collect(),
            recipients_per_mail: 1,
            ..GeneratorConfig::default()
        },
        pace: Pace { rate: None, total: Some(total), duration: None },
        sessions: 8,
        backoff: (Duration::from_millis(1), Duration::from_millis(5)),
        answer_timeout: Duration::from_millis(300),
        ..SmtpConfig::default()
    }
}

/// Runs both on this thread until the load is done.
fn run(mut smtp: SmtpConfig, sink: SinkConfig, policy: Policy) -> Outcome {
    let transport = || KernelTransport::new(KernelOptions::default()).unwrap();
    let ledger = Rc::new(RefCell::new(Ledger::new(policy)));
    let clock = Clock::new();
    let begin = clock.now();
    let mut sink =
        Sink::open(transport(), sink, begin, Box::new(Rc::clone(&ledger))).expect("it can listen");
    smtp.to = sink.addresses();
    let mut load = SmtpLoad::new(transport(), smtp, begin, Box::new(Rc::clone(&ledger)));
    loop {
        let now = clock.now();
        let worked = load.turn(now) | sink.turn(now);
        if load.is_done(now) {
            break;
        }
        assert!(now.saturating_since(begin) < Duration::from_secs(60), "{:?}", load.statistics());
        if !worked {
            sink.wait(now, Some(now + Duration::from_micros(200)));
        }
    }
    let sent = load.finish(clock.now());
    let received = sink.finish().unwrap();
    let verdict = ledger.borrow_mut().verdict();
    Outcome { sent, received, verdict }
}

#[test]
fn one_session_delivers_everything_in_strict_order() {
    let smtp = SmtpConfig { sessions: 1, ..smtp_config(400) };
    let sink = SinkConfig { displacement_max: Some(0), ..SinkConfig::default() };
    let policy = Policy { displacement_max: Some(0), ..Policy::default() };
    let Outcome { sent, received, verdict } = run(smtp, sink, policy);
    assert!(sent.is_complete() && received.is_clean() && verdict.is_clean(), "{verdict:?}");
    assert_eq!((sent.accepted, received.mails, received.distinct), (400, 400, 400));
    assert_eq!((sent.connections, received.bad_commands), (1, 0));
    assert_eq!(sent.dot_to_250.count(), 400);
    assert_eq!(verdict.counts.order_compared, 400);
}

#[test]
fn pipelined_sessions_deliver_everything() {
    for (pipelining, ahead) in [(false, false), (true, false), (true, true)] {
        let smtp = SmtpConfig { pipelining, ahead, ..smtp_config(1000) };
        let Outcome { sent, received, verdict } =
            run(smtp, SinkConfig::default(), Policy::default());
        assert!(sent.is_complete() && verdict.is_clean(), "{verdict:?}");
        assert_eq!((received.mails, received.altered, received.bad_commands), (1000, 0, 0));
    }
}

#[test]
fn sessions_are_renewed_after_their_number_of_mails() {
    let smtp = SmtpConfig { sessions: 2, mails_per_session: Some(7), ..smtp_config(140) };
    let Outcome { sent, verdict, .. } = run(smtp, SinkConfig::default(), Policy::default());
    assert!(sent.is_complete() && verdict.is_clean());
    assert!((20..=22).contains(&sent.connections), "{}", sent.connections);
    assert_eq!(sent.connections_lost, 0);
}

#[test]
fn many_recipients_in_many_queues_get_theirs() {
    let mut smtp = smtp_config(200);
    smtp.mail.recipients_per_mail = 7;
    let Outcome { sent, received, verdict } = run(smtp, SinkConfig::default(), Policy::default());
    assert!(sent.is_complete() && received.is_clean() && verdict.is_clean());
    assert_eq!((received.delivered, received.distinct), (1400, 600));
    assert_eq!(verdict.counts.accepted, 1400);
}

#[test]
fn every_fault_of_the_sink_is_survived_and_accounted_for() {
    for (pipelining, ahead) in [(false, false), (true, true)] {
        let mut smtp = SmtpConfig { pipelining, ahead, ..smtp_config(600) };
        smtp.mail.recipients_per_mail = 3;
        let faults = Faults::default()
            .with(Phase::Rcpt, Fault::Transient, 0.05)
            .with(Phase::Rcpt, Fault::Permanent, 0.02)
            .with(Phase::Dot, Fault::Transient, 0.03)
            .with(Phase::Dot, Fault::Permanent, 0.02)
            .with(Phase::Rcpt, Fault::Closing, 0.01)
            .with(Phase::Dot, Fault::Hang, 0.004)
            .with(Phase::Dot, Fault::Drop, 0.02);
        let sink = SinkConfig { faults, seed: 5, ..SinkConfig::default() };
        let Outcome { sent, received, verdict } = run(smtp, sink, Policy::default());
        assert!(verdict.is_clean(), "{:?} {sent:?}", verdict.examples);
        assert_eq!(sent.unresolved, 0);
        assert_eq!(sent.unknown, received.unanswered);
        assert!(sent.unknown > 0 && sent.refused_4xx > 0 && sent.refused_5xx > 0);
        assert!(received.dropped_421 > 0 && received.repeated == 0 && received.altered == 0);
    }
}

/// Every fault of every phase, a few times each, phase by phase.
#[test]
fn every_fault_of_every_phase_is_survived_and_accounted_for() {
    for (phase, pipelining) in Phase::ALL.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let mut smtp = SmtpConfig { pipelining, ahead: pipelining, ..smtp_config(60) };
        // Behind an early answer to EHLO nothing is offered, and the load cannot make 7 bits of 8.
        smtp.mail.eight_bit = false;
        smtp.mail.recipients_per_mail = 2;
        smtp.mail.sizes = "1:4k".parse().unwrap();
        smtp.mails_per_session = Some(5);
        smtp.answer_timeout = Duration::from_millis(40);
        let kinds =
            Fault::ALL.into_iter().filter(|of| (phase, *of) != (Phase::Content, Fault::Trickle));
        let faults = kinds.fold(Faults::default(), |faults, fault| faults.with(phase, fault, 0.04));
        let sink = SinkConfig { faults, seed: 7, ..SinkConfig::default() };
        let Outcome { sent, received, verdict } = run(smtp, sink, Policy::default());
        assert!(verdict.is_clean(), "{phase:?} {pipelining}: {:?} {sent:?}", verdict.examples);
        assert!(received.is_clean() && sent.unresolved == 0, "{phase:?}: {received:?}");
    }
}

#[test]
fn a_sink_without_extensions_gets_plain_mail() {
    let mut offer = Offer::default();
    for name in ["ehlo", "pipelining", "size", "8bitmime"] {
        offer.without(name).unwrap();
    }
    let (mut smtp, sink) = (smtp_config(50), SinkConfig { offer, ..SinkConfig::default() });
    (smtp.pipelining, smtp.ahead, smtp.mail.eight_bit) = (true, true, false);
    let Outcome { sent, received, verdict } = run(smtp, sink, Policy::default());
    assert!(sent.is_complete() && verdict.is_clean());
    assert!(received.is_clean(), "{received:?}");
}

#[test]
fn mail_in_chunks_arrives_as_it_was() {
    for (pipelining, ahead) in [(false, false), (true, false), (true, true)] {
        let mut offer = Offer::default();
        offer.with("chunking").unwrap();
        let sink = SinkConfig { offer, ..SinkConfig::default() };
        let chunk_size_bytes = Some(50_000);
        let mut smtp = SmtpConfig { pipelining, ahead, chunk_size_bytes, ..smtp_config(60) };
        smtp.mail.sizes = "80:1k,10:200k,10:2m".parse().unwrap();
        let Outcome { sent, received, verdict } = run(smtp, sink, Policy::default());
        assert!(sent.is_complete() && verdict.is_clean(), "{verdict:?}");
        assert!(received.is_clean() && received.bad_commands == 0, "{received:?}");
    }
}

#[test]
fn thousands_of_recipients_take_several_transactions() {
    let announced = Some(Limits { mails_max: 1000, recipients_max: 100 });
    for (limits, recipients_max) in [(None, Some(100)), (announced, None)] {
        let offer = Offer { limits, ..Offer::default() };
        let sink = SinkConfig { offer, recipients_max, ..SinkConfig::default() };
        let mut smtp = SmtpConfig { sessions: 2, pipelining: true, ..smtp_config(4) };
        smtp.mail.recipients_per_mail = 2500;
        let Outcome { sent, received, verdict } = run(smtp, sink, Policy::default());
        assert!(sent.is_complete() && verdict.is_clean() && received.is_clean(), "{received:?}");
        assert_eq!((sent.recipients_accepted, received.delivered), (10_000, 10_000));
        assert_eq!((sent.deferred_452 > 0, sent.refused_4xx), (recipients_max.is_some(), 0));
    }
}

#[test]
fn mail_of_fifty_megabytes_passes() {
    let mut smtp = SmtpConfig { sessions: 2, ..smtp_config(2) };
    smtp.answer_timeout = Duration::from_secs(20);
    smtp.mail.sizes = "1:50m".parse().unwrap();
    let Outcome { sent, verdict, .. } = run(smtp, SinkConfig::default(), Policy::default());
    assert!(sent.is_complete() && verdict.is_clean());
}

#[test]
fn an_open_loop_sends_at_its_rate() {
    let pace = Pace { rate: Some(500.0), total: None, duration: Some(Duration::from_millis(600)) };
    let smtp = SmtpConfig { pace, ..smtp_config(0) };
    let Outcome { sent, verdict, .. } = run(smtp, SinkConfig::default(), Policy::default());
    assert_eq!(sent.accepted, 300);
    assert!(sent.elapsed() >= Duration::from_millis(590) && verdict.is_clean());
}

#[test]
fn a_load_without_a_server_gives_up() {
    let mut smtp = smtp_config(5);
    smtp.give_up = Duration::from_millis(100);
    smtp.to = vec!["127.0.0.1:1".parse().unwrap()];
    let clock = Clock::new();
    let transport = KernelTransport::new(KernelOptions::default()).unwrap();
    let ledger = Rc::new(RefCell::new(Ledger::new(Policy::default())));
    let mut load = SmtpLoad::new(transport, smtp, clock.now(), Box::new(Rc::clone(&ledger)));
    while !load.is_done(clock.now()) {
        if !load.turn(clock.now()) {
            load.wait(clock.now(), load.next_deadline(clock.now()));
        }
    }
    let sent = load.finish(clock.now());
    assert!(sent.connections_failed > 0 && !sent.is_complete());
}

#[test]
fn mails_are_dumped_as_they_came() {
    let directory = std::env::temp_dir().join(format!("loadgen-dump-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let sink = SinkConfig { dump: Some(directory.clone()), ..SinkConfig::default() };
    let smtp = SmtpConfig { sessions: 1, ..smtp_config(3) };
    let outcome = run(smtp.clone(), sink, Policy::default());
    assert_eq!(outcome.received.mails, 3);
    let mut generator = loadgen::content::Generator::new(smtp.mail);
    let mut content = Vec::new();
    for number in 0..3 {
        let plan = generator.plan();
        generator.write(&plan, &mut content);
        assert_eq!(std::fs::read(directory.join(format!("{number:08}.eml"))).unwrap(), content);
        let envelope =
            std::fs::read_to_string(directory.join(format!("{number:08}.envelope"))).unwrap();
        let recipient = plan.recipients().next().unwrap();
        assert!(envelope.starts_with("MAIL FROM:<load-") && envelope.contains(&recipient));
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_sink_that_answers_and_forgets_is_found_out() {
    let transport = || KernelTransport::new(KernelOptions::default()).unwrap();
    let clock = Clock::new();
    let forgetful = Box::new(NoRecord);
    let mut sink = Sink::open(transport(), SinkConfig::default(), clock.now(), forgetful).unwrap();
    let ledger = Rc::new(RefCell::new(Ledger::new(Policy::default())));
    let smtp = SmtpConfig { to: sink.addresses(), ..smtp_config(50) };
    let mut load = SmtpLoad::new(transport(), smtp, clock.now(), Box::new(Rc::clone(&ledger)));
    while !load.is_done(clock.now()) {
        load.turn(clock.now());
        sink.turn(clock.now());
    }
    let verdict = ledger.borrow_mut().verdict();
    assert_eq!(verdict.counts.faults[ProblemKind::Lost as usize], 50);
}
