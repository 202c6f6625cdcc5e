//! Freeze tuning: some layers of the model are trained as they are, the rest stays.
//!
//! LLaMA-Factory's rule: a parameter is trained when its name contains `.N.module` for one of the
//! chosen layers N (`.N.` for all modules), or the name of an extra module anywhere. The last is
//! taken literally: `norm` as an extra module means each norm of the model, in all layers.

use std::collections::BTreeSet;

use super::store::Params;

/// Which parameters are trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze<'a> {
    /// The last so many layers; negative, the first.
    pub layers: i64,
    /// Modules of these layers, or `all`.
    pub modules: &'a [String],
    /// Modules outside the layers.
    pub extra: &'a [String],
}

impl Freeze<'_> {
    /// Parts of names; a parameter whose name contains one is trained.
    ///
    /// # Errors
    /// LLaMA-Factory's text, when a module is none of the model's.
    pub fn parts(&self, names: &[&str], layers: usize) -> Result<Vec<String>, String> {
        let wanted = usize::try_from(self.layers.unsigned_abs()).unwrap_or(usize::MAX).min(layers);
        let chosen = if self.layers > 0 { layers - wanted..layers } else { 0..wanted };
        let all = || ["all".to_owned()].to_vec();
        let modules = if self.modules.is_empty() { all() } else { self.modules.to_vec() };
        let (inner, outer) = module_names(names);
        let mut parts = Vec::new();
        for module in &modules {
            let part = if module == "all" { "" } else { known(module, &inner)? };
            parts.extend(chosen.clone().map(|layer| format!(".{layer}.{part}")));
        }
        for module in self.extra {
            parts.push(known(module, &outer)?.to_owned());
        }
        Ok(parts)
    }

    /// Marks the parameters as trained or frozen; returns the parts of names that decided.
    ///
    /// # Errors
    /// As [`Freeze::parts`], and when nothing is left to train.
    pub fn apply(&self, params: &mut Params, layers: usize) -> Result<Vec<String>, String> {
        let names: Vec<&str> = params.iter().map(|(_, p)| p.name.as_str()).collect();
        let parts = self.parts(&names, layers)?;
        params.set_trainable(|p| parts.iter().any(|part| p.name.contains(part.as_str())));
        match params.counts().0 {
            0 => Err("no layer and no extra module is to be trained".into()),
            _ => Ok(parts),
        }
    }
}

/// Modules of a layer, and modules outside the layers.
fn module_names<'a>(names: &[&'a str]) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let inner = names.iter().filter_map(|name| name.split_once(".0.")?.1.split('.').next());
    let in_layer = |name: &str| {
        name.split('.').rev().skip(1).any(|part| part.bytes().all(|c| c.is_ascii_digit()))
    };
    let outer = names.iter().filter(|name| !in_layer(name));
    (inner.collect(), outer.filter_map(|name| name.rsplit('.').nth(1)).collect())
}

fn known<'a>(module: &'a str, names: &BTreeSet<&str>) -> Result<&'a str, String> {
    if names.contains(module) {
        return Ok(module);
    }
    let all = names.iter().copied().collect::<Vec<_>>().join(", ");
    Err(format!("Module {} is not found, please choose from {all}", super::brief(module)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ];

    fn check(layers: i64, modules: &[&str], extra: &[&str], expected: Result<&[&str], &str>) {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (modules, extra) = (owned(modules), owned(extra));
        let freeze = Freeze { layers, modules: &modules, extra: &extra };
        match (freeze.parts(&NAMES, 11), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert_eq!(found, expected),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn layers_and_modules_as_llama_factory_names_them() {
        check(2, &["all"], &[], Ok(&[".9.", ".10."]));
        check(2, &[], &[], Ok(&[".9.", ".10."]));
        check(-2, &["all"], &[], Ok(&[".0.", ".1."]));
        check(1, &["mlp", "self_attn"], &["norm"], Ok(&[".10.mlp", ".10.self_attn", "norm"]));
        check(0, &["all"], &["lm_head"], Ok(&["lm_head"]));
        let eleven: Vec<String> = (0..11).map(|l| format!(".{l}.")).collect();
        let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
        check(99, &["all"], &[], Ok(&eleven));
        check(i64::MIN, &["all"], &[], Ok(&eleven));
        check(
            1,
            &["attn"],
            &[],
            Err("Module attn is not found, please choose from input_layernorm, mlp, self_attn"),
        );
        check(
            1,
            &["mlp"],
            &["mlp"],
            Err("Module mlp is not found, please choose from embed_tokens, lm_head, norm"),
        );
    }
}
