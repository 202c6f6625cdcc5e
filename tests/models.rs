//! Models over HTTP: what is found on disk, why one cannot be trained, the names to choose from; hostile names.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::Data;

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn find<'a>(list: &'a Value, name: &str) -> &'a Value {
    list["models"].as_array().unwrap().iter().find(|model| model["name"] == name).unwrap()
}

#[test]
fn what_lies_on_disk() {
    let data = Data::new();
    let outside = tempfile::tempdir().unwrap();
    copy("data/demo/model", &outside.path().join("secret"));
    let put = |name: &str, text: &str| {
        let path = data.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    copy("data/demo/model", &data.path().join("models/tiny"));
    put("models/odd/config.json", r#"{"model_type": "mamba"}"#);
    put(
        "models/<img src=x onerror=alert(1)>/config.json",
        r#"{"model_type": "<script>alert(1)</script>"}"#,
    );
    put("models/notes/config.json", r#"{"colour": "red"}"#);
    put("models/broken.gguf", "GGUF");
    let server = data.serve(&[]);
    let id = server.create("finish");
    let run = server.until_status(&id, "finished");
    let out = run["output_dir"].as_str().unwrap();
    let adapter = r#"{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "models/tiny"}"#;
    fs::write(Path::new(out).join("adapter_config.json"), adapter).unwrap();
    fs::write(Path::new(out).join("adapter_model.safetensors"), "x").unwrap();
    std::os::unix::fs::symlink(outside.path(), data.path().join("link")).unwrap();
    let list = server.get("/api/v1/models").json();
    let tiny = find(&list, "models/tiny");
    assert_eq!(
        (tiny["kind"].as_str(), tiny["architecture"].as_str()),
        (Some("folder"), Some("llama"))
    );
    assert!(tiny["parameters"].as_u64().unwrap() > 100_000 && tiny["problem"].is_null(), "{tiny}");
    assert!(find(&list, "models/odd")["problem"].as_str().unwrap().contains("not supported"));
    assert!(!find(&list, "models/broken.gguf")["problem"].is_null());
    let made = find(&list, &format!("runs/{id}"));
    assert_eq!((made["kind"].as_str(), made["run"].as_str()), (Some("adapter"), Some(id.as_str())));
    let text = list.to_string();
    assert!(!text.contains("secret") && !text.contains("models/notes"), "{text}");
    for path in
        ["/models", "/models?q=tiny", "/models?q=no%20such&names=all", "/models?q=%3Cscript%3E"]
    {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        for tag in ["<script>alert", "<img"] {
            assert!(!reply.body.contains(tag), "{path}: {tag}");
        }
    }
    let page = server.get("/models?q=tiny").body;
    assert!(page.contains("/runs/new?model_name_or_path=models%2Ftiny"), "{page}");
    assert!(server.get("/models").body.contains(&format!("/runs/{id}")));
}

#[test]
fn names_to_choose_from() {
    let data = Data::new();
    let server = data.serve(&[]);
    let names = |q: &str| {
        let list = server.get(&format!("/api/v1/models/names?q={q}")).json();
        list["names"].as_array().unwrap().clone()
    };
    assert!(names("").len() > 100);
    let one = names("qwen2.5-0.5b-instruct");
    let found =
        one.iter().find(|name| name["huggingface"] == "Qwen/Qwen2.5-0.5B-Instruct").unwrap();
    assert_eq!(found["template"], "qwen");
    assert!(names("no-such-model").is_empty());
}
