//! The plot: a panel a point, a bar a server, as long as its multiple of the floor on a logarithmic
//! scale.

use std::fmt::Write;

use crate::{points::Point, report::Cell, server::Kind};

const PANEL: f64 = 480.0;
const LABEL: f64 = 165.0;
const ROW: f64 = 17.0;
const TOP: f64 = 34.0;

pub fn plot(points: &[Point], kinds: &[Kind], cells: &[Vec<Cell>]) -> String {
    let shown: Vec<_> = (0..kinds.len()).filter(|&i| !kinds[i].is_raw()).collect();
    let height = TOP + ROW * shown.len() as f64 + 14.0;
    let lines = points.len().div_ceil(2);
    let (width, total) = (PANEL * 2.0, height * lines as f64 + 26.0);
    let most = cells
        .iter()
        .flatten()
        .filter_map(|cell| cell.ratio.median())
        .fold(2.0, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {total}\" width=\"{width}\" height=\"{total}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"11\">\n\
         <title>CPU of echo servers as a multiple of a raw TCP echo</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"18\" font-size=\"13\" font-weight=\"600\" fill=\"#111\">CPU of the server a message, as a multiple of \
         a raw TCP echo's (1: no cost at all; logarithmic)</text>\n"
    );
    for (index, point) in points.iter().enumerate() {
        let (x, y) = (
            PANEL * (index % 2) as f64,
            26.0 + height * (index / 2) as f64,
        );
        let plural = if point.connections == 1 { "" } else { "s" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-weight=\"600\" fill=\"#111\">{}: {} connection{plural}, {} bytes {}, {} in flight</text>",
            x + 12.0,
            y + 20.0,
            point.id,
            point.connections,
            point.size,
            if point.text { "text" } else { "binary" },
            point.in_flight,
        );
        let mut rows: Vec<_> = shown
            .iter()
            .filter_map(|&i| Some((&kinds[i], cells[index][i].ratio.median()?)))
            .collect();
        rows.sort_by(|a, b| a.1.total_cmp(&b.1));
        for (row, (kind, ratio)) in rows.into_iter().enumerate() {
            let top = y + TOP + ROW * row as f64;
            let room = PANEL - LABEL - 60.0;
            let bar = (ratio.max(1.0).ln() / most.ln() * room).max(1.5);
            let colour = if kind.is_sockeye() {
                "#c8372d"
            } else {
                "#9aa5b1"
            };
            let weight = if kind.is_sockeye() { "600" } else { "400" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"{weight}\" fill=\"#333\">{}</text>\
                 <rect x=\"{}\" y=\"{}\" width=\"{bar:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-weight=\"{weight}\" fill=\"#333\">{ratio:.2}</text>",
                x + LABEL - 6.0,
                top + 11.0,
                kind.name().replace('`', ""),
                x + LABEL,
                top + 2.0,
                ROW - 5.0,
                x + LABEL + bar + 5.0,
                top + 11.0,
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
