//! Draws a chart: horizontal bars stacked from parts, with a scale, values and a legend; readable on light and dark.

use std::fmt::Write as _;

use crate::numbers::short;
use crate::{Bar, Chart};

/// Sizes in pixels.
const WIDTH: f64 = 860.0;
const LABELS: f64 = 300.0;
const VALUES: f64 = 70.0;
const ROW: f64 = 26.0;
const THICK: f64 = 18.0;
const HEAD: f64 = 40.0;
const LEGEND: f64 = 22.0;
/// Average width of a letter at 12 px.
const LETTER: f64 = 6.8;

/// Middle tones, told apart also by those who do not see all colours.
/// Source: Okabe and Ito, "Color Universal Design".
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#b8a800"];

const STYLE: &str = "text{font:12px sans-serif;fill:#1f2328}.t{font-weight:bold;font-size:14px}\
    .g{stroke:#d0d7de}.r{text-anchor:end}.m{text-anchor:middle}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{stroke:#3d444d}}";

/// The chart as a file's text.
pub(crate) fn draw(chart: &Chart) -> String {
    let parts = names(&chart.bars);
    let legend = legend(&parts);
    let (lines, legend_text) = (legend.0, legend.1);
    let bottom = HEAD + ROW * count(chart.bars.len());
    let height = bottom + 26.0 + LEGEND * lines;
    let longest = chart.bars.iter().map(Bar::length).fold(0.0, f64::max);
    let top = if longest > 0.0 { longest } else { 1.0 };
    let scale = (WIDTH - LABELS - VALUES) / top;
    let left = overhang(&chart.bars);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{0:.0} 0 {1:.0} {height}\" width=\"{1:.0}\" height=\"{height}\" \
         role=\"img\">\n<title>{2}</title>\n<style>{STYLE}</style>\n<text class=\"t\" x=\"{3:.0}\" y=\"20\">{2}</text>\n",
        -left,
        WIDTH + left,
        plain(&chart.title),
        4.0 - left
    );
    svg += &grid(top, scale, bottom, &chart.unit);
    for (row, bar) in chart.bars.iter().enumerate() {
        svg += &draw_bar(bar, HEAD + ROW * count(row), scale, &parts);
    }
    let _ = write!(svg, "<g transform=\"translate(0 {:.0})\">{legend_text}</g>\n</svg>\n", bottom + 26.0);
    svg
}

/// How far the longest label reaches beyond its column: the picture begins there.
fn overhang(bars: &[Bar]) -> f64 {
    let letters = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
    (LETTER * count(letters) + 12.0 - LABELS).max(0.0)
}

/// Names of parts in the order of their first appearance.
fn names(bars: &[Bar]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in bars.iter().flat_map(|bar| &bar.parts) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn draw_bar(bar: &Bar, y: f64, scale: f64, parts: &[&str]) -> String {
    let middle = y + THICK / 2.0 + 4.0;
    let mut text = format!(
        "<text class=\"r\" x=\"{:.0}\" y=\"{middle:.0}\">{}</text>\n",
        LABELS - 8.0,
        plain(&bar.label)
    );
    let mut x = LABELS;
    for (name, length) in &bar.parts {
        let width = (length * scale).max(0.0);
        let colour = parts.iter().position(|part| part == name).map_or(COLOURS[0], colour);
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{THICK}\" fill=\"{colour}\">\
             <title>{}: {}</title></rect>",
            plain(name),
            short(*length)
        );
        x += width;
    }
    let _ = writeln!(text, "<text x=\"{:.1}\" y=\"{middle:.0}\">{}</text>", x + 6.0, short(bar.length()));
    text
}

/// Lines at round values with their numbers below.
fn grid(top: f64, scale: f64, bottom: f64, unit: &str) -> String {
    let step = step(top);
    let mut text = String::new();
    let mut value = 0.0;
    while value <= top {
        let x = LABELS + value * scale;
        let _ = writeln!(
            text,
            "<line class=\"g\" x1=\"{x:.1}\" y1=\"{:.0}\" x2=\"{x:.1}\" y2=\"{bottom:.0}\"/>\
             <text class=\"m\" x=\"{x:.1}\" y=\"{:.0}\">{}</text>",
            HEAD - 6.0,
            bottom + 14.0,
            plain_number(value)
        );
        value += step;
    }
    let _ = writeln!(
        text,
        "<text class=\"r\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
        WIDTH - 4.0,
        bottom + 14.0,
        plain(unit)
    );
    text
}

/// 1, 2 or 5 times a power of ten: four to ten lines.
fn step(top: f64) -> f64 {
    let power = 10_f64.powf((top / 4.0).log10().floor());
    [5.0, 2.0].iter().map(|factor| factor * power).find(|step| top / step >= 4.0).unwrap_or(power)
}

/// How many lines it takes, and the text.
fn legend(parts: &[&str]) -> (f64, String) {
    let (mut x, mut y, mut text) = (LABELS, 0.0, String::new());
    for (place, name) in parts.iter().enumerate() {
        let width = 24.0 + LETTER * count(name.chars().count());
        if x + width > WIDTH && x > LABELS {
            (x, y) = (LABELS, y + LEGEND);
        }
        let _ = write!(
            text,
            "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            colour(place),
            x + 17.0,
            y + 10.0,
            plain(name)
        );
        x += width + 12.0;
    }
    (y / LEGEND + 1.0, text)
}

fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

fn plain_number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "a count of bars or letters")]
fn count(number: usize) -> f64 {
    number as f64
}

fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_plot_and_others_are_in_proportion() {
        let bar = |label: &str, parts: &[(&str, f64)]| Bar {
            label: label.into(),
            parts: parts.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect(),
        };
        let bars = vec![bar("a & b", &[("clone", 1.0), ("mounts", 3.0)]), bar("c", &[("mounts", 2.0)])];
        let svg = draw(&Chart { name: "x".into(), title: "T <1>".into(), unit: "ms".into(), bars });
        let full = WIDTH - LABELS - VALUES;
        assert!(svg.contains(&format!("width=\"{:.1}\"", full * 0.75)), "{svg}");
        assert!(svg.contains(&format!("width=\"{:.1}\"", full * 0.5)), "{svg}");
        assert!(svg.contains("a &amp; b") && svg.contains("T &lt;1&gt;"));
        assert_eq!(svg.matches(">mounts</text>").count(), 1, "one entry in the legend");
    }

    #[test]
    fn a_long_label_is_not_cut_off() {
        let bar = Bar { label: "m".repeat(100), parts: vec![("x".into(), 1.0)] };
        let svg = draw(&Chart { name: "x".into(), title: "T".into(), unit: "ms".into(), bars: vec![bar] });
        assert!(svg.contains("viewBox=\"-392 0 1252 "), "{svg}");
    }

    #[test]
    fn scales_are_round() {
        assert_eq!([step(9.0), step(96.0), step(0.5), step(40.0)], [2.0, 20.0, 0.1, 10.0]);
    }
}
