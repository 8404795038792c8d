//! Two files of figures side by side, and which of the differences are more than noise.

use super::csv_file::Results;
use super::figure::Figure;
use super::report::value;
use crate::cli::failure::Outcome;
use crate::cli::show::{Out, plural, wide_table};

/// Less than this is not called a difference, whatever the samples say: figures of one build drift that much.
const NOISE_PERCENT: f64 = 15.0;

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
    /// There are too few samples to tell.
    Unknown,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "BETTER",
            Self::Worse => "WORSE",
            Self::Unknown => "one sample",
        }
    }
}

/// By how many per cent a figure grew.
fn growth(old: &Figure, new: &Figure) -> f64 {
    if old.median() == 0.0 { 0.0 } else { (new.median() / old.median() - 1.0) * 100.0 }
}

/// A difference counts if it is larger than the drift and no sample of one run lies among those of the other.
fn verdict(old: &Figure, new: &Figure) -> Verdict {
    if old.samples.len().min(new.samples.len()) < 2 {
        return Verdict::Unknown;
    }
    let growth = growth(old, new);
    let (old_range, new_range) = (old.range(), new.range());
    let apart = old_range.1 < new_range.0 || new_range.1 < old_range.0;
    if !apart || growth.abs() < NOISE_PERCENT {
        Verdict::Same
    } else if (growth > 0.0) == old.unit.more_is_better() {
        Verdict::Better
    } else {
        Verdict::Worse
    }
}

fn is_same_measurement(old: &Figure, new: &Figure) -> bool {
    let of = |it: &Figure| (it.workload, it.name.clone(), it.shards, it.records, it.unit);
    of(old) == of(new)
}

/// Prints both runs, first what differs of their machines.
pub(crate) fn show(old: &Results, new: &Results, out: &mut Out) -> Outcome {
    for (name, value) in &new.facts {
        let before = old.facts.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        let before = before.unwrap_or("not told");
        if before == value {
            out.line(format_args!("{name:<34} {value}"))?;
        } else {
            out.line(format_args!("{name:<34} {before}  ->  {value}"))?;
        }
    }
    out.line("")?;
    let mut rows = wide_table(&["workload", "figure", "shards>", "old>", "new>", "change>", "verdict"]);
    let (mut compared, mut differing) = (0_u64, 0_u64);
    for figure in &new.figures {
        let Some(before) = old.figures.iter().find(|before| is_same_measurement(before, figure)) else {
            continue;
        };
        let verdict = verdict(before, figure);
        compared += 1;
        differing += u64::from(matches!(verdict, Verdict::Better | Verdict::Worse));
        rows.add_row([
            figure.workload.name(),
            figure.name.clone(),
            figure.shards.to_string(),
            value(before.median(), figure.unit),
            value(figure.median(), figure.unit),
            format!("{:+.0} %", growth(before, figure)),
            verdict.name().to_owned(),
        ]);
    }
    out.table("", &rows)?;
    out.line(format_args!("{} compared, {differing} different", plural(compared, "figure")))
}

#[cfg(test)]
mod tests {
    use super::super::figure::Unit;
    use super::super::workload::Workload;
    use super::*;

    fn figure(unit: Unit, samples: &[f64]) -> Figure {
        Figure::new(Workload::Get, "", unit, samples.to_vec())
    }

    #[test]
    fn only_differences_beyond_noise_are_called_so() {
        let old = figure(Unit::PerSecond, &[90.0, 100.0, 110.0]);
        let judged = |samples| verdict(&old, &figure(Unit::PerSecond, samples));
        assert_eq!(judged(&[111.0, 112.0, 113.0]), Verdict::Same, "apart, but close");
        assert_eq!(judged(&[105.0, 150.0, 160.0]), Verdict::Same, "far, but not apart");
        assert_eq!(judged(&[140.0, 150.0, 160.0]), Verdict::Better);
        assert_eq!(judged(&[40.0, 50.0, 60.0]), Verdict::Worse);
        let old = figure(Unit::Millis, &[1.0, 1.1]);
        assert_eq!(verdict(&old, &figure(Unit::Millis, &[2.0, 2.1])), Verdict::Worse);
    }
}
