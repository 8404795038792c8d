//! Plots as SVG, drawn without a script so that a page of them can be kept and sent around.

use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Distinct to most eyes, those that see no red or green included (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"];

/// One line of a plot.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot of lines, with a logarithmic axis below, because depths and sizes double.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) x_label: &'static str,
    pub(super) y_label: &'static str,
    pub(super) y_is_logarithmic: bool,
    pub(super) series: Vec<Series>,
}

/// One axis, from values to places.
struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, is_logarithmic: bool, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        let low = if is_logarithmic { low.max(1e-6) } else { 0.0 };
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, is_logarithmic, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = if self.is_logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (self.to - self.from) * part
    }

    /// Round values to write beside the axis.
    fn ticks(&self) -> Vec<f64> {
        if self.is_logarithmic {
            let factor: f64 = if self.high / self.low > 1000.0 { 10.0 } else { 2.0 };
            let first = factor.powf((self.low.ln() / factor.ln()).ceil());
            return std::iter::successors(Some(first), |tick| Some(tick * factor))
                .take_while(|tick| *tick <= self.high * 1.001)
                .collect();
        }
        let rough = self.high / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        std::iter::successors(Some(0.0), |tick| Some(tick + step))
            .take_while(|tick| *tick <= self.high)
            .collect()
    }
}

/// A number as short as an axis needs it.
fn tick_text(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}m", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{}", (value * 1e4).round() / 1e4),
    }
}

/// What HTML would take for its own is written as entities.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Plot {
    /// The picture, or nothing if no line has two points.
    pub(super) fn svg(&self) -> Option<String> {
        let drawn: Vec<_> = self.series.iter().filter(|series| series.points.len() > 1).collect();
        if drawn.is_empty() {
            return None;
        }
        let points = drawn.iter().flat_map(|series| series.points.iter().copied());
        let x = Axis::new(points.clone().map(|(x, _)| x), true, LEFT, WIDTH - RIGHT);
        let y = Axis::new(points.map(|(_, y)| y), self.y_is_logarithmic, HEIGHT - BOTTOM, TOP);
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", self.title);
        self.draw_frame(&mut svg, &x, &y);
        for (number, (series, colour)) in drawn.iter().zip(COLOURS.iter().cycle()).enumerate() {
            draw_line(&mut svg, series, colour, &x, &y);
            let at = TOP + 16.0 * number as f64 + 8.0;
            let left = WIDTH - RIGHT + 12.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
                 <text x=\"{:.0}\" y=\"{at:.0}\">{}</text>",
                at - 9.0,
                left + 15.0,
                escaped(&series.name)
            );
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }

    fn draw_frame(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"18\" class=\"title\">{}</text>", self.title);
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" class=\"grid\"/>\
                 <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                tick_text(tick)
            );
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" class=\"grid\"/>\
                 <text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                tick_text(tick)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {:.0}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 10.0,
            self.x_label,
            f64::midpoint(TOP, bottom),
            self.y_label
        );
    }
}

fn draw_line(svg: &mut String, series: &Series, colour: &str, x: &Axis, y: &Axis) {
    let mut points = series.points.clone();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let places: Vec<_> = points.iter().map(|(a, b)| (x.place(*a), y.place(*b))).collect();
    let path: Vec<_> = places.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
    let path = path.join(" ");
    let _ =
        writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    for (a, b) in places {
        let _ = writeln!(svg, "<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let series = vec![Series { name: "a<b".to_owned(), points }];
        Plot { title: "t", x_label: "x", y_label: "y", y_is_logarithmic: false, series }
    }

    #[test]
    fn a_line_of_one_point_is_no_plot() {
        assert!(plot(vec![(1.0, 1.0)]).svg().is_none());
    }

    #[test]
    fn every_place_lies_inside_the_frame() {
        let svg = plot(vec![(1.0, 0.0), (256.0, 5.0), (8.0, 10.0)]).svg().unwrap();
        assert!(svg.contains("points=\"72.0,272.0") && svg.contains("a&lt;b") && !svg.contains("NaN"));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            Axis::new([3.0, 47.0].into_iter(), false, 0.0, 1.0).ticks(),
            [0.0, 10.0, 20.0, 30.0, 40.0]
        );
        assert_eq!(Axis::new([1.0, 8.0].into_iter(), true, 0.0, 1.0).ticks(), [1.0, 2.0, 4.0, 8.0]);
    }
}
