//! What a sink does wrong on purpose: which fault, in which phase of a session, how often.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

use crate::report::Section;

/// Where in a session something goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The connection has come.
    Greeting,
    /// EHLO or LHLO; never HELO, so that a client can fall back to it.
    Ehlo,
    /// MAIL.
    Mail,
    /// RCPT, each for itself.
    Rcpt,
    /// DATA, and each BDAT but the last.
    Data,
    /// Somewhere in the content.
    Content,
    /// The final dot, and BDAT LAST; over LMTP each recipient for itself.
    Dot,
    /// QUIT.
    Quit,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A reply 4xx.
    Transient,
    /// A reply 5xx.
    Permanent,
    /// 421, and the connection ends.
    Closing,
    /// The connection ends without a reply.
    Drop,
    /// The connection is reset. What was answered shortly before may not arrive.
    Reset,
    /// No reply, ever. In the content: nothing is received either.
    Hang,
    /// Bytes that are no SMTP, and no reply behind them.
    Garbage,
    /// The reply that should be, and 250 for the next command before it comes (in the content: 250
    /// before the dot). That command is then carried out and not answered again.
    Early,
    /// The reply that should be, one byte a second. Not in the content.
    Trickle,
}

impl Phase {
    /// All of them, in the order of their numbers.
    pub const ALL: [Phase; 8] = [
        Phase::Greeting,
        Phase::Ehlo,
        Phase::Mail,
        Phase::Rcpt,
        Phase::Data,
        Phase::Content,
        Phase::Dot,
        Phase::Quit,
    ];

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Greeting => "greeting",
            Phase::Ehlo => "ehlo",
            Phase::Mail => "mail",
            Phase::Rcpt => "rcpt",
            Phase::Data => "data",
            Phase::Content => "content",
            Phase::Dot => "dot",
            Phase::Quit => "quit",
        }
    }
}

impl Fault {
    /// All of them, in the order of their numbers.
    pub const ALL: [Fault; 9] = [
        Fault::Transient,
        Fault::Permanent,
        Fault::Closing,
        Fault::Drop,
        Fault::Reset,
        Fault::Hang,
        Fault::Garbage,
        Fault::Early,
        Fault::Trickle,
    ];

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Transient => "4xx",
            Fault::Permanent => "5xx",
            Fault::Closing => "421",
            Fault::Drop => "drop",
            Fault::Reset => "reset",
            Fault::Hang => "hang",
            Fault::Garbage => "garbage",
            Fault::Early => "early",
            Fault::Trickle => "trickle",
        }
    }
}

/// How often what goes wrong: for each phase, the probability of each fault.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    probabilities: [[f64; Fault::ALL.len()]; Phase::ALL.len()],
}

impl Faults {
    /// These and that one, in the place of what was said about it before.
    ///
    /// # Panics
    /// If it is no probability, or those of the phase add up to more than 1.
    #[must_use]
    pub fn with(mut self, phase: Phase, fault: Fault, probability: f64) -> Faults {
        assert!((0.0..=1.0).contains(&probability), "{probability} is no probability");
        self.probabilities[phase as usize][fault as usize] = probability;
        assert!(self.sum(phase) <= 1.0 + f64::EPSILON, "{} goes wrong too often", phase.name());
        self
    }

    /// These and all of those.
    ///
    /// # Errors
    /// The phase whose probabilities add up to more than 1.
    pub fn with_all(mut self, all: &[Misbehaviour]) -> Result<Faults, String> {
        for &Misbehaviour { phase, fault, probability } in all {
            self.probabilities[phase as usize][fault as usize] = probability;
            if self.sum(phase) > 1.0 + f64::EPSILON {
                return Err(format!("the probabilities of {} add up to more than 1", phase.name()));
            }
        }
        Ok(self)
    }

    fn sum(&self, phase: Phase) -> f64 {
        self.probabilities[phase as usize].iter().sum()
    }

    /// What goes wrong this time, if anything. Draws nothing for a phase in which nothing does.
    pub(super) fn draw(&self, phase: Phase, rng: &mut Rng) -> Option<Fault> {
        let probabilities = &self.probabilities[phase as usize];
        if probabilities.iter().all(|&probability| probability == 0.0) {
            return None;
        }
        let mut point = rng.f64();
        Fault::ALL.into_iter().zip(probabilities).find_map(|(fault, probability)| {
            point -= probability;
            (point < 0.0).then_some(fault)
        })
    }
}

/// One kind of misbehaviour as an option says it: `PHASE=FAULT:PROBABILITY`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Misbehaviour {
    /// Where.
    pub phase: Phase,
    /// What.
    pub fault: Fault,
    /// How often, from 0 to 1.
    pub probability: f64,
}

impl FromStr for Misbehaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Misbehaviour, String> {
        let (phase, rest) =
            text.split_once('=').ok_or("not of the form PHASE=FAULT:PROBABILITY")?;
        let (fault, probability) = rest.split_once(':').unwrap_or((rest, "1"));
        let find_phase = Phase::ALL.into_iter().find(|of| of.name() == phase);
        let phase =
            find_phase.ok_or_else(|| one_of("phase", phase, Phase::ALL.map(Phase::name)))?;
        let find_fault = Fault::ALL.into_iter().find(|of| of.name() == fault);
        let fault =
            find_fault.ok_or_else(|| one_of("fault", fault, Fault::ALL.map(Fault::name)))?;
        if (phase, fault) == (Phase::Content, Fault::Trickle) {
            return Err("there is no reply to the content that could trickle".into());
        }
        let value = probability.parse().ok().filter(|value| (0.0..=1.0).contains(value));
        let probability =
            value.ok_or_else(|| format!("{probability:?} is not a probability between 0 and 1"))?;
        Ok(Misbehaviour { phase, fault, probability })
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.phase.name(), self.fault.name(), self.probability)
    }
}

fn one_of<const N: usize>(kind: &str, found: &str, names: [&str; N]) -> String {
    format!("{found:?} is no {kind}: it is one of {}", names.join(", "))
}

/// How often what went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts([[u64; Fault::ALL.len()]; Phase::ALL.len()]);

impl FaultCounts {
    pub(super) fn add(&mut self, phase: Phase, fault: Fault) {
        self.0[phase as usize][fault as usize] += 1;
    }

    /// How often that fault happened in that phase.
    pub fn of(&self, phase: Phase, fault: Fault) -> u64 {
        self.0[phase as usize][fault as usize]
    }

    /// What went wrong at all, as a report's section.
    pub fn section(&self) -> Section {
        let mut section = Section::new("misbehaviour", "done wrong on purpose");
        for phase in Phase::ALL {
            for fault in Fault::ALL.into_iter().filter(|&fault| self.of(phase, fault) > 0) {
                let (phase_name, fault_name) = (phase.name(), fault.name());
                let name = format!("{phase_name}_{fault_name}");
                let label = format!("{phase_name}: {fault_name}");
                section = section.count(&name, &label, self.of(phase, fault));
            }
        }
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_refused() {
        let read = |text: &str| text.parse::<Misbehaviour>().map(|of| of.to_string());
        assert_eq!(read("rcpt=4xx:0.25"), Ok("rcpt=4xx:0.25".into()));
        assert_eq!(read("dot=drop"), Ok("dot=drop:1".into()));
        for text in
            ["", "rcpt", "rcpt=6xx", "hello=4xx", "dot=4xx:2", "dot=4xx:x", "content=trickle"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_phase_cannot_go_wrong_more_often_than_always() {
        let all = ["dot=4xx:0.6", "dot=5xx:0.5"].map(|text| text.parse().unwrap());
        assert!(Faults::default().with_all(&all).is_err());
        assert!(Faults::default().with_all(&all[..1]).is_ok());
    }

    #[test]
    fn faults_come_as_often_as_asked_and_in_their_phase() {
        let faults = Faults::default().with(Phase::Rcpt, Fault::Transient, 0.2).with(
            Phase::Rcpt,
            Fault::Trickle,
            0.1,
        );
        let mut rng = Rng::with_seed(3);
        let mut drawn = [0; Fault::ALL.len()];
        for _ in 0..10_000 {
            assert_eq!(faults.draw(Phase::Dot, &mut rng), None);
            if let Some(fault) = faults.draw(Phase::Rcpt, &mut rng) {
                drawn[fault as usize] += 1;
            }
        }
        assert!((1800..2200).contains(&drawn[Fault::Transient as usize]), "{drawn:?}");
        assert!((900..1100).contains(&drawn[Fault::Trickle as usize]), "{drawn:?}");
        assert_eq!(drawn.iter().filter(|&&count| count > 0).count(), 2);
    }
}
