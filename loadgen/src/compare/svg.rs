//! Charts, drawn into the page.

use std::fmt::Write as _;

use super::document::{mark, number};
use super::{Chart, Spread};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
/// For the values at the left, and what stands below the steps.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Between two lines of text.
const LINE: f64 = 14.0;
/// So many characters have room beside each other below the steps.
const CHARACTERS_ABREAST: usize = 90;
const MEMORY: &str = "memory takes every write";

/// Lines are told apart by colour and by dashes: so many colours of the page, then again with dashes.
pub(super) const COLOURS: usize = 7;

impl Chart {
    /// As an SVG element; colours are the page's, by classes `c0`….
    pub(super) fn to_svg(&self) -> String {
        let scale = Scale::of(self);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n",
            self.height(),
            escape(&self.title)
        );
        for value in scale.marks() {
            let y = scale.y(value);
            let (right, text_y) = (WIDTH - RIGHT, y + 4.0);
            writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>"
            )
            .expect(MEMORY);
            let (x, text) = (LEFT - 6.0, short(value));
            writeln!(svg, "<text x=\"{x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{text}</text>")
                .expect(MEMORY);
        }
        for (place, step) in self.steps.iter().enumerate() {
            self.name_step(&mut svg, place, step);
        }
        let (middle, y) = ((LEFT + WIDTH - RIGHT) / 2.0, self.height() - 8.0);
        let x = escape(&self.x);
        writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\" class=\"axis\">{x}</text>"
        )
        .expect(MEMORY);
        for (line, (name, values)) in self.lines.iter().enumerate() {
            self.draw(&mut svg, &scale, line, name, values);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// What stands below a step, in lines as it has commas: a workload is long.
    fn name_step(&self, svg: &mut String, place: usize, step: &str) {
        let x = self.x_of(place);
        for (line, words) in self.label(place, step).split(", ").enumerate() {
            let y = HEIGHT - BOTTOM + 16.0 + LINE * crate::report::f64_of(line as u64);
            let words = escape(words);
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{words}</text>")
                .expect(MEMORY);
        }
    }

    /// Where there are too many long steps to stand beside each other, the number of the table's row.
    fn label(&self, place: usize, step: &str) -> String {
        let longest = self
            .steps
            .iter()
            .flat_map(|step| step.split(", "))
            .map(|words| words.chars().count())
            .max();
        let is_crowded = self.steps.len() * longest.unwrap_or(0) > CHARACTERS_ABREAST;
        if is_crowded { format!("row {}", place + 1) } else { step.into() }
    }

    fn height(&self) -> f64 {
        let labels = self.steps.iter().enumerate().map(|(place, step)| self.label(place, step));
        let lines = labels.map(|label| label.split(", ").count()).max().unwrap_or(1);
        HEIGHT + LINE * crate::report::f64_of(lines.max(1) as u64 - 1)
    }

    fn x_of(&self, place: usize) -> f64 {
        let span = WIDTH - LEFT - RIGHT;
        let count = crate::report::f64_of(self.steps.len().max(1) as u64);
        LEFT + span * (crate::report::f64_of(place as u64) + 0.5) / count
    }

    fn draw(
        &self,
        svg: &mut String,
        scale: &Scale,
        line: usize,
        name: &str,
        values: &[Option<Spread>],
    ) {
        let class = class(line);
        let mut points = String::new();
        for (place, value) in values.iter().enumerate() {
            let Some(Spread { median, low, high, cores }) = *value else { continue };
            let (x, y) = (self.x_of(place), scale.y(median));
            write!(points, "{x:.1},{y:.1} ").expect(MEMORY);
            let (top, bottom) = (scale.y(high), scale.y(low));
            writeln!(svg, "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>")
                .expect(MEMORY);
            let tip = format!(
                "{}, {}: {} {}{}",
                escape(name),
                escape(&self.steps[place]),
                number(median),
                escape(&self.y),
                mark(cores)
            );
            writeln!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{tip}</title></circle>")
                .expect(MEMORY);
        }
        writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.trim_end())
            .expect(MEMORY);
    }
}

/// The classes of a line, for the chart and for its legend.
pub(super) fn class(line: usize) -> String {
    let dashed = if line >= COLOURS { " dashed" } else { "" };
    format!("c{}{dashed}", line % COLOURS)
}

/// From values to heights.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(chart: &Chart) -> Scale {
        let values = || chart.lines.iter().flat_map(|(_, values)| values.iter().flatten());
        // What is not above zero has no place where equal distances are equal ratios.
        let lows = values().map(|spread| spread.low).filter(|&low| low > 0.0);
        let low = lows.fold(f64::INFINITY, f64::min);
        let high = values().map(|spread| spread.high).fold(0.0, f64::max);
        if !low.is_finite() || high <= 0.0 {
            return Scale { low: 0.0, high: 1.0, logarithmic: false };
        }
        match chart.logarithmic {
            true => Scale { low: low * 0.8, high: high * 1.25, logarithmic: true },
            false => Scale { low: 0.0, high: high * 1.1, logarithmic: false },
        }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    }

    /// Round values within it.
    fn marks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..5).map(|step| self.high * f64::from(step) / 5.0).collect();
        }
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 2.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut marks = Vec::new();
        let mut decade = 10_f64.powf(self.low.log10().floor());
        while decade <= self.high {
            marks.extend(steps.iter().map(|step| step * decade));
            decade *= 10.0;
        }
        marks.retain(|&mark| mark >= self.low && mark <= self.high);
        marks
    }
}

/// A value in few characters.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0} M", v / 1e6),
        v if v >= 1e3 => format!("{:.0} k", v / 1e3),
        v if v >= 1.0 => format!("{v:.0}"),
        0.0 => "0".into(),
        v => format!("{v}"),
    }
}

/// Text within the page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
