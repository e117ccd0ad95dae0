//! Mail made from a seed: the same run, seed and number make the same bytes.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use fastrand::Rng;

use crate::corpus::{Corpus, LineKind, fill_plainly};
use crate::digest::{digest, mix};
use crate::identity::{
    DIGEST_DIGITS, DIGEST_FIELD, MAIL_FIELD, MailId, PLACES_MAX, QUEUE_FIELD, RecipientId,
    sender_address,
};

/// What mail to make.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    /// The run's name in identities.
    pub run: u32,
    /// Decides everything that varies.
    pub seed: u64,
    /// How large.
    pub sizes: SizeMix,
    /// Recipients' domains: the queues. Not empty.
    pub domains: Vec<Arc<str>>,
    /// Senders' domains, in turn. Not empty.
    pub sender_domains: Vec<Arc<str>>,
    /// Share of the mails that have the null reverse-path, from 0 to 1.
    pub null_senders: f64,
    /// Recipients of each mail, 1 to 20,000. They take consecutive domains; more recipients than
    /// domains share them.
    pub recipients_per_mail: u16,
    /// Whether a part of the mails has 8-bit lines (and so asks for BODY=8BITMIME).
    pub eight_bit: bool,
}

impl Default for GeneratorConfig {
    /// Mail of 1 KiB to one recipient in one domain.
    fn default() -> GeneratorConfig {
        GeneratorConfig {
            run: 0,
            seed: 0,
            sizes: SizeMix::only(1024),
            domains: vec!["d0.example".into()],
            sender_domains: vec!["sender.example".into()],
            null_senders: 0.0,
            recipients_per_mail: 1,
            eight_bit: true,
        }
    }
}

/// Makes mails, numbered from 0. [`Generator::plan`] gives the next its identity;
/// [`Generator::write`] makes its bytes, as often as asked, always the same.
#[derive(Debug)]
pub struct Generator {
    config: GeneratorConfig,
    corpora: [Corpus; 4],
    next_number: u64,
    next_sequences: Vec<u64>,
}

/// One mail's identity, size and recipients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Its name.
    pub id: MailId,
    /// Bytes of content to make, unless its header alone is longer.
    pub size_bytes: usize,
    /// Where it goes; recipients are numbered through these in order.
    pub places: Vec<Place>,
    /// The sender's domain, for From even where the reverse-path is null.
    pub sender_domain: Arc<str>,
    /// The reverse-path is null.
    pub null_sender: bool,
    /// Some lines are not ASCII.
    pub eight_bit: bool,
    shape: Shape,
}

/// A mail's place in one queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The recipients' domain.
    pub queue: Arc<str>,
    /// How many mails the sender made for this queue before.
    pub sequence: u64,
    /// How many recipients the mail has there.
    pub recipients: u16,
}

impl Plan {
    /// The recipients' addresses without brackets, in order.
    pub fn recipients(&self) -> impl Iterator<Item = String> + '_ {
        let queues =
            self.places.iter().flat_map(|place| (0..place.recipients).map(|_| &place.queue));
        queues.zip(0..).map(|(queue, place)| RecipientId { mail: self.id, place }.address(queue))
    }

    /// The reverse-path without brackets; empty: null.
    pub fn sender(&self) -> String {
        if self.null_sender { String::new() } else { sender_address(self.id, &self.sender_domain) }
    }

    /// How many recipients there are.
    pub fn recipients_count(&self) -> usize {
        self.places.iter().map(|place| usize::from(place.recipients)).sum()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Body(LineKind),
    Multipart,
    /// All of it in the header; nothing behind the empty line.
    EmptyBody,
}

impl Generator {
    /// Stops the process on a configuration outside the bounds named there.
    pub fn new(config: GeneratorConfig) -> Generator {
        assert!(!config.domains.is_empty(), "mail needs a domain to go to");
        assert!(!config.sender_domains.is_empty(), "mail needs a domain to come from");
        assert!((1..=PLACES_MAX).contains(&usize::from(config.recipients_per_mail)));
        let kinds = [LineKind::Plain, LineKind::EightBit, LineKind::Long, LineKind::Dotted];
        Generator {
            corpora: kinds.map(Corpus::new),
            next_number: 0,
            next_sequences: vec![0; config.domains.len()],
            config,
        }
    }

    /// The next mail.
    pub fn plan(&mut self) -> Plan {
        let id = MailId { run: self.config.run, number: self.next_number };
        self.next_number += 1;
        let mut rng = self.rng(id.number);
        let size_bytes = self.config.sizes.pick(&mut rng);
        let shape = match rng.u8(0..100) {
            0..60 => Shape::Body(LineKind::Plain),
            60..75 if self.config.eight_bit => Shape::Body(LineKind::EightBit),
            60..80 => Shape::Body(LineKind::Long),
            80..88 => Shape::Body(LineKind::Dotted),
            88..98 => Shape::Multipart,
            _ => Shape::EmptyBody,
        };
        let first = rng.usize(..self.config.domains.len());
        let senders = &self.config.sender_domains;
        let turn = usize::try_from(id.number % senders.len() as u64).expect("below the length");
        let sender_domain = Arc::clone(&senders[turn]);
        let null_senders = self.config.null_senders;
        Plan {
            id,
            size_bytes,
            places: self.take_places(first),
            sender_domain,
            null_sender: null_senders > 0.0 && rng.f64() < null_senders,
            eight_bit: shape == Shape::Body(LineKind::EightBit),
            shape,
        }
    }

    /// Writes the mail's content (canonical lines, not dot-stuffed) over `out` and answers the
    /// digest in it.
    pub fn write(&self, plan: &Plan, out: &mut Vec<u8>) -> u64 {
        let mut rng = self.rng(plan.id.number);
        out.clear();
        out.reserve(plan.size_bytes + 1024);
        out.extend_from_slice(DIGEST_FIELD);
        out.extend_from_slice(&[b'0'; DIGEST_DIGITS]);
        out.extend_from_slice(b"\r\n");
        let covered_at = out.len();
        write_header(plan, &mut rng, out);
        match plan.shape {
            Shape::Body(kind) => self.write_body(plan, kind, &mut rng, out),
            Shape::Multipart => self.write_multipart(plan, &mut rng, out),
            Shape::EmptyBody => write_empty_body(plan, out),
        }
        let digest = digest(&out[covered_at..]);
        let mut value = &mut out[DIGEST_FIELD.len()..DIGEST_FIELD.len() + DIGEST_DIGITS];
        write!(value, "{digest:016x}").expect("sixteen digits fit");
        digest
    }

    fn rng(&self, number: u64) -> Rng {
        Rng::with_seed(mix(self.config.seed, number))
    }

    fn take_places(&mut self, first: usize) -> Vec<Place> {
        let domains = self.config.domains.len();
        let recipients = usize::from(self.config.recipients_per_mail);
        (0..recipients.min(domains))
            .map(|step| {
                let domain = (first + step) % domains;
                let sequence = self.next_sequences[domain];
                self.next_sequences[domain] += 1;
                let more = usize::from(step < recipients % domains);
                let recipients = recipients / domains + more;
                Place {
                    queue: Arc::clone(&self.config.domains[domain]),
                    sequence,
                    recipients: u16::try_from(recipients).expect("at most 20,000 in all"),
                }
            })
            .collect()
    }

    fn write_body(&self, plan: &Plan, kind: LineKind, rng: &mut Rng, out: &mut Vec<u8>) {
        let charset = if kind == LineKind::EightBit { "utf-8" } else { "us-ascii" };
        let encoding = if kind == LineKind::EightBit { "8bit" } else { "7bit" };
        put(out, format_args!("Content-Type: text/plain; charset={charset}\r\n"));
        put(out, format_args!("Content-Transfer-Encoding: {encoding}\r\n"));
        let left = end_header(plan, 0, out);
        self.corpora[kind as usize].fill(rng, left, out);
    }

    fn write_multipart(&self, plan: &Plan, rng: &mut Rng, out: &mut Vec<u8>) {
        let boundary = format!("=_{:016x}.{}", rng.u64(..), plan.id.number);
        put(out, format_args!("Content-Type: multipart/mixed;\r\n\tboundary=\"{boundary}\"\r\n"));
        let before = format!("A preamble.\r\n--{boundary}\r\nContent-Type: text/plain\r\n\r\n");
        let between = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Disposition: attachment; filename=\"a.txt\"\r\n\r\n"
        );
        let after = format!("\r\n--{boundary}--\r\n");
        let left = end_header(plan, before.len() + between.len() + after.len(), out);
        let first = if left < 8 { 0 } else { left / 2 };
        out.extend_from_slice(before.as_bytes());
        self.corpora[LineKind::Plain as usize].fill(rng, first, out);
        out.extend_from_slice(between.as_bytes());
        self.corpora[LineKind::Long as usize].fill(rng, left - first, out);
        out.extend_from_slice(after.as_bytes());
    }
}

/// Sizes with weights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SizeMix {
    choices: Vec<(u32, usize)>,
    weight: u32,
}

impl SizeMix {
    /// Always the same size.
    pub fn only(size_bytes: usize) -> SizeMix {
        SizeMix { choices: vec![(1, size_bytes)], weight: 1 }
    }

    fn pick(&self, rng: &mut Rng) -> usize {
        let mut point = rng.u32(..self.weight);
        for &(weight, size) in &self.choices {
            if point < weight {
                return size;
            }
            point -= weight;
        }
        unreachable!("the weights add up")
    }
}

impl FromStr for SizeMix {
    type Err = String;

    /// `WEIGHT:SIZE,…`; sizes take `k` (1024 bytes) and `m`. At least one weight is not 0.
    fn from_str(text: &str) -> Result<SizeMix, String> {
        let choices = text
            .split(',')
            .map(|choice| {
                let (weight, size) = choice.split_once(':').unwrap_or(("1", choice));
                let weight: u16 =
                    weight.trim().parse().map_err(|_| format!("{weight:?} is not a weight"))?;
                Ok((u32::from(weight), parse_size(size)?))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let weight = choices.iter().map(|&(weight, _)| weight).sum();
        if weight == 0 || choices.len() > SIZES_MAX {
            return Err(format!("a mix has 1 to {SIZES_MAX} sizes with some weight"));
        }
        Ok(SizeMix { choices, weight })
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (weight, size)) in self.choices.iter().enumerate() {
            write!(f, "{}{weight}:{size}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Reads a size in bytes: a number, with `k` (1024) or `m` (1024 k) behind it if wanted.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let (digits, factor) = match text.to_ascii_lowercase().as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1024),
        Some(b'm') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    let size = digits.parse().ok().and_then(|number: usize| number.checked_mul(factor));
    size.filter(|&size| size <= SIZE_BYTES_MAX)
        .ok_or_else(|| format!("{text:?} is not a size of at most {SIZE_BYTES_MAX} bytes"))
}

/// Largest mail that is made; larger sizes are refused when read.
pub const SIZE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Most sizes of a mix; more are refused when read.
const SIZES_MAX: usize = 64;

/// Most recipients named in To; the others are as if blind copies.
const TO_MAX: usize = 10;

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes every write");
}

fn write_header(plan: &Plan, rng: &mut Rng, out: &mut Vec<u8>) {
    let MailId { run, number } = plan.id;
    out.extend_from_slice(MAIL_FIELD);
    put(out, format_args!("{run:08x} {number}\r\n"));
    out.extend_from_slice(QUEUE_FIELD);
    for (index, place) in plan.places.iter().enumerate() {
        let more = if index + 1 < plan.places.len() { ",\r\n " } else { "\r\n" };
        put(out, format_args!("{} {}{more}", place.queue, place.sequence));
    }
    put(out, format_args!("Message-ID: <{run:08x}.{number}@sender.example>\r\nDate: "));
    write_date(FIRST_DATE_UNIX_S + number % (86_400 * 365), out);
    let name = NAMES[rng.usize(..NAMES.len())];
    let sender = sender_address(plan.id, &plan.sender_domain);
    put(out, format_args!("\r\nFrom: {name}<{sender}>\r\nTo: "));
    for (index, address) in plan.recipients().take(TO_MAX).enumerate() {
        put(out, format_args!("{}<{address}>", if index == 0 { "" } else { ",\r\n\t" }));
    }
    put(out, format_args!("\r\nSubject: {}", SUBJECTS[rng.usize(..SUBJECTS.len())]));
    put(out, format_args!("\r\nMIME-Version: 1.0\r\n"));
    if rng.u8(0..4) == 0 {
        out.extend_from_slice(b"References:");
        for _ in 0..rng.u8(1..6) {
            put(out, format_args!("\r\n <{:016x}@other.example>", rng.u64(..)));
        }
        out.extend_from_slice(b"\r\n");
    }
    if rng.u8(0..3) == 0 {
        out.extend_from_slice(EXTRAS[rng.usize(..EXTRAS.len())].as_bytes());
    }
}

/// Ends the header and answers how many bytes the body may have besides `fixed` ones; never 1.
fn end_header(plan: &Plan, fixed: usize, out: &mut Vec<u8>) -> usize {
    let left = plan.size_bytes.saturating_sub(out.len() + 2 + fixed);
    if left == 1 {
        // One byte is no line: a space at the end of the last field takes it.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b" \r\n\r\n");
        return 0;
    }
    out.extend_from_slice(b"\r\n");
    left
}

fn write_empty_body(plan: &Plan, out: &mut Vec<u8>) {
    let field = b"X-Filler: of an empty body\r\n";
    let left = plan.size_bytes.saturating_sub(out.len() + 2);
    if left < field.len() + 2 {
        // Too little for a field: spaces at the end of the last one take it.
        out.truncate(out.len() - 2);
        out.extend(std::iter::repeat_n(b' ', left));
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(field);
        let from = out.len();
        // Each line of the filler has at least two letters, so one of them can become the space
        // that folds; a line without any would end the header.
        let mut rest = left - field.len();
        while rest > 0 {
            let line = if rest > 160 { 78 } else { rest.div_ceil(rest.div_ceil(80)) };
            if rest < 4 {
                out.truncate(from - 2);
                out.extend(std::iter::repeat_n(b'x', rest));
                out.extend_from_slice(b"\r\n");
                break;
            }
            let at = out.len();
            fill_plainly(line, out);
            out[at] = b' ';
            rest -= line;
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn write_date(unix_s: u64, out: &mut Vec<u8>) {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let weekday = WEEKDAYS[usize::try_from((days + 4) % 7).expect("below 7")];
    // The dates made here lie within 2026, so its first day and its months suffice.
    let mut day = days - FIRST_DATE_UNIX_S / 86_400;
    let mut month = 0;
    while day >= MONTHS[month].1 {
        day -= MONTHS[month].1;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (day, month) = (day + 1, MONTHS[month].0);
    put(
        out,
        format_args!("{weekday}, {day:02} {month} 2026 {hour:02}:{minute:02}:{second:02} +0000"),
    );
}

/// The first of January 2026, a Thursday.
const FIRST_DATE_UNIX_S: u64 = 1_767_225_600;

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

const MONTHS: [(&str, u64); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];

const NAMES: [&str; 5] = [
    "",
    "A Courier ",
    "\"Courier, Second \\\"of\\\" Edo\" ",
    "=?utf-8?B?6aOb6ISa?= ",
    "Folded\r\n Name (with a comment) ",
];

const SUBJECTS: [&str; 6] = [
    "a letter",
    "a subject that goes on\r\n over a folded line\r\n\tand one more",
    "=?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?B?5p2x5rW36YGT?=",
    "",
    "Re: Re: Fwd: [list] with: colons; and \"quotes\"",
    "trailing spaces   ",
];

const EXTRAS: [&str; 4] = [
    "X-Long: word word word word word word word word word word word word word word word word\r\n",
    "Reply-To: list: <a@other.example>, <b@other.example>;\r\n",
    "List-Unsubscribe: <mailto:leave@other.example>,\r\n <https://other.example/leave>\r\n",
    "Keywords:\r\n one,\r\n two,\r\n\tthree\r\nComments: . starts with a dot\r\n",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ReceivedIdentity;
    use proptest::prelude::*;

    fn generator(seed: u64, size: usize, domains: usize, recipients: u16) -> Generator {
        Generator::new(GeneratorConfig {
            run: 7,
            seed,
            sizes: SizeMix::only(size),
            domains: (0..domains).map(|n| format!("d{n}.example").into()).collect(),
            recipients_per_mail: recipients,
            ..GeneratorConfig::default()
        })
    }

    #[test]
    fn the_same_seed_makes_the_same_mail() {
        let (mut one, mut two) = (generator(1, 3000, 3, 2), generator(1, 3000, 3, 2));
        for _ in 0..50 {
            let (plan, same) = (one.plan(), two.plan());
            assert_eq!(plan, same);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            assert_eq!(one.write(&plan, &mut a), two.write(&same, &mut b));
            assert_eq!(a, b);
        }
    }

    #[test]
    fn sequences_count_each_queue() {
        let mut generator = generator(5, 600, 3, 2);
        let mut seen = std::collections::HashMap::<_, u64>::new();
        for _ in 0..100 {
            for place in generator.plan().places {
                let next = seen.entry(place.queue).or_default();
                assert_eq!(place.sequence, *next);
                *next += 1;
            }
        }
    }

    #[test]
    fn recipients_share_domains_when_there_are_more_of_them() {
        let plan = generator(5, 600, 2, 5).plan();
        assert_eq!(plan.recipients().count(), 5);
        assert_eq!(plan.places.iter().map(|p| p.recipients).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn senders_take_turns_and_some_are_null() {
        let config = GeneratorConfig {
            sender_domains: vec!["a.example".into(), "b.example".into()],
            null_senders: 0.5,
            ..GeneratorConfig::default()
        };
        let mut generator = Generator::new(config);
        let senders: Vec<String> = (0..100).map(|_| generator.plan().sender()).collect();
        let with = |end: &str| senders.iter().filter(|sender| sender.ends_with(end)).count();
        let null = senders.iter().filter(|sender| sender.is_empty()).count();
        assert!(with("@a.example") > 9 && with("@b.example") > 9 && null > 30);
        assert_eq!(with("@a.example") + with("@b.example") + null, 100);
    }

    #[test]
    fn every_shape_comes_up() {
        let mut generator = generator(9, 4000, 1, 1);
        let shapes: Vec<Shape> = (0..300).map(|_| generator.plan().shape).collect();
        for shape in [Shape::Multipart, Shape::EmptyBody, Shape::Body(LineKind::EightBit)] {
            assert!(shapes.contains(&shape), "{shape:?}");
        }
    }

    #[test]
    fn mixes_are_read_and_refused() {
        let mix: SizeMix = "70:1k,30:10k".parse().unwrap();
        assert_eq!(mix.to_string(), "70:1024,30:10240");
        for text in ["", "a:1", "0:5", "1:1g", "70:"] {
            assert!(text.parse::<SizeMix>().is_err(), "{text}");
        }
    }

    #[test]
    fn dates_are_right() {
        let mut out = Vec::new();
        write_date(FIRST_DATE_UNIX_S + 59 * 86_400 + 3_661, &mut out);
        assert_eq!(out, b"Sun, 01 Mar 2026 01:01:01 +0000");
    }

    proptest! {
        #[test]
        fn content_is_mail_of_the_size_asked_for_and_says_who_it_is(
            seed: u64, size in 0_usize..12_000, recipients in 1_u16..8,
        ) {
            let mut generator = generator(seed, size, 5, recipients);
            let plan = generator.plan();
            let mut content = Vec::new();
            let digest = generator.write(&plan, &mut content);
            let header = memchr::memmem::find(&content, b"\r\n\r\n").unwrap() + 4;
            prop_assert!(content.len() == size || (content.len() > size && size < 2000));
            prop_assert!(content.ends_with(b"\r\n"));
            let text = String::from_utf8(content.clone()).unwrap();
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
            prop_assert!(plan.eight_bit || text.is_ascii());
            for line in text[..header - 2].split_terminator("\r\n") {
                prop_assert!(line.starts_with([' ', '\t']) || line.contains(':'), "{:?}", line);
            }

            let mut traced = b"Received: from a by b\r\n\twith c\r\n".to_vec();
            traced.extend_from_slice(&content);
            let found = ReceivedIdentity::find(&traced).unwrap();
            prop_assert_eq!(found.digest_claimed, digest);
            prop_assert_eq!(found.digest_found, digest);
            prop_assert_eq!(found.mail, Some(plan.id));
            let places: Vec<_> = plan.places.iter().map(|p| (&*p.queue, p.sequence)).collect();
            prop_assert_eq!(ReceivedIdentity::places(&content), places);
        }
    }
}
