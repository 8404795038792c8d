//! Figures in a file: facts as comments, then one row a figure.
//!
//! ```text
//! # kernel: 6.18
//! workload,figure,parameter,shards,records,unit,samples,limit,limit_of,user_us,...
//! get,"get, 8 in flight",8,2,300000,1/s,51000 52000 50800,60000,"bare reads, 8 in flight",3.1,...
//! ```

use std::fmt::Write as _;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, WriterBuilder};

use super::figure::{Cost, Figure, Latency, Limit, Unit};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};

const COLUMNS: [&str; 21] = [
    "workload",
    "figure",
    "parameter",
    "shards",
    "records",
    "unit",
    "samples",
    "limit",
    "limit_of",
    "user_us",
    "system_us",
    "device_reads",
    "device_read_bytes",
    "device_written_bytes",
    "p50_us",
    "p99_us",
    "p999_us",
    "max_us",
    "resident_bytes",
    "write_amplification",
    "space_amplification",
];

/// The figures of a run, and what they depend on.
pub(crate) struct Results {
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) figures: Vec<Figure>,
}

impl Results {
    pub(crate) fn save(&self, path: &Path) -> Outcome {
        let text = self.to_text()?;
        std::fs::write(path, text).map_err(|error| Failure::os(format!("write {}", path.display()), error))
    }

    pub(crate) fn load(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Failure::os(format!("read {}", path.display()), error))?;
        Self::from_text(&text).map_err(|what| {
            Failure::Usage(format!("{} is no file of `op-engine bench --csv`: {what}", path.display()))
        })
    }

    fn to_text(&self) -> Outcome<String> {
        let mut text = String::new();
        for (name, value) in &self.facts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# {name}: {}", value.replace(['\n', '\r'], " "));
        }
        let mut writer = WriterBuilder::new().from_writer(Vec::new());
        let failed = |error: csv::Error| Failure::Other(format!("the figures cannot be written: {error}"));
        writer.write_record(COLUMNS).map_err(failed)?;
        for figure in &self.figures {
            writer.write_record(row(figure)).map_err(failed)?;
        }
        let bytes = writer.into_inner().map_err(|error| Failure::Other(error.to_string()))?;
        text.push_str(&String::from_utf8_lossy(&bytes));
        Ok(text)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let facts = text.lines().map_while(|line| line.strip_prefix("# ")?.split_once(": "));
        let facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut reader = ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        let columns = reader.headers().map_err(|error| error.to_string())?;
        if columns.iter().ne(COLUMNS) {
            return Err("its columns are others".to_owned());
        }
        let figures = reader.records().map(|record| {
            let record = record.map_err(|error| error.to_string())?;
            figure(&record).ok_or_else(|| format!("the row {:?} cannot be read", record.as_slice()))
        });
        Ok(Self { facts, figures: figures.collect::<Result<_, _>>()? })
    }
}

fn number(value: f64) -> String {
    format!("{value:.4}")
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, number)
}

fn row(figure: &Figure) -> [String; COLUMNS.len()] {
    let (limit, cost, latency) = (figure.limit.as_ref(), figure.cost, figure.latency);
    let samples: Vec<_> = figure.samples.iter().copied().map(number).collect();
    [
        figure.workload.name(),
        figure.name.clone(),
        figure.parameter.to_string(),
        figure.shards.to_string(),
        figure.records.to_string(),
        figure.unit.name().to_owned(),
        samples.join(" "),
        optional(limit.map(|limit| limit.value)),
        limit.map_or_else(String::new, |limit| limit.of.clone()),
        optional(cost.map(|cost| cost.user_micros)),
        optional(cost.map(|cost| cost.system_micros)),
        optional(cost.map(|cost| cost.device_reads)),
        optional(cost.map(|cost| cost.device_read_bytes)),
        optional(cost.map(|cost| cost.device_written_bytes)),
        optional(latency.map(|latency| latency.p50)),
        optional(latency.map(|latency| latency.p99)),
        optional(latency.map(|latency| latency.p999)),
        optional(latency.map(|latency| latency.max)),
        figure.resident_bytes.to_string(),
        optional(figure.write_amplification),
        optional(figure.space_amplification),
    ]
}

/// Reads the fields of a row in the order of the columns.
struct Fields<'a> {
    record: &'a StringRecord,
    at: usize,
}

impl<'a> Fields<'a> {
    fn text(&mut self) -> Option<&'a str> {
        self.at += 1;
        self.record.get(self.at - 1)
    }

    fn whole<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    /// The outer option is for what cannot be read, the inner one for what is not there.
    fn optional(&mut self) -> Option<Option<f64>> {
        let text = self.text()?;
        if text.is_empty() { Some(None) } else { finite(text).map(Some) }
    }
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

fn figure(record: &StringRecord) -> Option<Figure> {
    let mut fields = Fields { record, at: 0 };
    let workload = Workload::named(fields.text()?)?;
    let name = fields.text()?.to_owned();
    let (parameter, shards, records) = (fields.whole()?, fields.whole()?, fields.whole()?);
    let unit = Unit::named(fields.text()?)?;
    let samples = fields.text()?.split_whitespace().map(finite).collect::<Option<Vec<_>>>()?;
    let (limit, of) = (fields.optional()?, fields.text()?.to_owned());
    let limit = limit.map(|value| Limit { value, of });
    let [user, system, reads, read_bytes, written_bytes] = [(); 5].map(|()| fields.optional());
    let cost = match (user?, system?, reads?, read_bytes?, written_bytes?) {
        (Some(user_micros), Some(system_micros), Some(device_reads), Some(read), Some(written)) => {
            Some(Cost {
                user_micros,
                system_micros,
                device_reads,
                device_read_bytes: read,
                device_written_bytes: written,
            })
        }
        _ => None,
    };
    let [p50, p99, p999, max] = [(); 4].map(|()| fields.optional());
    let latency = match (p50?, p99?, p999?, max?) {
        (Some(p50), Some(p99), Some(p999), Some(max)) => Some(Latency { p50, p99, p999, max }),
        _ => None,
    };
    let resident_bytes = fields.whole()?;
    let (write_amplification, space_amplification) = (fields.optional()?, fields.optional()?);
    Some(Figure {
        workload,
        name,
        parameter,
        shards,
        records,
        unit,
        samples,
        limit,
        cost,
        latency,
        resident_bytes,
        write_amplification,
        space_amplification,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let plain = Figure::new(Workload::Reorg, "reorg", Unit::Millis, vec![1.5, 2.25]);
        let full = Figure {
            parameter: 8,
            shards: 2,
            records: 100,
            limit: Some(Limit { value: 3.5, of: "a, b \"c\"".to_owned() }),
            cost: Some(Cost { user_micros: 1.0, device_reads: 0.25, ..Cost::default() }),
            latency: Some(Latency { p50: 1.0, p99: 2.0, p999: 3.0, max: 4.0 }),
            write_amplification: Some(2.5),
            ..Figure::new(Workload::Get, "get, 8 in flight", Unit::PerSecond, vec![7.0])
        };
        Results { facts: vec![("kernel".to_owned(), "6.1: new".to_owned())], figures: vec![plain, full] }
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let results = results();
        let back = Results::from_text(&results.to_text().unwrap()).unwrap();
        assert_eq!((back.facts, back.figures), (results.facts, results.figures));
    }

    #[test]
    fn other_files_are_refused() {
        let text = results().to_text().unwrap();
        assert!(Results::from_text("a,b\n1,2\n").is_err());
        assert!(Results::from_text(&text.replace("1.5000", "much")).is_err());
        assert!(Results::from_text(&text.replace("1/s", "furlongs")).is_err());
        assert!(Results::from_text("").is_err());
    }
}
