//! Modules that are trained whole beside an adapter: PEFT's `modules_to_save`.
//!
//! PEFT trains a copy of the module and leaves the frozen one in place. Here the parameter itself
//! is trained, which gives the same numbers; only where the head is the embedding do copy and
//! original differ, and the head becomes a parameter of its own.

use super::targets::last_parts;
use crate::model::brief;
use crate::model::config::ModelConfig;
use crate::model::params::{ParamSpec, expected_params};

/// The head's parameter.
pub(crate) const HEAD: &str = "lm_head.weight";
/// The embedding's parameter.
pub(crate) const EMBED: &str = "model.embed_tokens.weight";

/// The parameters of the modules whose path ends as one of `names` says (PEFT compares ends of
/// strings, not of path components: `norm` is each module whose name ends so). A head that is the
/// embedding counts as a module.
///
/// # Errors
/// A name that is no module's.
pub fn params(config: &ModelConfig, names: &[String]) -> Result<Vec<ParamSpec>, String> {
    let mut specs = expected_params(config);
    if config.tie_word_embeddings
        && let Some(embed) = specs.iter().find(|spec| spec.name == EMBED)
    {
        specs.push(ParamSpec { name: HEAD.into(), ..embed.clone() });
    }
    for name in names {
        if !specs.iter().any(|spec| modules(&spec.name).any(|module| module.ends_with(name))) {
            let all = specs.iter().filter_map(|spec| modules(&spec.name).next_back());
            let known = last_parts(all).join(", ");
            return Err(format!("Module {} is not found, please choose from {known}", brief(name)));
        }
    }
    let inside = |spec: &ParamSpec| {
        modules(&spec.name).any(|module| names.iter().any(|name| module.ends_with(name)))
    };
    specs.retain(inside);
    Ok(specs)
}

/// Whether no adapter goes on the module at `path`, because it lies in one of `names`.
pub(crate) fn excludes(names: &[String], path: &str) -> bool {
    let path = format!(".{path}.");
    names.iter().any(|name| path.contains(&format!(".{name}.")))
}

/// The paths of the modules around a parameter, outermost first.
fn modules(param: &str) -> impl DoubleEndedIterator<Item = &str> {
    let dots: Vec<usize> = param.match_indices('.').map(|(at, _)| at).collect();
    dots.into_iter().map(|at| &param[..at])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(names: &[&str], tied: bool, expected: Result<&[&str], &str>) {
        let config = ModelConfig::from_value(
            serde_json::json!({
                "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 8,
                "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 16, "hidden_act": "silu",
                "max_position_embeddings": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
                "tie_word_embeddings": tied,
            }),
            "test",
        )
        .unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        match (params(&config, &names), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<&str> = found.iter().map(|spec| spec.name.as_str()).collect();
                assert_eq!(found, expected);
            }
            (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn names_mean_what_peft_means_by_them() {
        for tied in [true, false] {
            check(&["embed_tokens"], tied, Ok(&[EMBED]));
            check(&["lm_head", "embed_tokens"], tied, Ok(&[EMBED, HEAD]));
        }
        check(&["model.norm"], true, Ok(&["model.norm.weight"]));
        let norms = [
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.self_attn.k_norm.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.norm.weight",
        ];
        check(&["norm"], true, Ok(&norms));
        let mlp =
            ["gate_proj", "up_proj", "down_proj"].map(|n| format!("model.layers.0.mlp.{n}.weight"));
        check(&["mlp"], true, Ok(&mlp.each_ref().map(String::as_str)));
        check(
            &["head_lm"],
            true,
            Err("Module head_lm is not found, please choose from embed_tokens"),
        );
    }

    #[test]
    fn no_adapter_inside() {
        let names = ["mlp".to_owned(), "0.self_attn".to_owned()];
        for (path, expected) in [
            ("model.layers.1.mlp.up_proj", true),
            ("model.layers.0.self_attn.q_proj", true),
            ("model.layers.1.self_attn.q_proj", false),
            ("model.layers.1.mlp2.up_proj", false),
        ] {
            assert_eq!(excludes(&names, path), expected, "{path}");
        }
    }
}
