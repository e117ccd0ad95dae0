//! A document as one page that needs nothing else: no scripts, nothing from elsewhere.

use std::fmt::Write as _;

use super::document::times;
use super::svg::{class, escape};
use super::{Chart, Document, Headline, Part, Standing, Table};

const MEMORY: &str = "memory takes every write";

impl Document {
    /// As a page.
    pub fn to_html(&self) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
            title = escape(&self.title)
        );
        page.push_str("<div class=\"headlines\">\n");
        self.headlines.iter().for_each(|headline| page.push_str(&headline_html(headline)));
        page.push_str("</div>\n");
        writeln!(page, "<p class=\"key\">{KEY}</p>").expect(MEMORY);
        writeln!(page, "<p class=\"key\">{}</p>", escape(&self.circumstances)).expect(MEMORY);
        self.parts.iter().for_each(|part| page.push_str(&part_html(part)));
        page.push_str("</main>\n</body>\n</html>\n");
        page
    }
}

const KEY: &str = "A ratio above 1 means that ours is better. In parentheses its range: our worst round against their best, \
                   and our best against their worst. Ahead or behind is said only where the rounds do not overlap.";

fn headline_html(headline: &Headline) -> String {
    let (class, word) = match headline.standing() {
        Standing::Ahead => ("ahead", "ahead"),
        Standing::Level => ("level", "level"),
        Standing::Behind => ("behind", "behind"),
        Standing::Unclear => ("level", "unclear"),
    };
    format!(
        "<div class=\"headline {class}\"><div class=\"what\">{}</div><div class=\"ratio\">{:.2}× <span>{word}</span></div>\
         <div class=\"range\">{}</div><div>ours {}</div><div>{}</div></div>\n",
        escape(&headline.what),
        headline.ratio.median,
        escape(&times(headline.ratio)),
        escape(&headline.ours),
        escape(&headline.theirs),
    )
}

fn part_html(part: &Part) -> String {
    let mut html = format!("<section>\n<h2>{}</h2>\n", escape(&part.title));
    for paragraph in &part.intro {
        writeln!(html, "<p>{}</p>", escape(paragraph)).expect(MEMORY);
    }
    if !part.charts.is_empty() {
        html.push_str("<div class=\"charts\">\n");
        part.charts.iter().for_each(|chart| html.push_str(&chart_html(chart)));
        html.push_str("</div>\n");
    }
    part.tables.iter().for_each(|table| html.push_str(&table_html(table)));
    html.push_str("</section>\n");
    html
}

fn chart_html(chart: &Chart) -> String {
    let mut html = format!(
        "<figure>\n<figcaption>{} <span>({})</span></figcaption>\n{}<ul class=\"legend\">",
        escape(&chart.title),
        escape(&chart.y),
        chart.to_svg()
    );
    for (line, (name, values)) in chart.lines.iter().enumerate() {
        if values.iter().any(Option::is_some) {
            write!(html, "<li class=\"{}\">{}</li>", class(line), escape(name)).expect(MEMORY);
        }
    }
    html.push_str("</ul>\n</figure>\n");
    html
}

fn table_html(table: &Table) -> String {
    let mut html = String::new();
    if !table.title.is_empty() {
        writeln!(html, "<h3>{}</h3>", escape(&table.title)).expect(MEMORY);
    }
    html.push_str("<div class=\"table\"><table>\n<thead><tr>");
    table.head.iter().for_each(|cell| write!(html, "<th>{}</th>", escape(cell)).expect(MEMORY));
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let tag = if column == 0 { "th" } else { "td" };
            write!(html, "<{tag}>{}</{tag}>", escape(cell)).expect(MEMORY);
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

/// Colours that differ in lightness too, for paper and for those who see colours otherwise.
const STYLE: &str = include_str!("style.css");
