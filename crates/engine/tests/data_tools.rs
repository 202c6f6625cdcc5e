//! Every tool format, thoughts and dates. tools.json holds what LLaMA-Factory 0.9.5's formatters return for its tools
//! and calls, on 24 November 2026.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

use engine::data::error::RowError;
use engine::data::template::{Encoder, Message, Role, Template};
use engine::data::tools::ToolFormat;
use engine::data::{RunDate, TemplateOptions};
use serde_json::{Value, json};

const DAY: RunDate = RunDate { year: 2026, month: 11, day: 24 };

#[test]
fn every_format_writes_tools_and_calls_as_the_reference() {
    let recorded: Value = serde_json::from_str(include_str!("data_support/tools.json")).unwrap();
    let tools = recorded["tools"].as_str().unwrap();
    assert_eq!(ToolFormat::names().count(), recorded["formats"].as_object().unwrap().len());
    for name in ToolFormat::names() {
        let format = ToolFormat::named(name).unwrap();
        let expected = &recorded["formats"][name];
        assert_eq!(json!(format.describe(tools, Some(DAY)).unwrap()), expected["tools"], "{name}");
        for (i, call) in recorded["calls"].as_array().unwrap().iter().enumerate() {
            let text = format.calls(call.as_str().unwrap(), None, None).ok();
            assert_eq!(json!(text), expected["calls"][i], "{name} {call}");
        }
    }
}

#[test]
fn wrong_tools_and_calls_are_explained() {
    let tools = |text: &str| ToolFormat::Default.describe(text, Some(DAY)).unwrap_err();
    assert!(tools("[{").contains("not valid JSON"));
    assert!(tools("{}").contains("must be a JSON list"));
    assert!(tools("[1]").contains("must be a JSON object"));
    assert!(tools(r#"[{"name":"f"}]"#).contains("`f` has no `parameters`"));
    assert!(ToolFormat::Llama3.describe("[{}]", None).unwrap_err().contains("date"));
    let calls = |text: &str| ToolFormat::Qwen35.calls(text, None, None).unwrap_err();
    assert!(calls("hello").contains("Invalid JSON format in function message"));
    assert!(calls("[1]").contains("must be a JSON object"));
    assert!(calls(r#"{"name":"f"}"#).contains("no `arguments`"));
    assert!(calls(r#"{"name":"f","arguments":"x"}"#).contains("arguments of `f`"));
}

#[test]
fn days_are_counted_right() {
    for (seconds, expected) in [
        (0, "01 Jan 1970"),
        (951_782_400, "29 Feb 2000"),
        (951_868_800, "01 Mar 2000"),
        (1_795_564_799, "24 Nov 2026"),
        (1_795_564_800, "25 Nov 2026"),
        (4_107_542_400, "01 Mar 2100"),
        (-1, "31 Dec 1969"),
    ] {
        assert_eq!(RunDate::from_unix(seconds).short(), expected, "{seconds}");
    }
}

/// A character is one token; special tokens are left out.
struct Letters;

impl Encoder for Letters {
    fn encode(&self, text: &str) -> Result<Vec<u32>, RowError> {
        Ok(text.chars().map(u32::from).collect())
    }
    fn bos_id(&self) -> Option<u32> {
        None
    }
    fn eos_id(&self) -> Option<u32> {
        None
    }
    fn pad_id(&self) -> Option<u32> {
        None
    }
    fn token_id(&self, _: &str) -> Option<u32> {
        None
    }
}

#[test]
fn thoughts_are_added_and_removed() {
    let user = |text: &str| Message::new(Role::User, text);
    let answer = |text: &str| Message::new(Role::Assistant, text);
    let check = |name: &str, thinking: Option<bool>, discard: bool, expected: &str| {
        let mut template = Template::get(name).unwrap();
        let options = TemplateOptions { enable_thinking: thinking, ..TemplateOptions::default() };
        template.configure(&options).unwrap();
        let [open, close] = template.thought_words.clone();
        let messages = [user("q"), answer(&format!("{open}t{close}a")), user("r"), answer("b")];
        let pairs = template.encode_multiturn(&Letters, &messages, "", "", discard).unwrap();
        let text =
            |ids: &[u32]| ids.iter().filter_map(|id| char::from_u32(*id)).collect::<String>();
        let shown: Vec<_> = pairs.iter().map(|(p, a)| format!("{}|{}", text(p), text(a))).collect();
        let shown =
            shown.join("~").replace("<|im_start|>", "").replace("<|im_end|>", "").replace('\n', "");
        assert_eq!(shown, expected, "{name} {thinking:?} {discard}");
    };
    check(
        "qwen3",
        Some(true),
        false,
        "userqassistant|<think>t</think>a~userrassistant|<think></think>b",
    );
    check("qwen3", Some(true), true, "userqassistant|a~userrassistant|<think></think>b");
    check("qwen3", None, false, "userqassistant|<think>t</think>a~userrassistant<think></think>|b");
    check(
        "qwen3",
        Some(false),
        false,
        "userqassistant<think></think>|a~userrassistant<think></think>|b",
    );
    check("qwen3_nothink", Some(false), false, "userqassistant|<think>t</think>a~userrassistant|b");
    check(
        "glm4_7",
        Some(true),
        false,
        "[gMASK]<sop><|user|>q<|assistant|>|<think>t</think>a~<|user|>r<|assistant|>|</think>b",
    );
}

#[test]
fn an_older_release_separates_its_turns() {
    let template = Template::get("qwen@0.8.3").unwrap();
    let messages =
        [("u", Role::User), ("a", Role::Assistant), ("v", Role::User), ("b", Role::Assistant)]
            .map(|(text, role)| Message::new(role, text));
    let pairs = template.encode_multiturn(&Letters, &messages, "", "", false).unwrap();
    let text = |ids: &[u32]| ids.iter().filter_map(|id| char::from_u32(*id)).collect::<String>();
    assert_eq!(text(&pairs[1].0), "\n<|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\n");
    assert!(
        text(&pairs[0].0)
            .starts_with("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    );
}
