//! Curves of several runs in one picture, as SVG or PNG: what the comparison page gives to take away.

use plotters::prelude::*;

use super::{FONT, margin, register};

const SIZE: (u32, u32) = (1200, 675);
/// The colours of the page, light side; static/places.css has the same.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0x22, 0x57, 0xc5),
    RGBColor(0xb3, 0x54, 0x1e),
    RGBColor(0x0b, 0x7a, 0x55),
    RGBColor(0x9a, 0x30, 0x92),
    RGBColor(0x7a, 0x6a, 0x00),
    RGBColor(0x0d, 0x7f, 0x96),
    RGBColor(0xb3, 0x24, 0x3f),
    RGBColor(0x5b, 0x4b, 0xc4),
    RGBColor(0x5d, 0x64, 0x70),
    RGBColor(0x8a, 0x4b, 0x2a),
];

/// One curve: its name and its points, steps rising, none that is not finite.
pub type Line = (String, Vec<(f64, f64)>);

/// The picture as SVG.
///
/// # Errors
/// What the drawing library says.
pub fn svg(key: &str, lines: &[Line]) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        paint(&area, key, lines)?;
    }
    Ok(text)
}

/// The picture as PNG.
///
/// # Errors
/// What the drawing library or the encoder says.
pub fn png(key: &str, lines: &[Line]) -> Result<Vec<u8>, String> {
    let mut pixels = vec![255_u8; (SIZE.0 * SIZE.1 * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        paint(&area, key, lines)?;
    }
    let told = |error: png::EncodingError| error.to_string();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(told)?;
    writer.write_image_data(&pixels).map_err(told)?;
    writer.finish().map_err(told)?;
    Ok(bytes)
}

fn paint<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    key: &str,
    lines: &[Line],
) -> Result<(), String> {
    register();
    let told = |error: &dyn std::fmt::Display| error.to_string();
    area.fill(&WHITE).map_err(|error| told(&error))?;
    let all = || lines.iter().flat_map(|line| line.1.iter());
    let (x, y) = (margin(all().map(|point| point.0)), margin(all().map(|point| point.1)));
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)
        .map_err(|error| told(&error))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(0xe2, 0xdf, 0xd6))
        .axis_style(RGBColor(0x8c, 0x87, 0x7b))
        .x_desc("step")
        .y_desc(key)
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 13))
        .draw()
        .map_err(|error| told(&error))?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let shown: String = name.chars().take(60).collect();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(|error| told(&error))?
            .label(shown)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
    }
    if !lines.is_empty() {
        chart
            .configure_series_labels()
            .label_font((FONT, 14))
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(0xe2, 0xdf, 0xd6))
            .draw()
            .map_err(|error| told(&error))?;
    }
    area.present().map_err(|error| told(&error))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn pictures() {
        let lines: Vec<Line> = ["a <b>&\"", "中文", ""]
            .map(|name| (name.to_owned(), vec![(1.0, 2.0), (2.0, 1.0)]))
            .into();
        for lines in [&lines[..], &lines[..1], &[]] {
            let text = svg("loss", lines).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
            assert!(!text.contains("<b>"));
            assert!(png("loss", lines).unwrap().starts_with(b"\x89PNG"));
        }
    }
}
