//! The page: docs/benchmarks.md and its plots, from all sections that are kept.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::{Error, Kept, Table, store, svg};

const HEAD: &str = "# Benchmarks\n\n\
    How quickly a node stands, beside what else there is. `scripts/bench` makes this page and its plots; do not edit them.\n\
    `scripts/bench --only SECTION` measures one section again. Times are wall-clock; numbers are medians with quartiles in\n\
    parentheses; ratios are taken pair by pair, from runs that follow each other.\n\
    [Decision 12](decisions/0012-benchmarks.md) says how it is measured and why that is fair.\n";

/// Writes the page and one plot for each chart.
pub(crate) fn render(out: &Path, names: &[&str]) -> Result<(), Error> {
    let mut kept = Vec::new();
    for name in names {
        kept.extend(store::read(out, name)?.map(|kept| (*name, kept)));
    }
    let mut text = HEAD.to_owned();
    text += &machines(&kept);
    for (name, kept) in &kept {
        text += &section(name, kept);
        for chart in &kept.section.charts {
            let path = out.join("benchmarks").join(format!("{}.svg", chart.name));
            fs::write(&path, svg::draw(chart)).map_err(Error::file("writing", path))?;
        }
    }
    let path = out.join("benchmarks.md");
    fs::write(&path, text).map_err(Error::file("writing", path))
}

/// Where and when, once for all sections that agree.
fn machines(kept: &[(&str, Kept)]) -> String {
    let mut text = String::from("\n## Where, when, with what\n\n");
    let mut facts: Vec<(&String, &String, Vec<&str>)> = Vec::new();
    for (name, kept) in kept {
        for (fact, value) in &kept.origin.facts {
            match facts.iter_mut().find(|(other, same, _)| (*other, *same) == (fact, value)) {
                Some((_, _, names)) => names.push(name),
                None => facts.push((fact, value, vec![name])),
            }
        }
    }
    text += "| | | |\n|---|---|---|\n";
    for (fact, value, names) in facts {
        let whose = if names.len() == kept.len() { String::new() } else { names.join(", ") };
        let _ = writeln!(text, "| {fact} | {} | {whose} |", cell(value));
    }
    text += "\n| section | measured (UTC) | load before, after | busy before, after | stolen | a process, ms | spread |\n|---|---|---|---|--:|--:|--:|\n";
    for (name, kept) in kept {
        let origin = &kept.origin;
        let noise = origin.noise();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {:.0} % |",
            origin.date,
            origin.load.join(", "),
            origin.busy.iter().map(|busy| format!("{busy:.2}")).collect::<Vec<_>>().join(", "),
            origin.stolen.map_or_else(String::new, |stolen| format!("{:.1} %", stolen * 100.0)),
            noise.text(),
            noise.spread() * 100.0
        );
    }
    text + "\nHow noisy a run was: a program that does nothing is started and waited for before and after each section; the spread is the\n\
        distance of the quartiles of that time as a part of its median. *Busy* is how many processors others used during a second in\n\
        which the benchmark did nothing: a program that uses one processor is not felt by a process that is started on another,\n\
        and changes what a woken thread waits for ([decision 11](decisions/0011-forwarder-speed.md)). *Stolen* is the part of all\n\
        processors' time in which the section had something to run and the hypervisor ran somebody else. Near 0 the machine was quiet.\n"
}

fn section(name: &str, kept: &Kept) -> String {
    let section = &kept.section;
    let mut text = format!("\n## {}\n\n", section.title);
    if kept.origin.quick {
        text += "**A quick run: it shows that everything works, the numbers mean nothing.**\n\n";
    }
    if !section.text.is_empty() {
        text += section.text.trim_end();
        text += "\n";
    }
    for chart in &section.charts {
        let _ = writeln!(text, "\n![{}](benchmarks/{}.svg)", chart.title, chart.name);
    }
    for table in &section.tables {
        text += &render_table(table);
    }
    let _ = writeln!(text, "\n`scripts/bench --only {name}` measures this section again.");
    text
}

fn render_table(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = format!("\n**{}**\n\n{}", table.title, line(&table.head));
    text += &format!("|---|{}\n", "--:|".repeat(table.head.len().saturating_sub(1)));
    text.extend(table.rows.iter().map(|row| line(row)));
    if !table.note.is_empty() {
        let _ = write!(text, "\n{}\n", table.note.trim_end());
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bar, Chart, Origin, Section};

    fn kept(title: &str, commit: &str) -> Kept {
        let mut table = Table::new("Numbers", ["what", "ms"]);
        table.row(["a|b".into(), "1".into()]);
        let chart = Chart {
            name: "c".into(),
            title: "C".into(),
            unit: "ms".into(),
            bars: vec![Bar::plain("x", "y", 1.0)],
        };
        let section =
            Section { title: title.into(), tables: vec![table], charts: vec![chart], ..Section::default() };
        let facts = vec![("kernel".into(), "6".into()), ("u7s".into(), commit.into())];
        Kept { origin: Origin { facts, ..Origin::default() }, section }
    }

    #[test]
    fn a_run_of_one_section_keeps_the_others() {
        let out = tempfile::tempdir().unwrap();
        store::write(out.path(), "one", &kept("One", "c1")).unwrap();
        store::write(out.path(), "two", &kept("Two", "c1")).unwrap();
        store::write(out.path(), "two", &kept("Two again", "c2")).unwrap();
        render(out.path(), &["one", "two", "three"]).unwrap();
        let page = fs::read_to_string(out.path().join("benchmarks.md")).unwrap();
        assert!(
            page.contains("## One\n") && page.contains("## Two again\n") && !page.contains("## Two\n"),
            "{page}"
        );
        assert!(page.contains("| kernel | 6 |  |\n| u7s | c1 | one |\n| u7s | c2 | two |\n"), "{page}");
        assert!(page.contains("| what | ms |\n|---|--:|\n| a\\|b | 1 |\n"), "{page}");
        assert!(out.path().join("benchmarks/c.svg").exists());
    }
}
