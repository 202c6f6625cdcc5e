//! `training_loss.png`, `training_eval_loss.png` and the like, as LLaMA-Factory draws them: the curve itself, faint, and
//! smoothed. One picture for the loss, and for the loss and accuracy of each evaluation set.

pub mod overlay;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use run::dir::RunDir;
use run::event::{Body, Event};

const SIZE: (u32, u32) = (640, 480);
const ORIGINAL: RGBColor = RGBColor(31, 119, 180);
const FONT: &str = "dejavu-sans";

/// DejaVu Sans without what a plot never shows; its licence lies beside it.
static FONT_BYTES: &[u8] = include_bytes!("../static/fonts/dejavu-sans.ttf");

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The log cannot be read or the picture not written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The drawing library failed.
    #[error("{}: {why}", .path.display())]
    Draw {
        /// The picture.
        path: PathBuf,
        /// What it says.
        why: String,
    },
}

/// Draws the curves that a run's events.jsonl tells of; one without points gives no picture.
///
/// # Errors
/// Where the events cannot be read or a picture not written.
pub fn loss_curves(dir: &RunDir) -> Result<Vec<PathBuf>, PlotError> {
    let path = dir.events();
    let text = fs::read_to_string(&path).map_err(|source| PlotError::Io { path, source })?;
    let mut drawn = Vec::new();
    for (key, points) in curves(&text) {
        let file = dir.path().join(format!("training_{}.png", key.replace('/', "_")));
        let title = format!("training {key} of {}", dir.path().display());
        draw(&file, &title, &key, &points)?;
        drawn.push(file);
    }
    Ok(drawn)
}

/// The points of each curve by step, without what a resume took back.
fn curves(events: &str) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut curves: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
    for event in events.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()) {
        match event.body {
            Body::Metric { step, values, .. } => {
                for (key, value) in values {
                    if let Some(value) = value.filter(|_| is_drawn(&key)) {
                        curves.entry(key).or_default().insert(step, value);
                    }
                }
            }
            Body::Rewound { to_step } => {
                curves.values_mut().for_each(|points| points.retain(|step, _| *step <= to_step));
            }
            _ => {}
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 steps")]
    let points = |by_step: BTreeMap<u64, f64>| -> Vec<(f64, f64)> {
        by_step.into_iter().map(|(step, value)| (step as f64, value)).collect()
    };
    let all = curves.into_iter().map(|(key, by_step)| (key, points(by_step)));
    all.filter(|(_, points)| !points.is_empty()).collect()
}

fn is_drawn(key: &str) -> bool {
    let eval = key.strip_prefix("eval_").is_some_and(|rest| {
        (rest.ends_with("loss") || rest.ends_with("accuracy")) && !rest.ends_with("token_loss")
    });
    key == "loss" || eval
}

/// LLaMA-Factory's smoothing: an exponential mean whose weight grows with the number of points.
#[must_use]
pub fn smooth(values: &[f64]) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a curve has far fewer than 2^52 points")]
    let n = values.len() as f64;
    let weight = 1.8 * (1.0 / (1.0 + (-0.05 * n).exp()) - 0.5);
    let mut last = values.first().copied().unwrap_or_default();
    let step = |value: &f64| {
        last = last * weight + (1.0 - weight) * value;
        last
    };
    values.iter().map(step).collect()
}

fn draw(path: &Path, title: &str, key: &str, points: &[(f64, f64)]) -> Result<(), PlotError> {
    register();
    let mut pixels = vec![255_u8; (SIZE.0 * SIZE.1 * 3) as usize];
    paint(&mut pixels, title, key, points)
        .map_err(|why| PlotError::Draw { path: path.to_owned(), why })?;
    // encoded in a file of its own, so that a half-written picture never has the name
    let draft = path.with_extension("draft.png");
    let failed = |why: String| PlotError::Draw { path: path.to_owned(), why };
    let io = |source| PlotError::Io { path: path.to_owned(), source };
    {
        let area = BitMapBackend::new(&draft, SIZE).into_drawing_area();
        let picture = BitMapElement::with_owned_buffer((0, 0), SIZE, pixels)
            .ok_or_else(|| failed("the picture has a wrong size".to_owned()))?;
        area.draw(&picture).map_err(|error| failed(error.to_string()))?;
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    fs::rename(&draft, path).map_err(io)
}

fn paint(pixels: &mut [u8], title: &str, key: &str, points: &[(f64, f64)]) -> Result<(), String> {
    let area = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    let told = |error: &dyn std::fmt::Display| error.to_string();
    area.fill(&WHITE).map_err(|error| told(&error))?;
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let smoothed: Vec<(f64, f64)> =
        points.iter().zip(smooth(&values)).map(|((step, _), value)| (*step, value)).collect();
    let (x, y) = (margin(points.iter().map(|point| point.0)), margin(values.iter().copied()));
    // a long folder name is cut from the left: its end tells the runs apart
    let size = 15;
    let fits = 72;
    let shown: String = title.chars().skip(title.chars().count().saturating_sub(fits)).collect();
    let mut chart = ChartBuilder::on(&area)
        .caption(shown, (FONT, size))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)
        .map_err(|error| told(&error))?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_desc("step")
        .y_desc(key)
        .axis_desc_style((FONT, 14))
        .label_style((FONT, 12))
        .draw()
        .map_err(|error| told(&error))?;
    let faint = ORIGINAL.mix(0.4).stroke_width(2);
    let bold = ORIGINAL.stroke_width(2);
    for (name, line, style) in [("original", points.to_vec(), faint), ("smoothed", smoothed, bold)]
    {
        chart
            .draw_series(LineSeries::new(line, style))
            .map_err(|error| told(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .label_font((FONT, 13))
        .background_style(WHITE)
        .border_style(RGBColor(204, 204, 204))
        .draw()
        .map_err(|error| told(&error))?;
    area.present().map_err(|error| told(&error))
}

/// The range of the values with a twentieth on either side, as matplotlib has it.
fn margin(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (0.0, 1.0);
    }
    let space = if high > low { (high - low) / 20.0 } else { low.abs().max(1.0) / 20.0 };
    (low - space, high + space)
}

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // a font that cannot be read would show as a failed drawing right after
        let _ = register_font(FONT, FontStyle::Normal, FONT_BYTES);
    });
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn smoothing_is_llama_factorys() {
        let check = |values: &[f64], expected: &[f64]| {
            let got = smooth(values);
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-9, "{got} {expected}");
            }
        };
        check(&[], &[]);
        check(&[1.0], &[1.0]);
        check(&[2.0, 1.0], &[2.0, 1.044_962_537_5]);
        let golden = [2.5, 2.144_767_080_6, 1.927_393_769_1, 1.725_449_388, 1.614_040_007_2];
        check(&[2.5, 2.1, 1.9, 1.7, 1.6], &golden);
    }

    #[test]
    fn pictures_of_a_log() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        assert!(loss_curves(&dir).is_err());
        let metric = |step: u64, values: &str| {
            format!(
                "{{\"seq\":1,\"at_ms\":1,\"elapsed_s\":1,\"kind\":\"metric\",\"step\":{step},\
                 \"total_steps\":60,\"epoch\":1,\"values\":{{{values}}}}}\n"
            )
        };
        let mut log = String::from("{\"current_steps\": 0}\nnot json\n");
        for step in 1..60 {
            log += &metric(step, &format!("\"loss\":{},\"lr\":1e-4", 3.0 / step as f64));
        }
        fs::write(dir.events(), &log).unwrap();
        assert_eq!(loss_curves(&dir).unwrap(), [dir.training_loss_png()]);
        log += &metric(9, "\"eval_loss\":1.0,\"eval_token_loss\":1.0,\"eval_accuracy\":0.5");
        fs::write(dir.events(), &log).unwrap();
        let drawn = loss_curves(&dir).unwrap();
        let accuracy = root.path().join("training_eval_accuracy.png");
        assert_eq!(drawn, [accuracy, dir.training_eval_loss_png(), dir.training_loss_png()]);
        for picture in drawn {
            let bytes = fs::read(picture).unwrap();
            assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 3000);
        }
        let rewound =
            "{\"seq\":9,\"at_ms\":1,\"elapsed_s\":1,\"kind\":\"rewound\",\"to_step\":5}\n";
        let curves = curves(&(log + rewound + &metric(6, "\"loss\":7.0")));
        assert_eq!((curves.len(), curves["loss"].len()), (1, 6));
        assert_eq!(curves["loss"][5], (6.0, 7.0));
        assert!(!root.path().join("training_loss.draft.png").exists());
    }
}
