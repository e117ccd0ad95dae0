//! What a sink counts.

use crate::report::Section;

/// What a [`Sink`](super::Sink) counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SinkCounts {
    /// Connections that came.
    pub connections: u64,
    /// Mails answered 250.
    pub mails: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Recipients answered 250, together with their mail.
    pub delivered: u64,
    /// Mails answered 250 for the first time, counted in each queue for itself.
    pub distinct: u64,
    /// Mails answered 250 again in the same queue. (Its recipients may have been others.)
    pub repeated: u64,
    /// DSNs about our mail answered 250.
    pub reports: u64,
    /// Recipients that these say failed.
    pub reported_failed: u64,
    /// Recipients that these say are delayed.
    pub reported_delayed: u64,
    /// What is wrong with the form of DSNs; DSNs about DSNs.
    pub bad_reports: u64,
    /// Mails that bear no identity of ours.
    pub foreign: u64,
    /// Mails that are not what was sent.
    pub altered: u64,
    /// Recipients to whom the mail was not sent.
    pub misdelivered: u64,
    /// First attempts out of order by more than allowed.
    pub out_of_order: u64,
    /// Strict order only: mails that later ones of their queue have passed, and that never came.
    pub missing: u64,
    /// The greatest displacement of a first attempt.
    pub displacement_most: u64,
    /// Recipients or mails answered 4xx.
    pub refused_4xx: u64,
    /// Recipients or mails answered 5xx.
    pub refused_5xx: u64,
    /// Connections ended by 421.
    pub dropped_421: u64,
    /// Mails taken and never answered.
    pub unanswered: u64,
    /// Commands not understood or in a wrong place.
    pub bad_commands: u64,
    /// Commands and mails with a CR or LF alone.
    pub bare_newlines: u64,
    /// 8-bit content or addresses without the extension that allows them.
    pub eight_bit: u64,
    /// Parameters and commands of extensions that were not offered, or with a wrong value.
    pub bad_parameters: u64,
    /// Mails with more content than SIZE declared.
    pub understated: u64,
    /// Commands and mails sent before they may be.
    pub pipelined: u64,
    /// Mails and recipients beyond what LIMITS allows.
    pub over_limits: u64,
}

impl SinkCounts {
    /// Whether nothing was altered, sent astray, out of order, left out or badly reported, and the
    /// client sent nothing that the protocol forbids. (Bad commands are answered, and are not.)
    pub fn is_clean(&self) -> bool {
        let mail =
            [self.altered, self.misdelivered, self.out_of_order, self.missing, self.bad_reports];
        let manners = [
            self.bare_newlines,
            self.eight_bit,
            self.bad_parameters,
            self.understated,
            self.pipelined,
            self.over_limits,
        ];
        mail == [0; 5] && manners == [0; 6]
    }

    /// The counts by name, for reports and status files.
    pub fn named(&self) -> [(&'static str, u64); 27] {
        [
            ("connections", self.connections),
            ("mails", self.mails),
            ("bytes", self.bytes),
            ("delivered", self.delivered),
            ("distinct", self.distinct),
            ("repeated", self.repeated),
            ("reports", self.reports),
            ("reported_failed", self.reported_failed),
            ("reported_delayed", self.reported_delayed),
            ("bad_reports", self.bad_reports),
            ("foreign", self.foreign),
            ("altered", self.altered),
            ("misdelivered", self.misdelivered),
            ("out_of_order", self.out_of_order),
            ("missing", self.missing),
            ("displacement_most", self.displacement_most),
            ("refused_4xx", self.refused_4xx),
            ("refused_5xx", self.refused_5xx),
            ("dropped_421", self.dropped_421),
            ("unanswered", self.unanswered),
            ("bad_commands", self.bad_commands),
            ("bare_newlines", self.bare_newlines),
            ("eight_bit", self.eight_bit),
            ("bad_parameters", self.bad_parameters),
            ("understated", self.understated),
            ("pipelined", self.pipelined),
            ("over_limits", self.over_limits),
        ]
    }

    /// The counts as a report's section.
    pub fn section(&self) -> Section {
        let section = Section::new("sink", "mail received");
        let named = self.named().into_iter();
        let add = |section: Section, (name, count): (&'static str, u64)| {
            section.count(name, &name.replace('_', " "), count)
        };
        named.fold(section, add).flag("clean", "clean", self.is_clean())
    }
}
