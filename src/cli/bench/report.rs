//! Figures on a terminal.

use comfy_table::Table;

use super::csv_file::Results;
use super::figure::{Figure, Unit};
use crate::cli::failure::Outcome;
use crate::cli::show::{Out, bytes, wide_table};

/// A value with its unit.
pub(crate) fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond => format!("{}/s", short(value)),
        Unit::BytesPerSecond => format!("{} MiB/s", short(value / f64::from(1 << 20))),
        Unit::Millis => format!("{} ms", short(value)),
    }
}

/// Three digits that count, or all before the point.
pub(crate) fn short(value: f64) -> String {
    if value >= 10_000.0 {
        let whole = format!("{value:.0}");
        let (head, tail) = whole.split_at(whole.len().saturating_sub(3));
        return if head.len() > 3 {
            let (first, second) = head.split_at(head.len() - 3);
            format!("{first},{second},{tail}")
        } else {
            format!("{head},{tail}")
        };
    }
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.0005 || value == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), short)
}

/// A figure in one line, for those who watch.
pub(crate) fn line(figure: &Figure) -> String {
    let of_limit = figure
        .percent_of_limit()
        .map_or_else(String::new, |percent| format!("  {percent:.0} % of the device"));
    format!(
        "{:<16} {:<52} {:>16}{of_limit}",
        figure.workload,
        figure.name,
        value(figure.median(), figure.unit)
    )
}

/// Facts and tables.
pub(crate) fn show(results: &Results, out: &mut Out) -> Outcome {
    for (name, value) in &results.facts {
        out.line(format_args!("{name:<34} {value}"))?;
    }
    out.line("")?;
    out.table("Figures: medians, and what the bare device would reach", &figures(results))?;
    out.table("Latencies in microseconds", &latencies(results))?;
    out.table("Cost of one operation", &costs(results))
}

fn place(figure: &Figure) -> String {
    if figure.shards == 0 {
        "-".to_owned()
    } else {
        format!("{} x {}", figure.shards, short_count(figure.records))
    }
}

fn short_count(count: u64) -> String {
    match count {
        count if count >= 1_000_000 && count.is_multiple_of(100_000) => format!("{}m", count as f64 / 1e6),
        count if count >= 1_000 => format!("{}k", count / 1_000),
        count => count.to_string(),
    }
}

fn figures(results: &Results) -> Table {
    let mut rows = wide_table(&["workload", "figure", "store", "median>", "range>", "device>", "reached>"]);
    for figure in &results.figures {
        let (low, high) = figure.range();
        rows.add_row([
            figure.workload.name(),
            figure.name.clone(),
            place(figure),
            value(figure.median(), figure.unit),
            format!("{}-{}", short(scaled(low, figure.unit)), short(scaled(high, figure.unit))),
            figure.limit.as_ref().map_or_else(|| "-".to_owned(), |limit| value(limit.value, figure.unit)),
            figure.percent_of_limit().map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %")),
        ]);
    }
    rows
}

fn scaled(value: f64, unit: Unit) -> f64 {
    if unit == Unit::BytesPerSecond { value / f64::from(1 << 20) } else { value }
}

fn latencies(results: &Results) -> Table {
    let mut rows = wide_table(&["figure", "store", "p50>", "p99>", "p99.9>", "longest>"]);
    for figure in &results.figures {
        if let Some(latency) = figure.latency {
            let [p50, p99, p999, max] = [latency.p50, latency.p99, latency.p999, latency.max].map(short);
            rows.add_row([figure.name.clone(), place(figure), p50, p99, p999, max]);
        }
    }
    rows
}

fn costs(results: &Results) -> Table {
    let mut rows = wide_table(&[
        "figure",
        "store",
        "user us>",
        "system us>",
        "device reads>",
        "bytes written>",
        "resident>",
        "write amp.>",
        "space amp.>",
    ]);
    for figure in &results.figures {
        let cost = figure.cost;
        if cost.is_none() && figure.write_amplification.is_none() {
            continue;
        }
        rows.add_row([
            figure.name.clone(),
            place(figure),
            optional(cost.map(|cost| cost.user_micros)),
            optional(cost.map(|cost| cost.system_micros)),
            optional(cost.map(|cost| cost.device_reads)),
            optional(cost.map(|cost| cost.device_written_bytes)),
            bytes(figure.resident_bytes),
            optional(figure.write_amplification),
            optional(figure.space_amplification),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_what_counts() {
        let shown = [0.0, 0.0004, 1.234, 56.78, 123.4, 9_999.0, 12_345.6, 1_234_567.0].map(short);
        assert_eq!(shown, ["0.00", "0.0004", "1.23", "56.8", "123", "9999", "12,346", "1,234,567"]);
    }
}
