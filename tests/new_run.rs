//! New run over HTTP: form, YAML and command in step; presets; what a run would be before it starts.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Data, Reply, Server};

/// A data folder with the sample model and a hundred rows.
fn data() -> Data {
    let data = Data::new();
    let model = data.path().join("tiny");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir("data/demo/model").unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let mut rows = String::from("{\"instruction\": 5, \"output\": \"bad\"}\n");
    for n in 0..100 {
        rows += &format!("{{\"instruction\": \"Question {n}?\", \"output\": \"Answer {n}.\"}}\n");
    }
    fs::write(data.path().join("many.jsonl"), rows).unwrap();
    fs::write(
        data.path().join("dataset_info.json"),
        r#"{"rows": {"file_name": "rows.json"}, "many": {"file_name": "many.jsonl"}}"#,
    )
    .unwrap();
    data
}

fn form(server: &Server, path: &str, fields: &[(&str, &str)]) -> Reply {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let host = format!("localhost:{}", server.port);
    let headers = [
        ("Host", host.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    server.raw("POST", path, &headers, &pairs.join("&"))
}

#[test]
fn a_configuration_in_every_form() {
    let data = data();
    let server = data.serve(&[]);
    let convert = |body: Value| server.post("/api/v1/runs/convert", &body);
    let given = json!({"model_name_or_path": "tiny", "dataset": "many", "logging_steps": 1, "learning_rate": 1e-4});
    let first = convert(json!({ "config": given })).json();
    let (yaml, command) = (first["yaml"].as_str().unwrap(), first["command"].as_str().unwrap());
    assert!(
        yaml.contains("logging_steps: 1\n") && command.contains("--logging_steps 1"),
        "{yaml}{command}"
    );
    for same in [json!({ "yaml": yaml }), json!({ "command": command })] {
        assert_eq!(convert(same.clone()).json(), first, "{same}");
    }
    for (wrong, status) in [
        (json!({}), 422),
        (json!({"yaml": "a", "command": "b"}), 422),
        (json!({"yaml": "seed: [1"}), 422),
        (json!({"yaml": "sed: 1"}), 422),
        (json!({"command": "rm -rf /"}), 422),
        (json!({"command": "--seed 'x"}), 422),
        (json!({"config": {"learning_rate": "fast"}}), 422),
        (json!({"yaml": 5}), 400),
        (json!({"odd": 5}), 400),
    ] {
        assert_eq!(convert(wrong.clone()).status, status, "{wrong}");
    }
}

#[test]
fn the_page_follows_whatever_is_edited() {
    let data = data();
    let server = data.serve(&[]);
    let convert = |fields: &[(&str, &str)]| form(&server, "/runs/new/convert", fields);
    let page = convert(&[
        ("apply", "yaml"),
        ("yaml", "lora_rank: 77\nmodel_name_or_path: tiny\n"),
        ("seed", "5"),
    ]);
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(
        page.body.contains("name=\"lora_rank\" type=\"text\" inputmode=\"decimal\" value=\"77\"")
    );
    assert!(page.body.contains("--lora_rank 77"), "the command follows");
    let page = convert(&[("apply", "command"), ("command", "tallow train --lora_rank 66")]);
    assert!(page.status == 200 && page.body.contains("lora_rank: 66\n"), "the YAML follows");
    let page = convert(&[("apply", "preset:badam"), ("dataset", "many")]);
    assert!(
        page.body.contains("use_badam: true\n") && page.body.contains("dataset: many\n")
            || page.body.contains("dataset: [many]"),
        "{}",
        page.body
    );
    let page = convert(&[("apply", "set:template=qwen"), ("dataset", "many")]);
    assert!(page.body.contains("template: qwen\n"));
    // what cannot be read stays as it was typed, and the form too
    let page =
        convert(&[("apply", "yaml"), ("yaml", "a: [</textarea><script>"), ("lora_rank", "55")]);
    assert_eq!(page.status, 422);
    assert!(page.body.contains("id=\"e-yaml\"") && page.body.contains("value=\"55\""));
    assert!(
        !page.body.contains("<script>") && page.body.contains("&#60;/textarea")
            || page.body.contains("&lt;/textarea")
    );
    let page = convert(&[("apply", "yaml"), ("yaml", "learning_rate: fast\n")]);
    assert!(
        page.status == 422 && page.body.contains("id=\"summary\""),
        "wrong values are shown in place"
    );
    // links start with values: a preset without scripts, a model, a data set
    let page = server.get("/runs/new?model_name_or_path=tiny&dataset=many&lora_rank=9").body;
    assert!(page.contains("lora_rank: 9\n") && page.contains("dataset: many\n"), "{page}");
    assert!(page.contains("/runs/new?finetuning_type=full"), "presets are links");
}

#[test]
fn what_a_run_would_be() {
    let data = data();
    let server = data.serve(&[]);
    let config = json!({"model_name_or_path": "tiny", "dataset": "many", "template": "qwen", "num_train_epochs": 2,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "val_size": 0.1, "cutoff_len": 8,
        "finetuning_type": "full", "use_badam": true, "badam_switch_interval": 5});
    let reply = server.post("/api/v1/runs/preview", &config);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let plan = reply.json();
    let n = |name: &str| plan[name].as_u64().unwrap();
    assert_eq!((n("rows"), n("kept"), n("truncated"), n("dropped")), (101, 0, 100, 1));
    assert_eq!((n("held_out"), n("tokens")), (10, 800));
    // 90 rows, 2 x 4: 45 micro-batches, 12 updates an epoch
    assert_eq!(n("steps"), 24);
    assert!(n("parameters") > 100_000 && plan["rough"] == false, "{plan}");
    let memory = &plan["memory"];
    let size = |of: &Value, name: &str| of[name].as_u64().unwrap();
    let parts = memory["parts"].as_array().unwrap();
    assert!(parts.iter().any(|part| part["name"] == "weights" && size(part, "low") > 0), "{plan}");
    assert!(size(memory, "low") <= size(memory, "expected"), "{plan}");
    assert!(size(memory, "expected") <= size(memory, "high"), "{plan}");
    assert!(n("memory_bytes") > n("memory_free_bytes") && n("memory_free_bytes") > 0);
    assert_eq!((n("output_bytes"), n("trained")), (4 * n("parameters"), n("parameters")));
    let layers = plan["badam_layers"].as_array().unwrap();
    assert!(layers[0].as_u64().unwrap() >= 1 && layers[0].as_u64() <= layers[1].as_u64(), "{plan}");
    for (change, field) in [
        (json!({"dataset": "none"}), "dataset"),
        (json!({"template": "no_such"}), "template"),
        (json!({"model_name_or_path": "/etc"}), "model_name_or_path"),
        (json!({"cutoff_len": 0}), "cutoff_len"),
        (
            json!({"finetuning_type": "lora", "use_badam": false, "lora_target": "none_proj"}),
            "lora_target",
        ),
    ] {
        let mut wrong = config.clone();
        wrong.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = server.post("/api/v1/runs/preview", &wrong);
        assert_eq!(
            (reply.status, reply.json()["field"].as_str()),
            (422, Some(field)),
            "{}",
            reply.body
        );
    }
    // the page says the same, at the latest when it asks again
    let fields = [
        ("model_name_or_path", "tiny"),
        ("dataset", "many"),
        ("template", "qwen"),
        ("cutoff_len", "8"),
    ];
    let check = form(&server, "/runs/new/check", &fields);
    assert_eq!(check.status, 200);
    let part = form(&server, "/runs/new/check?part=plan", &fields);
    assert!(part.body.starts_with("<section class=\"plan\""), "{}", part.body);
    assert!(
        part.body.contains("<dd>101</dd>") && part.body.contains("<dd>100</dd>"),
        "{}",
        part.body
    );
    assert!(!part.body.contains("aria-busy"));
    assert!(
        part.body.contains("id=\"memory\"") && part.body.contains("largest: "),
        "{}",
        part.body
    );
    // an adapter is counted where lora_target puts it: names, a path, a pattern
    let trained = |target: &str| {
        let lora = json!({"model_name_or_path": "tiny", "dataset": "many", "template": "qwen", "lora_target": target});
        let reply = server.post("/api/v1/runs/preview", &lora);
        reply.json()["trained"].as_u64().unwrap_or_else(|| panic!("{target}: {}", reply.body))
    };
    let q = trained("q_proj");
    assert_eq!(trained(r".*q_proj"), q);
    assert!(trained("0.self_attn.q_proj") < q && q < trained("q_proj,v_proj"));
    assert!(trained("q_proj,v_proj") < trained("all"));
}
