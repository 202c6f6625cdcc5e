//! A tokenizer with its template, as a run would have them; kept, for reading one takes a while.

use std::sync::Arc;

use engine::data::load::Stage;
use engine::data::tools::RunDate;
use engine::data::{DataArgs, Template, TemplateOptions, Tokenizer, prepare_template};
use engine::model::hub::{ModelLocation, resolve_model};
use engine::prepare::read_tokenizer;
use run::config::Config;

use super::datasets::stamp;
use super::{Library, LibraryError, Patience, Result};

/// Which tokenizer and template, and how rows are labelled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// A path, or a name in a hub's cache.
    pub model: String,
    /// Its revision in the cache.
    pub revision: String,
    /// Name of the template; nothing for the tokenizer's own.
    pub template: Option<String>,
    /// Another default system message.
    pub default_system: Option<String>,
    /// Another tool format.
    pub tool_format: Option<String>,
    /// See the argument of that name.
    pub enable_thinking: Option<bool>,
    /// See the argument of that name.
    pub preserve_thinking: bool,
    /// Prompts are trained too.
    pub train_on_prompt: bool,
    /// Only the last answer is trained.
    pub mask_history: bool,
    /// Texts to continue instead of conversations.
    pub pretraining: bool,
}

impl Wanted {
    /// What a run of this configuration would use.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            model: config.model_name_or_path.clone().unwrap_or_default(),
            revision: config.model_revision.clone(),
            template: config.template.clone().filter(|name| !name.is_empty()),
            default_system: config.default_system.clone(),
            tool_format: config.tool_format.clone(),
            enable_thinking: config.enable_thinking,
            preserve_thinking: config.preserve_thinking,
            train_on_prompt: config.train_on_prompt,
            mask_history: config.mask_history,
            pretraining: config.stage == run::fields::Stage::Pt,
        }
    }

    /// The defaults of a run with this model and template.
    #[must_use]
    pub fn plain(model: &str, template: &str) -> Self {
        let config = Config {
            model_name_or_path: Some(model.to_owned()),
            template: Some(template.to_owned()).filter(|name| !name.is_empty()),
            ..Config::default()
        };
        Self::of(&config)
    }
}

/// A tokenizer that its template has prepared.
pub struct Kit {
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Template,
    /// The template's name.
    pub name: String,
    /// What was changed to make them fit, one sentence each.
    pub notices: Vec<String>,
}

impl Library {
    /// Where a model lies.
    ///
    /// # Errors
    /// One line: it is outside the roots, or is not there.
    pub(super) fn locate(&self, model: &str, revision: &str) -> Result<ModelLocation> {
        let wrong = |message: String| LibraryError::wrong("model_name_or_path", message);
        let resolved = self.0.roots.model(model).map_err(wrong)?;
        let found = resolve_model(&resolved, revision, None, &self.0.hub);
        found.map_err(|error| wrong(error.to_string()))
    }

    /// The tokenizer and template of `wanted`.
    ///
    /// # Errors
    /// What is wrong with the model, the tokenizer or the template; or patience ends.
    pub async fn kit(&self, wanted: &Wanted, patience: Patience) -> Result<Arc<Kit>> {
        let (own, asked) = (self.clone(), wanted.clone());
        let (location, key) = self
            .blocking(move |library| {
                let location = library.locate(&asked.model, &asked.revision)?;
                let files = match &location {
                    ModelLocation::Folder(dir) => vec![
                        dir.join("tokenizer.json"),
                        dir.join("tokenizer_config.json"),
                        dir.join("chat_template.jinja"),
                    ],
                    ModelLocation::Gguf(file) => vec![file.clone()],
                };
                let stamps: Vec<String> = files.iter().map(|path| stamp(path)).collect();
                let key = format!("{}\0{asked:?}", stamps.join("\0"));
                Ok((location, key))
            })
            .await?;
        let wanted = wanted.clone();
        let work = move || make(&own, &location, &wanted);
        self.0.kits.get(key, patience, work).await
    }
}

fn make(library: &Library, location: &ModelLocation, wanted: &Wanted) -> Result<Kit> {
    let model = |error: &dyn std::fmt::Display| {
        LibraryError::wrong("model_name_or_path", error.to_string())
    };
    let mut tokenizer = read_tokenizer(location).map_err(|e| model(&e))?;
    let args = DataArgs {
        stage: if wanted.pretraining { Stage::Pt } else { Stage::Sft },
        template: wanted.template.clone(),
        template_options: TemplateOptions {
            tool_format: wanted.tool_format.clone(),
            default_system: wanted.default_system.clone(),
            enable_thinking: wanted.enable_thinking,
            preserve_thinking: wanted.preserve_thinking,
            date: Some(RunDate::from_unix(library.0.clock.now_ms() / 1000)),
        },
        train_on_prompt: wanted.train_on_prompt,
        ..DataArgs::default()
    };
    let prepared = prepare_template(&args, &mut tokenizer);
    let (template, notices) =
        prepared.map_err(|error| LibraryError::wrong("template", error.to_string()))?;
    Ok(Kit { name: template.name.clone(), tokenizer, template, notices })
}

/// The names of all templates.
#[must_use]
pub fn template_names() -> Vec<&'static str> {
    Template::names().filter(|name| !name.contains('@')).collect()
}
