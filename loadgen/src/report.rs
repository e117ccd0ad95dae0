//! What was measured, once for people and once for scripts: the same numbers under the same keys.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Figures in sections, in the order in which they were added.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    sections: Vec<Section>,
}

/// Figures that belong together.
#[derive(Clone, Debug)]
pub struct Section {
    key: String,
    title: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    label: String,
    figure: Figure,
}

#[derive(Clone, Debug)]
enum Figure {
    Count(u64),
    Number { value: f64, unit: &'static str },
    Text(String),
    Flag(bool),
    Latency(Percentiles),
}

/// A latency distribution, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half were faster.
    pub p50_us: f64,
    /// Nine in ten were faster.
    pub p90_us: f64,
    /// 99 in 100 were faster.
    pub p99_us: f64,
    /// 999 in 1000 were faster.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// Durations, by hdrhistogram with three significant digits, from a microsecond's fraction to an hour;
/// longer ones count as an hour.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.percentiles(), f)
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, LONGEST_NANOS, 3).expect("the bounds are right"))
    }
}

impl Latency {
    /// Adds one.
    pub fn record(&mut self, duration: Duration) {
        self.record_many(duration, 1);
    }

    /// Adds so many that took as long.
    pub fn record_many(&mut self, duration: Duration, count: u64) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(nanos.min(LONGEST_NANOS), count);
    }

    /// Adds those of another one.
    pub fn add(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The distribution.
    pub fn percentiles(&self) -> Percentiles {
        let us = |nanos: u64| f64_of(nanos) / 1000.0;
        let at = |quantile| us(self.0.value_at_quantile(quantile));
        Percentiles {
            count: self.0.len(),
            mean_us: self.0.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(self.0.max()),
        }
    }
}

/// An hour.
const LONGEST_NANOS: u64 = 3_600_000_000_000;

impl Report {
    /// An empty one; the name says which command measured.
    pub fn new(name: &str) -> Report {
        Report { name: name.into(), sections: Vec::new() }
    }

    /// Adds a section.
    pub fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// For scripts: an object of objects, by the sections' and figures' keys. Latencies are objects in
    /// microseconds.
    pub fn to_json(&self) -> Value {
        let mut root = Map::new();
        root.insert("report".into(), json!(self.name));
        for section in &self.sections {
            let entries = section.entries.iter().map(|e| (e.key.clone(), e.figure.to_json()));
            root.insert(section.key.clone(), Value::Object(entries.collect()));
        }
        Value::Object(root)
    }

    /// Writes the JSON to a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_json(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(&self.to_json()).expect("figures are plain JSON");
        std::fs::write(path, text + "\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{}: {}", self.name, section.title)?;
            let entries = || section.entries.iter();
            let width = entries().map(|entry| entry.label.chars().count()).max().unwrap_or(0);
            for Entry { label, figure, .. } in entries() {
                writeln!(f, "  {label:width$}  {}", figure.to_text())?;
            }
        }
        Ok(())
    }
}

impl Section {
    /// An empty one: `key` for scripts, `title` for people.
    pub fn new(key: &str, title: &str) -> Section {
        Section { key: key.into(), title: title.into(), entries: Vec::new() }
    }

    fn with(mut self, key: &str, label: &str, figure: Figure) -> Section {
        self.entries.push(Entry { key: key.into(), label: label.into(), figure });
        self
    }

    /// Adds a count.
    #[must_use]
    pub fn count(self, key: &str, label: &str, count: u64) -> Section {
        self.with(key, label, Figure::Count(count))
    }

    /// Adds a number with its unit.
    #[must_use]
    pub fn number(self, key: &str, label: &str, value: f64, unit: &'static str) -> Section {
        self.with(key, label, Figure::Number { value, unit })
    }

    /// Adds words.
    #[must_use]
    pub fn text(self, key: &str, label: &str, text: impl Into<String>) -> Section {
        self.with(key, label, Figure::Text(text.into()))
    }

    /// Adds a yes or no.
    #[must_use]
    pub fn flag(self, key: &str, label: &str, flag: bool) -> Section {
        self.with(key, label, Figure::Flag(flag))
    }

    /// Adds a distribution.
    #[must_use]
    pub fn latency(self, key: &str, label: &str, latency: &Latency) -> Section {
        self.with(key, label, Figure::Latency(latency.percentiles()))
    }
}

impl Figure {
    fn to_json(&self) -> Value {
        match self {
            Figure::Count(count) => json!(count),
            Figure::Number { value, .. } => json!(value),
            Figure::Text(text) => json!(text),
            Figure::Flag(flag) => json!(flag),
            Figure::Latency(p) => json!({
                "count": p.count,
                "mean_us": p.mean_us,
                "p50_us": p.p50_us,
                "p90_us": p.p90_us,
                "p99_us": p.p99_us,
                "p999_us": p.p999_us,
                "max_us": p.max_us,
            }),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Figure::Count(count) => grouped(*count),
            Figure::Number { value, unit } => format!("{} {unit}", rounded(*value)),
            Figure::Text(text) => text.clone(),
            Figure::Flag(true) => "yes".into(),
            Figure::Flag(false) => "no".into(),
            Figure::Latency(Percentiles { count: 0, .. }) => "none measured".into(),
            Figure::Latency(p) => {
                let mut text = format!("mean {}", time(p.mean_us));
                let marks = [
                    ("p50", p.p50_us),
                    ("p90", p.p90_us),
                    ("p99", p.p99_us),
                    ("p99.9", p.p999_us),
                    ("max", p.max_us),
                ];
                for (name, value) in marks {
                    write!(text, ", {name} {}", time(value)).expect("memory takes every write");
                }
                text
            }
        }
    }
}

/// A count as a floating-point number; beyond 2^53 the last digits are lost, which no figure shows.
pub fn f64_of(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "figures show far fewer digits")]
    let value = count as f64;
    value
}

/// How many a second; zero if no time passed.
pub fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { f64_of(count) / time.as_secs_f64() }
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn rounded(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn time(us: f64) -> String {
    if us >= 1_000_000.0 {
        format!("{:.2} s", us / 1_000_000.0)
    } else if us >= 1000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{us:.1} µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_tell_the_same() {
        let mut latency = Latency::default();
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        let mut report = Report::new("test");
        report.add(
            Section::new("mail", "mail sent")
                .count("accepted", "accepted", 1_234_567)
                .number("rate", "a second", 1234.56, "mails/s")
                .flag("clean", "clean", true)
                .latency("dot", "final dot to 250", &latency),
        );
        let json = report.to_json();
        assert_eq!(json["mail"]["accepted"], 1_234_567);
        assert_eq!(json["mail"]["dot"]["count"], 1000);
        assert!((json["mail"]["dot"]["p50_us"].as_f64().unwrap() - 500.0).abs() < 1.0);
        let text = report.to_string();
        assert!(text.contains("accepted          1,234,567"), "{text}");
        assert!(text.contains("1235 mails/s") && text.contains("p50 500."), "{text}");
    }

    #[test]
    fn an_overlong_time_counts_as_an_hour() {
        let mut latency = Latency::default();
        latency.record(Duration::MAX);
        assert!(latency.percentiles().max_us >= 3_500_000_000.0);
    }
}
