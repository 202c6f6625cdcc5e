//! The worker's log: lines for people, on stderr and, where that is a terminal's, in worker.log too.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use indexmap::IndexMap;
use run::dir::RunDir;
use run::event::{Body, Level};

/// Where the lines go.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
}

impl Log {
    /// Lines go to stderr, which the server has already sent to worker.log.
    #[must_use]
    pub fn to_stderr() -> Self {
        Self { file: None }
    }

    /// Lines go to stderr and to worker.log.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn to_both(dir: &RunDir) -> io::Result<Self> {
        Ok(Self {
            file: Some(OpenOptions::new().append(true).create(true).open(dir.worker_log())?),
        })
    }

    /// Writes a line. A log that cannot be written must not end a run.
    pub fn line(&mut self, text: &str) {
        let line = format!("{text}\n");
        let _ = io::stderr().lock().write_all(line.as_bytes());
        if let Some(file) = &mut self.file {
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// Writes what an event says to people, if anything.
    pub fn event(&mut self, body: &Body) {
        if let Some(text) = describe(body) {
            self.line(&text);
        }
    }
}

fn describe(body: &Body) -> Option<String> {
    Some(match body {
        // progress is for the page; the log tells the beginnings
        Body::Phase { done: Some(done), .. } if *done > 0 => return None,
        Body::Phase { phase, .. } => format!("[{}]", phase.name()),
        Body::Started { step: 0, total_steps, .. } => format!("training: {total_steps} steps"),
        Body::Started { step, total_steps, .. } => {
            format!("training goes on at step {step} of {total_steps}")
        }
        Body::Metric { step, total_steps, epoch, values } => {
            format!("step {step}/{total_steps}  epoch {epoch:.2}{}", numbers(values))
        }
        Body::Notice { level: Level::Info, text } => text.clone(),
        Body::Notice { level: Level::Warn, text } => format!("warning: {text}"),
        Body::Notice { level: Level::Error, text } => format!("error: {text}"),
        Body::Checkpoint { dir, .. } => format!("saved {dir}"),
        Body::Sample { step, prompt, text } => format!("at step {step}, asked `{prompt}`: {text}"),
        Body::Rewound { .. } => return None,
        Body::Exit { code: 0, .. } => "finished".to_owned(),
        Body::Exit { message: Some(message), .. } => message.clone(),
        Body::Exit { code, .. } => format!("ended with exit code {code}"),
    })
}

fn numbers(values: &IndexMap<String, Option<f64>>) -> String {
    let number = |(key, value): (&String, &Option<f64>)| match value {
        None => format!("  {key} not finite"),
        Some(value) if *value != 0.0 && value.abs() < 1e-3 => format!("  {key} {value:.3e}"),
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("  {key} {value:.0}"),
        Some(value) => format!("  {key} {value:.4}"),
    };
    values.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let check =
            |body: Body, expected: Option<&str>| assert_eq!(describe(&body).as_deref(), expected);
        let values =
            [("loss", 1.84214), ("lr", 4.99e-5), ("total_tokens", 512.0), ("grad_norm", f64::NAN)];
        check(
            Body::metric(5, 168, 0.0892, &values),
            Some(
                "step 5/168  epoch 0.09  loss 1.8421  lr 4.990e-5  total_tokens 512  grad_norm not finite",
            ),
        );
        check(Body::warn("hm"), Some("warning: hm"));
        check(Body::phase(run::event::Phase::Model), Some("[model]"));
        check(Body::progress(run::event::Phase::Training, 5, 9), None);
        check(Body::Exit { code: 20, message: Some("a: b".to_owned()) }, Some("a: b"));
        check(Body::Rewound { to_step: 1 }, None);
    }
}
