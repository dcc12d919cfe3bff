//! The section of the page.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Results;
use super::peers::{From, Kind};
use super::rows::{Better, Row};
use crate::{Bar, Chart, Section, Series, Summary, Table, ratio};

const TEXT: &str = "\
One client, one server, and between them: nothing (both in the same network namespace), slirp4netns' `add_hostfwd`, RootlessKit's builtin port \
driver with podsec's flags, the supervisor and forwarder of u7s with its rules in place. Every peer stands on a host of its own (network and mount namespace) \
and they are measured in turn. Client, server and forwarder share all CPUs of the machine, unpinned: at 64 and 1000 connections the machine \
is full, and what counts is the work per request. A request and its answer are 64 bytes; a short connection is connect, a byte each way, close. CPU is that of all \
processes of the peer, from its cgroup; memory is what their proportional set size grows by, with 1000 connections that carried a request each. A run takes 0.4 s, \
of requests on one connection 2 s, since 400 ms hold no more than four requests beyond p99.9. slirp4netns is frozen while others are measured: \
once its hostfwd has stalled it may use a whole processor, which is then missing for all others.\n";

/// Tables for both places of the client, plots, and all samples.
pub(super) fn section(results: &Results) -> Section {
    let mut section = Section { title: "The port forwarder".into(), text: TEXT.into(), ..Section::default() };
    section.text.push_str(&sources(results));
    for (from, title) in [(From::Host, "Client on the host, by loopback"), (From::Outside, "Client outside")]
    {
        section.tables.push(table(results, from, title));
    }
    if let Some(last) = section.tables.last_mut() {
        last.note = failures(results);
    }
    section.charts = vec![
        chart(
            results,
            "forwarder-throughput",
            "MB/s",
            &["throughput to the namespace, 1 stream", "throughput from the namespace, 1 stream"],
        ),
        chart(
            results,
            "forwarder-rates",
            "1/s",
            &["short connections, 32 at a time", "requests, 64 connections"],
        ),
        chart(
            results,
            "forwarder-cpu",
            "s/GB",
            &["CPU to the namespace, 1 stream", "CPU from the namespace, 1 stream"],
        ),
    ];
    let all = results.samples.iter().flat_map(|(row, of)| of.keys().map(move |kind| (row, kind)));
    section.series = all.map(|(row, kind)| series(results, row, kind)).collect();
    section
}

/// What a service inside sees of its client.
fn sources(results: &Results) -> String {
    let mut text = String::from("\nA service sees a client outside (192.0.2.20 to 192.0.2.27) as:");
    for ((kind, from), seen) in &results.seen_as {
        if *from == From::Outside {
            let _ = write!(text, " {seen} ({kind})");
        }
    }
    text + ".\n"
}

fn kinds(results: &Results) -> Vec<&Kind> {
    results.failures.keys().collect()
}

fn table(results: &Results, from: From, title: &str) -> Table {
    let mut table = Table { title: title.into(), ..Table::default() };
    table.head = vec![String::new(), "unit".into()];
    table.head.extend(kinds(results).iter().map(ToString::to_string));
    table.head.push("u7s better than RootlessKit, times".into());
    for (row, of) in results.samples.iter().filter(|(row, _)| row.order.0 == from) {
        let mut cells = vec![row.title.clone(), row.unit.into()];
        let text = |kind: &&Kind| match of.get(*kind) {
            Some(_) => series(results, row, kind).text(),
            None => "failed".into(),
        };
        cells.extend(kinds(results).iter().map(text));
        cells.push(better(results, row, of));
        table.rows.push(cells);
    }
    table
}

/// How many times better ours is, pair by pair.
fn better(results: &Results, row: &Row, of: &BTreeMap<Kind, Vec<Option<f64>>>) -> String {
    let find = |wanted: fn(&Kind) -> bool| {
        of.keys().find(|kind| wanted(kind)).map(|kind| series(results, row, kind))
    };
    let ours = find(|kind| matches!(kind, Kind::Ours(_)));
    let theirs = find(|kind| matches!(kind, Kind::RootlessKit(_)));
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return "–".into() };
    let summary: Summary = match row.better() {
        Better::Higher => ratio(&ours, &theirs),
        Better::Lower => ratio(&theirs, &ours),
    };
    summary.text()
}

fn series(results: &Results, row: &Row, kind: &Kind) -> Series {
    let place = if row.order.0 == From::Host { "host" } else { "outside" };
    let mut series = Series::new(format!("{kind}, {place}: {}", row.title), row.unit);
    let samples = results.samples.get(row).and_then(|of| of.get(kind));
    samples.into_iter().flatten().for_each(|sample| series.push(*sample));
    series
}

fn chart(results: &Results, name: &str, unit: &str, titles: &[&str]) -> Chart {
    let title = format!("Port forwarder, client on the host: {}", titles.join("; "));
    let mut chart = Chart { name: name.into(), title, unit: unit.into(), bars: Vec::new() };
    for wanted in titles {
        let row = results.samples.iter().find(|(row, _)| row.order.0 == From::Host && row.title == *wanted);
        for (row, kind) in row.into_iter().flat_map(|(row, of)| of.keys().map(move |kind| (row, kind))) {
            let median = series(results, row, kind).summary().median;
            chart.bars.push(Bar::plain(kind.to_string(), *wanted, median));
        }
    }
    chart
}

fn failures(results: &Results) -> String {
    let mut text = String::from("Failed runs and requests:");
    for (kind, failures) in &results.failures {
        let ((runs, all), (parts, requests)) = (failures.runs, failures.parts);
        let _ = write!(text, " {kind} {runs} of {all} runs and {parts} of {requests} requests");
        if let Some(cause) = &failures.cause {
            let _ = write!(text, " (first: {cause})");
        }
        text.push(';');
    }
    text.pop();
    text + ". What failed was not tried again; the peer was started anew."
}
