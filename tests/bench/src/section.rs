//! What a section of the page holds.

use serde::{Deserialize, Serialize};

use crate::Series;

/// One part of the page.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Markdown before the tables: what was compared, and what the result is.
    pub text: String,
    /// Shown in this order.
    pub tables: Vec<Table>,
    /// Plots, each a file of its own beside the page.
    pub charts: Vec<Chart>,
    /// All samples behind the tables; they are kept, not shown.
    pub series: Vec<Series>,
}

/// Rows of text; the first column is aligned to the left, the others to the right.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Table {
    /// A line above it.
    pub title: String,
    /// Headings.
    pub head: Vec<String>,
    /// As many cells each as there are headings.
    pub rows: Vec<Vec<String>>,
    /// Markdown below it, may be empty.
    pub note: String,
}

/// Horizontal bars, stacked from parts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Chart {
    /// Name of the file without ".svg": letters, digits and dashes.
    pub name: String,
    /// Above the plot.
    pub title: String,
    /// Unit of the values.
    pub unit: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar: parts of the same name have the same colour in all bars of a chart.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bar {
    /// At its left.
    pub label: String,
    /// Name and length of each part, from the left.
    pub parts: Vec<(String, f64)>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new<const N: usize>(title: impl Into<String>, head: [&str; N]) -> Self {
        Self { title: title.into(), head: head.map(String::from).into(), ..Self::default() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl Bar {
    /// A bar of one part.
    #[must_use]
    pub fn plain(label: impl Into<String>, part: impl Into<String>, length: f64) -> Self {
        Self { label: label.into(), parts: vec![(part.into(), length)] }
    }

    /// Its whole length.
    #[must_use]
    pub fn length(&self) -> f64 {
        self.parts.iter().map(|(_, length)| length).sum()
    }
}
