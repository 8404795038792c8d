//! Figures as one page of HTML that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::csv_file::Results;
use super::figure::{Figure, Unit};
use super::plot::{Plot, Series, escaped};
use super::report::{short, value};
use super::workload::Workload;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;\
background:#fff}table{border-collapse:collapse;margin:1rem 0}th,td{padding:.2rem .7rem;border-bottom:1px solid #ddd;\
text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{width:35rem;max-width:100%;margin:0 \
1rem 1rem 0}svg text{font:11px system-ui,sans-serif;fill:#333}svg .title{font-weight:600;font-size:14px}svg \
.grid{stroke:#e2e2e2}";

/// The whole page.
pub(super) fn page(results: &Results) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>op-engine bench</title><style>{STYLE}</style></head><body>\n\
         <h1>op-engine bench</h1>\n"
    );
    facts(&mut page, results);
    page.push_str("<h2>Plots</h2>\n");
    for plot in plots(&results.figures) {
        match plot.svg() {
            Some(svg) => page.push_str(&svg),
            None => {
                let _ =
                    writeln!(page, "<p>{}: one value of “{}” was measured.</p>", plot.title, plot.x_label);
            }
        }
    }
    figures(&mut page, results);
    page.push_str("</body></html>\n");
    page
}

fn facts(page: &mut String, results: &Results) {
    page.push_str("<table>\n");
    for (name, value) in &results.facts {
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value));
    }
    page.push_str("</table>\n");
}

fn figures(page: &mut String, results: &Results) {
    page.push_str(
        "<h2>Figures</h2>\n<table><tr><th>workload</th><th>figure</th><th class=\"n\">shards</th><th \
         class=\"n\">coins</th><th class=\"n\">median</th><th class=\"n\">range</th><th class=\"n\">of the \
         device</th><th>limit</th><th class=\"n\">CPU us</th><th class=\"n\">device reads</th><th \
         class=\"n\">p50 us</th><th class=\"n\">p99 us</th><th class=\"n\">p99.9 us</th><th \
         class=\"n\">longest us</th><th class=\"n\">resident MiB</th><th class=\"n\">write amp.</th><th \
         class=\"n\">space amp.</th></tr>\n",
    );
    for figure in &results.figures {
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
        let (low, high) = figure.range();
        let percent =
            figure.percent_of_limit().map_or_else(|| "–".to_owned(), |percent| format!("{percent:.0} %"));
        let of = figure.limit.as_ref().map_or("–", |limit| limit.of.as_str());
        let (cost, latency) = (figure.cost, figure.latency);
        let cells = [
            figure.shards.to_string(),
            figure.records.to_string(),
            value(figure.median(), figure.unit),
            format!("{}–{}", short(low), short(high)),
            percent,
        ];
        let _ = write!(page, "<tr><td>{}</td><td>{}</td>", figure.workload, escaped(&figure.name));
        for cell in cells {
            let _ = write!(page, "<td class=\"n\">{cell}</td>");
        }
        let _ = write!(page, "<td>{}</td>", escaped(of));
        let numbers = [
            cost.map(|cost| cost.cpu_micros()),
            cost.map(|cost| cost.device_reads),
            latency.map(|latency| latency.p50),
            latency.map(|latency| latency.p99),
            latency.map(|latency| latency.p999),
            latency.map(|latency| latency.max),
            Some(figure.resident_bytes as f64 / f64::from(1 << 20)),
            figure.write_amplification,
            figure.space_amplification,
        ];
        for cell in numbers {
            let _ = write!(page, "<td class=\"n\">{}</td>", number(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn plots(figures: &[Figure]) -> Vec<Plot> {
    vec![over_depth(figures), latencies(figures), over_records(figures), over_shards(figures)]
}

/// Lines of figures that share a name, from whichever numbers are wanted.
fn series<'a>(
    figures: impl Iterator<Item = &'a Figure>,
    name: impl Fn(&Figure) -> String,
    point: impl Fn(&Figure) -> Option<(f64, f64)>,
) -> Vec<Series> {
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for figure in figures {
        if let Some(point) = point(figure).filter(|(x, y)| *x > 0.0 && y.is_finite()) {
            lines.entry(name(figure)).or_default().push(point);
        }
    }
    lines.into_iter().map(|(name, points)| Series { name, points }).collect()
}

fn store_of(figure: &Figure) -> String {
    match (figure.shards, figure.workload) {
        (0, _) => "bare device".to_owned(),
        (1, workload) => format!("{workload}, 1 shard"),
        (shards, workload) => format!("{workload}, {shards} shards"),
    }
}

fn is_over_depth(figure: &&Figure) -> bool {
    let is_read = figure.workload != Workload::Device || figure.name.contains("reads");
    let workloads = [Workload::Device, Workload::Get, Workload::GetMany];
    is_read && figure.unit == Unit::PerSecond && workloads.contains(&figure.workload)
}

fn over_depth(figures: &[Figure]) -> Plot {
    let point = |figure: &Figure| Some((figure.parameter as f64, figure.median()));
    Plot {
        title: "Reads each second over depth",
        x_label: "in flight",
        y_label: "reads each second",
        y_is_logarithmic: false,
        series: series(figures.iter().filter(is_over_depth), store_of, point),
    }
}

/// Quantiles as one over what lies above them: 2 for the median, 1000 for the 99.9th percentile.
fn latencies(figures: &[Figure]) -> Plot {
    let lines = figures.iter().filter(|figure| figure.shards > 0).filter_map(|figure| {
        let latency = figure.latency?;
        let points = vec![(2.0, latency.p50), (100.0, latency.p99), (1000.0, latency.p999)];
        Some(Series { name: shortened(&figure.name), points })
    });
    Plot {
        title: "Latency distribution",
        x_label: "one of so many is slower",
        y_label: "microseconds",
        y_is_logarithmic: true,
        series: lines.take(16).collect(),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(22).collect()
}

fn over_records(figures: &[Figure]) -> Plot {
    let chosen = [Workload::Get, Workload::GetAbsent, Workload::GetMany, Workload::Ingest];
    let chosen = figures.iter().filter(|figure| chosen.contains(&figure.workload));
    let point = |figure: &Figure| Some((figure.records as f64, figure.cost?.cpu_micros()));
    Plot {
        title: "CPU of one operation as data grows",
        x_label: "coins in the store",
        y_label: "CPU microseconds",
        y_is_logarithmic: true,
        series: series(chosen, |figure| shortened(&figure.name), point),
    }
}

fn over_shards(figures: &[Figure]) -> Plot {
    let chosen =
        [Workload::Get, Workload::GetAbsent, Workload::GetMany, Workload::Ingest, Workload::IngestDeferred];
    let chosen = figures.iter().filter(|figure| {
        chosen.contains(&figure.workload) && figure.unit == Unit::PerSecond && figure.cost.is_some()
    });
    let point = |figure: &Figure| Some((f64::from(figure.shards), figure.median()));
    Plot {
        title: "Operations each second over shards",
        x_label: "shards",
        y_label: "operations each second",
        y_is_logarithmic: true,
        series: series(chosen, |figure| shortened(&figure.name), point),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_shows_names_as_they_are() {
        let figures = [1, 8, 32].map(|depth| Figure {
            parameter: depth,
            ..Figure::new(Workload::Device, "random reads <b>", Unit::PerSecond, vec![depth as f64])
        });
        let results =
            Results { facts: vec![("CPU".to_owned(), "a & b".to_owned())], figures: figures.to_vec() };
        let page = page(&results);
        assert!(
            page.contains("a &amp; b")
                && page.contains("random reads &lt;b&gt;")
                && page.contains("<polyline")
        );
        assert!(!page.contains("http") && !page.contains("<script") && !page.contains("src="));
    }
}
