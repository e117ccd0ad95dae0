//! A document as Markdown.

use std::fmt::Write as _;

use super::document::times;
use super::{Document, Part, Table};

impl Document {
    /// As Markdown: tables without charts.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# {}\n\n{}\n", self.title, self.circumstances);
        if !self.headlines.is_empty() {
            let head = ["", "ours", "the best peer", "ratio (more than 1: ours is better)"];
            let rows = self.headlines.iter().map(|headline| {
                let standing = format!("{:?}, {}", headline.standing(), times(headline.ratio));
                vec![
                    headline.what.clone(),
                    headline.ours.clone(),
                    headline.theirs.clone(),
                    standing,
                ]
            });
            let head = head.map(String::from).to_vec();
            let table = Table { title: String::new(), head, rows: rows.collect() };
            text.push_str(&table_text(&table));
        }
        for Part { title, intro, tables, .. } in &self.parts {
            write!(text, "\n## {title}\n").expect(MEMORY);
            for paragraph in intro {
                write!(text, "\n{paragraph}\n").expect(MEMORY);
            }
            for table in tables {
                if !table.title.is_empty() {
                    write!(text, "\n### {}\n", table.title).expect(MEMORY);
                }
                text.push_str(&table_text(table));
            }
        }
        text
    }
}

const MEMORY: &str = "memory takes every write";

fn table_text(table: &Table) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = String::from("\n");
    text.push_str(&row(&table.head));
    text.push_str(&row(&vec!["---".to_string(); table.head.len()]));
    table.rows.iter().for_each(|cells| text.push_str(&row(cells)));
    text
}
