//! Bar charts as SVG, written by hand: text that a review can read, readable on light and dark pages, no font and no
//! script from elsewhere.

use std::fmt::Write;

/// One chart: horizontal bars, one group a row.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is shown, with its unit.
    pub title: String,
    /// Names of the bars of a group, in order; with one, no legend is drawn.
    pub series: Vec<String>,
    /// The groups, drawn from top to bottom.
    pub rows: Vec<Row>,
    /// Digits behind the point.
    pub decimals: usize,
}

/// One group of bars.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name, left of the bars.
    pub label: String,
    /// One value a series; `None` draws a dash.
    pub values: Vec<Option<f64>>,
    /// Ours: drawn in the colour that stands out.
    pub strong: bool,
}

const WIDTH: u32 = 820;
const LEFT: u32 = 150;
/// Room right of the longest bar for its figure.
const RIGHT: u32 = 90;
const BAR: u32 = 13;
const GAP: u32 = 7;
const TITLE: u32 = 34;

/// Colours of light and dark pages. The page's own ground is drawn too: an image cannot know what is behind it.
const STYLE: &str = "
  .ground { fill: #ffffff } text { fill: #1f2328; font: 12px system-ui, sans-serif }
  .head { font-size: 17px; font-weight: 600 } .title { font-size: 13px; font-weight: 600 } .note { fill: #59636e }
  .s0 { fill: #8c959f } .s1 { fill: #c0c7ce } .o0 { fill: #0969da } .o1 { fill: #6cb0f5 } .axis { stroke: #d1d9e0 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } text { fill: #e6edf3 } .note { fill: #9198a1 }
    .s0 { fill: #7d8590 } .s1 { fill: #474e58 } .o0 { fill: #4493f8 } .o1 { fill: #1f5fb0 } .axis { stroke: #3d444d }
  }
";

/// A page of charts below a heading and some notes.
pub fn page(heading: &str, notes: &[String], charts: &[Chart]) -> String {
    let mut body = String::new();
    let mut y = 30;
    text(&mut body, 16, y, "head", heading);
    for n in notes {
        y += 17;
        text(&mut body, 16, y, "note", n);
    }
    y += 14;
    for c in charts {
        y = chart(&mut body, y, c);
    }
    let height = y + 12;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n<rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n",
        escape(heading)
    )
}

/// Draws one chart below `top` and gives where it ends.
fn chart(out: &mut String, top: u32, c: &Chart) -> u32 {
    let max = c
        .rows
        .iter()
        .flat_map(|r| r.values.iter().flatten())
        .fold(0.0, |m: f64, v| m.max(*v));
    let full = f64::from(WIDTH - LEFT - RIGHT);
    let mut y = top + TITLE;
    text(out, 16, y - 12, "title", &c.title);
    legend(out, y - 12, c);
    for r in &c.rows {
        let bars = u32::try_from(c.series.len()).unwrap_or(1).max(1);
        let class = if r.strong { "title" } else { "label" };
        text(out, 16, y + (bars * BAR) / 2 + 5, class, &r.label);
        for (i, v) in r.values.iter().enumerate() {
            let kind = format!("{}{}", if r.strong { "o" } else { "s" }, i.min(1));
            // A bar of nothing still shows where it would begin.
            let long = v.filter(|_| max > 0.0).map_or(0.0, |v| (v / max * full).max(1.0));
            let said = v.map_or_else(|| "-".to_owned(), |v| format!("{v:.*}", c.decimals));
            put(
                out,
                &format!(
                    "<rect class=\"{kind}\" x=\"{LEFT}\" y=\"{y}\" width=\"{long:.1}\" height=\"{}\"/>",
                    BAR - 1
                ),
            );
            let x = LEFT + long.ceil() as u32 + 5;
            text(out, x, y + BAR - 2, "note", &said);
            y += BAR;
        }
        y += GAP;
    }
    let (from, to) = (top + TITLE - 3, y - GAP + 2);
    put(
        out,
        &format!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{from}\" y2=\"{to}\"/>"),
    );
    y
}

fn legend(out: &mut String, y: u32, c: &Chart) {
    if c.series.len() < 2 {
        return;
    }
    let mut x = WIDTH * 2 / 3;
    for (i, s) in c.series.iter().enumerate() {
        put(
            out,
            &format!(
                "<rect class=\"s{}\" x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\"/>",
                i.min(1),
                y - 10
            ),
        );
        text(out, x + 16, y, "note", s);
        x += 36 + 7 * u32::try_from(s.chars().count()).unwrap_or(0);
    }
}

fn text(out: &mut String, x: u32, y: u32, class: &str, said: &str) {
    put(
        out,
        &format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", escape(said)),
    );
}

fn put(out: &mut String, line: &str) {
    // Writing to a String does not fail.
    writeln!(out, "{line}").ok();
}

fn escape(s: &str) -> String {
    s.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, values: &[Option<f64>]) -> Row {
        Row {
            label: label.into(),
            values: values.to_vec(),
            strong: label == "ours",
        }
    }

    #[test]
    fn bars_are_in_proportion_and_a_missing_value_is_a_dash() {
        let c = Chart {
            title: "a < b".into(),
            series: vec!["there".into(), "back".into()],
            rows: vec![row("ours", &[Some(4.0), Some(2.0)]), row("other", &[None, Some(0.0)])],
            decimals: 1,
        };
        let svg = page("x & y", &["note".into()], &[c]);
        let full = f64::from(WIDTH - LEFT - RIGHT);
        assert!(
            svg.contains(&format!("width=\"{full:.1}\"")) && svg.contains(&format!("width=\"{:.1}\"", full / 2.0)),
            "{svg}"
        );
        assert!(
            svg.contains("a &lt; b")
                && svg.contains("x &amp; y")
                && svg.contains(">-</text>")
                && svg.contains(">0.0</text>")
        );
        assert!(svg.contains("prefers-color-scheme: dark"));
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }

    #[test]
    fn a_chart_without_a_value_draws_no_bar_of_nonsense() {
        let c = Chart {
            title: "t".into(),
            series: vec!["s".into()],
            rows: vec![row("a", &[None]), row("b", &[Some(0.0)])],
            decimals: 0,
        };
        let svg = page("h", &[], &[c]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
