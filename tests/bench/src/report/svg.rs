//! A chart of the ratios: how many times better than etcd, on a logarithmic scale.

use std::fmt::Write;

use super::{METRICS, Metric, Outcome, groups, metric};

const WIDTH: f64 = 900.0;
const LABELS: f64 = 330.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 64.0;
const ROW: f64 = 22.0;
const GROUP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
const LIMIT: f64 = 1000.0;
/// Colours that people who see few colours can tell apart, besides the shapes; on white and on black.
const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 } .note { fill: #57606a } .end { text-anchor: end } .middle { text-anchor: middle }
  .grid { stroke: #d0d7de } .one { stroke: #24292f; stroke-width: 1.5 }
  .m0 { fill: #0969da } .m1 { fill: #bc4c00 } .m2 { fill: #1a7f37 } .m3 { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 } .grid { stroke: #3d444d } .one { stroke: #e6edf3 }
    .m0 { fill: #58a6ff } .m1 { fill: #f0883e } .m2 { fill: #56d364 } .m3 { fill: #d2a8ff }
  }
";

/// What is not measured for both servers is left out.
pub fn chart(outcomes: &[Outcome], ratio: impl Fn(&Outcome, &Metric) -> Option<f64>) -> String {
    let groups: Vec<_> = groups(outcomes)
        .map(|(environment, outcomes)| {
            let rows: Vec<_> = outcomes.iter().map(|outcome| (outcome.case.title(), marks(outcome, &ratio))).collect();
            (environment.title(), rows.into_iter().filter(|(_, marks)| !marks.is_empty()).collect::<Vec<_>>())
        })
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let all = groups.iter().flat_map(|(_, rows)| rows).flat_map(|(_, marks)| marks).map(|(_, better)| *better);
    let axis = Axis::over(all);
    let rows: usize = groups.iter().map(|(_, rows)| rows.len()).sum();
    let height = TOP + groups.len() as f64 * GROUP + rows as f64 * ROW + BOTTOM;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Keelson compared with etcd\">\n<style>{STYLE}</style>\n"
    );
    text(&mut svg, 10.0, 22.0, "title", "How many times better than etcd: further right is better");
    legend(&mut svg);
    for (value, label) in axis.ticks() {
        let (x, class) = (axis.x(value), if value == 1.0 { "one" } else { "grid" });
        let _ = writeln!(svg, r#"<path class="{class}" d="M{x:.1} {TOP}V{:.1}"/>"#, height - BOTTOM);
        text(&mut svg, x, height - BOTTOM + 18.0, "note middle", &label);
    }
    let mut y = TOP;
    for (title, rows) in &groups {
        y += GROUP;
        text(&mut svg, 10.0, y - 10.0, "title", title);
        for (label, marks) in rows {
            text(&mut svg, LABELS - 14.0, y + ROW / 2.0 + 4.0, "end", label);
            for (metric, better) in marks {
                mark(&mut svg, *metric, axis.x(*better), y + ROW / 2.0);
            }
            y += ROW;
        }
    }
    svg + "</svg>\n"
}

/// Metrics of the chart, and how many times better ours is. What takes its time has it in the place of a latency.
fn marks(outcome: &Outcome, ratio: impl Fn(&Outcome, &Metric) -> Option<f64>) -> Vec<(usize, f64)> {
    let better = |metric: &Metric| {
        let ratio = ratio(outcome, metric)?;
        Some(if metric.more_is_better { ratio } else { 1.0 / ratio })
    };
    let seconds = better(metric::find("seconds"));
    let marks = charted().enumerate().map(|(index, metric)| {
        let is_latency = metric.key == "p99_ms";
        (index, better(metric).or(seconds.filter(|_| is_latency)))
    });
    marks.filter_map(|(index, better)| Some((index, better?))).collect()
}

fn charted() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().filter(|metric| metric.legend.is_some())
}

fn legend(svg: &mut String) {
    let mut x = 16.0;
    for (index, label) in charted().filter_map(|metric| metric.legend).enumerate() {
        mark(svg, index, x, 44.0);
        text(svg, x + 10.0, 48.0, "note", label);
        x += 40.0 + 7.0 * label.len() as f64;
    }
}

/// Each metric has a colour and a shape.
fn mark(svg: &mut String, metric: usize, x: f64, y: f64) {
    let path = match metric {
        0 => format!("M{:.1} {y:.1}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", x - 5.0),
        1 => format!("M{x:.1} {:.1}l6 6l-6 6l-6 -6z", y - 6.0),
        2 => format!("M{:.1} {:.1}h9v9h-9z", x - 4.5, y - 4.5),
        _ => format!("M{x:.1} {:.1}l6 10h-12z", y - 6.0),
    };
    let _ = writeln!(svg, r#"<path class="m{metric}" d="{path}"/>"#);
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escaped(content));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Powers of two, or of ten where there are too many of them. What is beyond `LIMIT` stands at the edge: a server that
/// did next to nothing in the time should not press everything else together.
struct Axis {
    least: f64,
    most: f64,
    base: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        const MOST_TICKS: f64 = 9.0;
        let (least, most) = values
            .map(|value| value.clamp(1.0 / LIMIT, LIMIT))
            .fold((0.5, 2.0), |(least, most): (f64, f64), value| (least.min(value), most.max(value)));
        let base = if (most / least).log2() > MOST_TICKS { 10.0_f64 } else { 2.0 };
        // Logarithms of powers are not quite whole numbers.
        let (least, most) = (least.log(base) + 1e-9, most.log(base) - 1e-9);
        Self { least: base.powf(least.floor()), most: base.powf(most.ceil()), base }
    }

    fn x(&self, value: f64) -> f64 {
        let value = value.clamp(self.least, self.most);
        LABELS + (value / self.least).ln() / (self.most / self.least).ln() * (WIDTH - LABELS - RIGHT)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let exponent = |value: f64| value.log(self.base).round() as i32;
        let tick = |exponent: i32| {
            let value = self.base.powi(exponent);
            let label = if exponent < 0 { format!("1/{}", self.base.powi(-exponent)) } else { format!("{value}×") };
            (value, label)
        };
        (exponent(self.least)..=exponent(self.most)).map(tick).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{outcome, report};
    use super::*;

    #[test]
    fn better_is_further_right_whatever_is_measured() {
        // Three times the throughput, a quarter of the latency.
        assert_eq!(marks(&outcome(), Outcome::ratio), [(0, 3.0), (1, 4.0)]);
        let axis = Axis::over([3.0, 4.0].into_iter());
        assert!(axis.x(0.5) < axis.x(1.0) && axis.x(1.0) < axis.x(3.0) && axis.x(3.0) < axis.x(4.0));
        assert!(axis.x(4.0) <= WIDTH - RIGHT);
        let axis = Axis::over([0.3, 50_000.0].into_iter());
        assert!(axis.x(900.0) < axis.x(50_000.0) && axis.x(50_000.0) <= WIDTH - RIGHT);
        assert_eq!(axis.ticks().len(), 5, "1/10 to 1000");
    }

    #[test]
    fn ticks_are_few_and_one_is_among_them() {
        for (values, labels) in [
            ([1.0, 1.5], &["1/2", "1×", "2×"][..]),
            ([0.3, 6.0], &["1/4", "1/2", "1×", "2×", "4×", "8×"]),
            ([0.5, 900.0], &["1/10", "1×", "10×", "100×", "1000×"]),
        ] {
            let found: Vec<_> = Axis::over(values.into_iter()).ticks().into_iter().map(|(_, label)| label).collect();
            assert_eq!(found, labels);
        }
    }

    #[test]
    fn labels_cannot_break_out_of_the_chart() {
        assert_eq!(escaped(r#"a<b> & "c""#), "a&lt;b&gt; &amp; &quot;c&quot;");
        let chart = chart(&report().outcomes, Outcome::ratio);
        assert!(chart.contains(">put, 100 clients</text>") && chart.ends_with("</svg>\n"), "{chart}");
    }
}
