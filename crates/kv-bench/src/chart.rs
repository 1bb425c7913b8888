//! One chart for each backend: the ratios with their intervals, against the line of the raw client.

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::measure::Row;

const WIDTH: u32 = 900;
const ROW_HEIGHT: u32 = 22;
const LABELS: u32 = 290;

/// An SVG of the throughput ratio of every row.
pub(crate) fn draw(backend: &str, rows: &[&Row]) -> Result<String> {
    let mut svg = String::new();
    let height = ROW_HEIGHT * u32::try_from(rows.len())? + 90;
    draw_on(&SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area(), backend, rows)
        .map_err(|error| anyhow!("{error}"))
        .context("drawing the chart")?;
    Ok(svg)
}

fn draw_on(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    backend: &str,
    rows: &[&Row],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let widest = rows.iter().map(|row| row.ratio_high).fold(1.25, f64::max).min(3.0);
    let last = i32::try_from(rows.len())?;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{backend}: throughput over the raw client"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..widest, last..0)?;
    let label = |at: &i32| -> String {
        let row = usize::try_from(*at).ok().and_then(|at| rows.get(at));
        row.map(|row| format!("{}, {} tasks, {} B", row.workload, row.concurrency, row.value_bytes))
            .unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("ratio; 1 is the raw client")
        .y_labels(rows.len() + 1)
        .y_label_formatter(&label)
        .label_style(("sans-serif", 12))
        .draw()?;
    chart.draw_series(std::iter::once(PathElement::new(vec![(1.0, 0), (1.0, last)], RED.stroke_width(1))))?;
    for (at, row) in (0_i32..).zip(rows) {
        let interval = [(row.ratio_low.min(widest), at), (row.ratio_high.min(widest), at)];
        chart.draw_series([PathElement::new(interval.to_vec(), BLUE.stroke_width(2))])?;
        chart.draw_series([Circle::new((row.ratio.min(widest), at), 4, BLUE.filled())])?;
    }
    area.present()?;
    Ok(())
}
