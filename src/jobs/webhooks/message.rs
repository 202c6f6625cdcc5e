//! What a webhook is told: the event as JSON, or one line of text as Slack and its like take it.

use serde_json::{Value, json};

/// The body of a request. `home`: where people find the dashboard, or nothing.
#[must_use]
pub fn compose(shape: &str, stored: &str, home: &str) -> String {
    let mut event: Value = serde_json::from_str(stored).unwrap_or_default();
    let id = event["run"]["id"].as_str().unwrap_or_default().to_owned();
    if !home.is_empty() && !id.is_empty() {
        event["run"]["url"] = format!("{home}/runs/{id}").into();
    }
    if shape == "slack" { json!({ "text": line(&event) }).to_string() } else { event.to_string() }
}

fn line(event: &Value) -> String {
    let run = &event["run"];
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    if run.is_null() {
        return text(&event["text"]);
    }
    let step = run["step"].as_i64().unwrap_or_default();
    let what = match event["event"].as_str().unwrap_or_default() {
        "finished" => match run["loss"].as_f64() {
            Some(loss) => format!("finished after {step} steps, loss {loss:.4}"),
            None => format!("finished after {step} steps"),
        },
        "failed" => format!("failed at step {step}: {}", text(&run["reason"])),
        "nan" => format!("has a loss that is not finite at step {step}"),
        "stalled" => format!("was not heard of for long; its last step is {step}"),
        other => escaped(other),
    };
    let line = format!("*{}* {what}", text(&run["name"]));
    match run["url"].as_str() {
        Some(url) => format!("{line} · <{url}|open>"),
        None => line,
    }
}

/// Slack reads `<...>` as links and mentions: a name must not be one.
fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn stored(event: &str, name: &str, loss: Option<f64>) -> String {
        let run =
            json!({"id": "01A", "name": name, "step": 9, "loss": loss, "reason": "no <data>"});
        json!({"event": event, "at_ms": 5, "run": run}).to_string()
    }

    #[test]
    fn lines_of_text() {
        let check = |stored: &str, home: &str, expected: &str| {
            let body: Value = serde_json::from_str(&compose("slack", stored, home)).unwrap();
            assert_eq!(body, json!({ "text": expected }));
        };
        let some = Some(1.25);
        check(&stored("finished", "a", some), "", "*a* finished after 9 steps, loss 1.2500");
        check(&stored("finished", "a", None), "", "*a* finished after 9 steps");
        let link = "*a* failed at step 9: no &lt;data&gt; · <https://t.test/b/runs/01A|open>";
        check(&stored("failed", "a", some), "https://t.test/b", link);
        let nan = "*&lt;!channel&gt; &amp;* has a loss that is not finite at step 9";
        check(&stored("nan", "<!channel> &", None), "", nan);
        check(&stored("nan", "a\nb", None), "", "*a b* has a loss that is not finite at step 9");
        let silent = "*a* was not heard of for long; its last step is 9";
        check(&stored("stalled", "a", some), "", silent);
        check(r#"{"event": "test", "text": "hello"}"#, "https://t.test", "hello");
    }

    #[test]
    fn events_as_json() {
        let body = compose("json", &stored("finished", "a", Some(1.25)), "https://t.test");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["event"], &body["run"]["loss"]), (&json!("finished"), &json!(1.25)));
        assert_eq!(body["run"]["url"], "https://t.test/runs/01A");
        let body = compose("json", &stored("nan", "a", None), "");
        assert!(!body.contains("url"), "{body}");
    }
}
