//! The New run form, made from the one field table: what was typed, what it means, how it is shown.
//!
//! Basic fields stand in three numbered sections, the others fold into groups. A value counts as changed where it means
//! something else than the default, however it is spelt (`5e-5` is `5e-05`).

use run::fields::{Class, FIELDS, Field, Group, Kind, Level};
use serde_json::{Map, Value};

use super::error::FieldProblem;
use super::pages::text::Lang;
use super::pages::view::plain;

/// What a new form starts with besides the defaults: a curve from the first step on. LLaMA-Factory's command line logs
/// every 500 steps.
const START: &[(&str, &str)] = &[("logging_steps", "1")];
/// Arguments that the server decides: what is started here trains, and its curve is drawn.
const DECIDED: &[&str] = &["do_train", "plot_loss"];

/// The typed values of a form, one a field.
#[derive(Debug, Clone, Default)]
pub struct Typed {
    values: Vec<(String, String)>,
}

/// A field as it is drawn.
#[derive(Debug)]
pub struct FieldView {
    /// The argument's name.
    pub name: &'static str,
    /// Its name for people.
    pub label: String,
    /// One sentence.
    pub help: &'static str,
    /// `radio`, `select`, `check`, `number` or `text`.
    pub kind: &'static str,
    /// What stands in it.
    pub value: String,
    /// The default as it would be typed.
    pub default: String,
    /// What an empty field means.
    pub placeholder: &'static str,
    /// All values, or proposals where `list` is set.
    pub choices: Vec<ChoiceView>,
    /// Whether `choices` only propose.
    pub list: bool,
    /// Whether empty is a value of its own.
    pub optional: bool,
    /// Whether it differs from the default.
    pub changed: bool,
    /// What is wrong with it.
    pub error: Option<String>,
    /// Whether it has the focus when the page opens.
    pub focus: bool,
}

/// One value of a choice.
#[derive(Debug)]
pub struct ChoiceView {
    /// As it is sent.
    pub value: String,
    /// For people.
    pub label: String,
    /// Whether it is chosen.
    pub on: bool,
}

/// A numbered section or a folded group.
#[derive(Debug)]
pub struct GroupView {
    /// Part of its id.
    pub key: &'static str,
    /// Heading.
    pub title: String,
    /// The first fields' names, as a hint of what is inside.
    pub about: String,
    /// Its fields.
    pub fields: Vec<FieldView>,
    /// How many of them differ from the default.
    pub changed: usize,
    /// Whether it is unfolded: something in it is wrong.
    pub open: bool,
}

/// What else a form is drawn with.
#[derive(Debug, Default, Clone, Copy)]
pub struct Dressing<'a> {
    /// What is wrong.
    pub errors: &'a [FieldProblem],
    /// The field that has the focus.
    pub focus: &'a str,
    /// Names of data sets to propose.
    pub datasets: &'a [String],
    /// Models to propose.
    pub models: &'a [String],
}

impl Typed {
    /// What a browser sent. Of a name that comes twice the last counts (a check box follows its hidden `false`).
    #[must_use]
    pub fn sent(pairs: Vec<(String, String)>) -> Self {
        let mut typed = Self::default();
        for (name, value) in pairs {
            typed.set(name, value);
        }
        typed
    }

    /// What a new form starts with.
    #[must_use]
    pub fn fresh() -> Self {
        Self::sent(
            START.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    /// The configuration of a run. Where it wrote is left out: a clone gets a folder of its own.
    #[must_use]
    pub fn clone_of(config: &Map<String, Value>) -> Self {
        let kept = config.iter().filter(|(name, _)| {
            !matches!(
                name.as_str(),
                "output_dir" | "resume_from_checkpoint" | "overwrite_output_dir"
            ) && !DECIDED.contains(&name.as_str())
        });
        Self::sent(kept.map(|(name, value)| (name.clone(), plain(value))).collect())
    }

    /// Sets one value.
    pub fn set(&mut self, name: String, value: String) {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name, value)),
        }
    }

    /// The value of a name, as typed.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Takes a value out: `start_id` is no argument.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let place = self.values.iter().position(|(known, _)| known == name)?;
        Some(self.values.remove(place).1)
    }

    /// The arguments that are not at their defaults.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, Value)> {
        let changed = |name: &str, value: &str| match Field::find(name) {
            Some(field) => differs(field, value),
            None => !value.is_empty(),
        };
        let wanted = self.values.iter().filter(|(name, value)| changed(name, value));
        wanted.map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
    }

    /// Values of arguments that the form does not show (a clone may have them): they go along unseen.
    #[must_use]
    pub fn unseen(&self) -> Vec<(&str, &str)> {
        let seen = |name: &str| Field::find(name).is_some_and(shown);
        self.values
            .iter()
            .filter(|(name, _)| !seen(name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// Model, Data and Method with the basic fields.
    #[must_use]
    pub fn sections(&self, lang: Lang, dressing: Dressing<'_>) -> Vec<GroupView> {
        let parts: [(&'static str, &[Group]); 3] = [
            ("model", &[Group::Model]),
            ("data", &[Group::Data]),
            (
                "method",
                &[
                    Group::Method,
                    Group::Optim,
                    Group::Schedule,
                    Group::Output,
                    Group::Eval,
                    Group::Runtime,
                ],
            ),
        ];
        let section = |(key, groups): (&'static str, &[Group])| {
            self.group(key, lang.text(&format!("new.{key}")), lang, dressing, |field| {
                field.level == Level::Basic && groups.contains(&field.group)
            })
        };
        parts.into_iter().map(section).collect()
    }

    /// The other fields by group; groups without any are left out.
    #[must_use]
    pub fn groups(&self, lang: Lang, dressing: Dressing<'_>) -> Vec<GroupView> {
        let group = |group: Group| {
            let key = key(group);
            self.group(key, lang.text(&format!("group.{key}")), lang, dressing, |field| {
                field.level == Level::Advanced && field.group == group
            })
        };
        Group::ALL.into_iter().map(group).filter(|group| !group.fields.is_empty()).collect()
    }

    fn group(
        &self,
        key: &'static str,
        title: &str,
        lang: Lang,
        dressing: Dressing<'_>,
        wanted: impl Fn(&Field) -> bool,
    ) -> GroupView {
        let fields: Vec<FieldView> = FIELDS
            .iter()
            .filter(|field| shown(field) && wanted(field))
            .map(|field| self.field(field, lang, dressing))
            .collect();
        let about: Vec<&str> = fields.iter().take(4).map(|field| field.label.as_str()).collect();
        GroupView {
            key,
            title: title.to_owned(),
            about: about.join(", "),
            changed: fields.iter().filter(|field| field.changed).count(),
            open: fields.iter().any(|field| field.error.is_some() || field.focus),
            fields,
        }
    }

    fn field(&self, field: &'static Field, lang: Lang, dressing: Dressing<'_>) -> FieldView {
        let default = plain(&field.default_value());
        let value = self.get(field.name).unwrap_or(&default).to_owned();
        let proposals = match field.name {
            "dataset" | "eval_dataset" => dressing.datasets,
            "model_name_or_path" => dressing.models,
            _ => &[],
        };
        let choices = choices(field, &value, lang, proposals);
        let few = field.kind == Kind::Choice && field.level == Level::Basic && choices.len() <= 3;
        FieldView {
            name: field.name,
            label: label(field.name, lang),
            help: lang.help(field),
            kind: match field.kind {
                Kind::Bool if !field.optional => "check",
                Kind::Choice if few => "radio",
                Kind::Bool | Kind::Choice => "select",
                Kind::Int | Kind::Float => "number",
                Kind::Text | Kind::List | Kind::Path | Kind::Json => "text",
            },
            changed: differs(field, &value),
            error: dressing
                .errors
                .iter()
                .find(|error| error.field == field.name)
                .map(|error| error.message.clone()),
            placeholder: if default.is_empty() { lang.text("new.unset") } else { "" },
            list: !proposals.is_empty(),
            optional: field.optional,
            focus: dressing.focus == field.name,
            choices,
            default,
            value,
        }
    }
}

/// The name of an argument for people: from the locale, or made from the argument.
#[must_use]
pub fn label(name: &str, lang: Lang) -> String {
    let key = format!("label.{name}");
    let known = lang.text(&key);
    if known != key {
        return known.to_owned();
    }
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn choices(field: &Field, value: &str, lang: Lang, proposals: &[String]) -> Vec<ChoiceView> {
    let view = |choice: &str| {
        let key = format!("choice.{choice}");
        let label = Some(lang.text(&key)).filter(|text| *text != key).unwrap_or(choice);
        ChoiceView {
            value: choice.to_owned(),
            label: label.to_owned(),
            on: choice.eq_ignore_ascii_case(value),
        }
    };
    if !proposals.is_empty() {
        return proposals
            .iter()
            .map(|name| ChoiceView { value: name.clone(), label: String::new(), on: false })
            .collect();
    }
    // without it a browser would send the first of the others
    let unset = field.optional.then(|| ChoiceView {
        value: String::new(),
        label: lang.text("new.unset").to_owned(),
        on: value.is_empty(),
    });
    if field.kind == Kind::Bool && field.optional {
        return unset.into_iter().chain(["true", "false"].map(view)).collect();
    }
    let works =
        |choice: &&&str| !field.not_yet.contains(*choice) || choice.eq_ignore_ascii_case(value);
    let unset = unset.filter(|_| field.kind == Kind::Choice);
    unset.into_iter().chain(field.choices.iter().filter(works).map(|choice| view(choice))).collect()
}

/// What the form shows: arguments that do something here and that no button decides.
fn shown(field: &Field) -> bool {
    field.class == Class::Done && !field.secret && !DECIDED.contains(&field.name)
}

/// True where the typed value means something else than the default; nonsense does. Empty text in a form is "not given"
/// even where an argument knows the difference.
fn differs(field: &Field, typed: &str) -> bool {
    if field.keep_empty && typed.is_empty() {
        return false;
    }
    field.read(&Value::from(typed)).map_or(true, |value| value != field.default_value())
}

fn key(group: Group) -> &'static str {
    match group {
        Group::Model => "model",
        Group::Data => "data",
        Group::Method => "method",
        Group::Optim => "optim",
        Group::Schedule => "schedule",
        Group::Output => "output",
        Group::Eval => "eval",
        Group::Runtime => "runtime",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn typed(pairs: &[(&str, &str)]) -> Typed {
        Typed::sent(
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_an_argument() {
        let check = |pairs: &[(&str, &str)], expected: &[&str]| {
            let names: Vec<String> =
                typed(pairs).pairs().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, expected, "{pairs:?}");
        };
        check(&[("learning_rate", "5e-5")], &[]);
        check(&[("learning_rate", "0.00005"), ("cutoff_len", " 2048 ")], &[]);
        check(&[("learning_rate", "1e-4"), ("cutoff_len", "x")], &["learning_rate", "cutoff_len"]);
        check(&[("train_on_prompt", "false"), ("train_on_prompt", "true")], &["train_on_prompt"]);
        check(&[("dataset", ""), ("model_name_or_path", ""), ("default_system", "")], &[]);
        check(&[("no_such_argument", "1")], &["no_such_argument"]);
    }

    #[test]
    fn every_working_argument_is_shown_once() {
        let form = Typed::fresh();
        let sections = form.sections(Lang::En, Dressing::default());
        let groups = form.groups(Lang::En, Dressing::default());
        assert_eq!(sections.iter().map(|section| section.fields.len()).sum::<usize>(), 7);
        let mut names: Vec<&str> = sections
            .iter()
            .chain(&groups)
            .flat_map(|group| &group.fields)
            .map(|field| field.name)
            .collect();
        let mut wanted: Vec<&str> =
            FIELDS.iter().filter(|field| shown(field)).map(|field| field.name).collect();
        names.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        // a browser sends the first choice of a list where none is chosen
        for field in sections.iter().chain(&groups).flat_map(|group| &group.fields) {
            let chosen = field.choices.iter().filter(|choice| choice.on).count();
            let list = ["select", "radio"].contains(&field.kind);
            assert!(!list || chosen == 1, "{}: {chosen} choices are on", field.name);
        }
        assert_eq!(groups.iter().map(|group| group.changed).sum::<usize>(), START.len());
    }

    #[test]
    fn errors_open_their_group() {
        let errors =
            [FieldProblem { field: "adam_beta1".to_owned(), message: "1.5 is above 1".to_owned() }];
        let dressing = Dressing { errors: &errors, ..Dressing::default() };
        let groups = typed(&[("adam_beta1", "1.5")]).groups(Lang::En, dressing);
        let open: Vec<&str> =
            groups.iter().filter(|group| group.open).map(|group| group.key).collect();
        assert_eq!(open, ["optim"]);
        let field = groups
            .iter()
            .flat_map(|group| &group.fields)
            .find(|field| field.name == "adam_beta1")
            .unwrap();
        assert_eq!((field.value.as_str(), field.error.as_deref()), ("1.5", Some("1.5 is above 1")));
    }

    #[test]
    fn a_clone_writes_elsewhere() {
        let config = serde_json::json!({"dataset": ["a", "b"], "output_dir": "/x", "ddp_timeout": 5, "lora_rank": 16});
        let clone = Typed::clone_of(config.as_object().unwrap());
        assert_eq!(clone.get("dataset"), Some("a,b"));
        assert_eq!(clone.get("output_dir"), None);
        assert_eq!(clone.unseen(), [("ddp_timeout", "5")]);
    }

    #[test]
    fn labels() {
        for field in FIELDS.iter().filter(|field| shown(field)) {
            let key = format!("label.{}", field.name);
            assert_ne!(
                Lang::En.text(&key),
                key,
                "static/locales/en.json has no name for the argument"
            );
            assert_ne!(Lang::Zh.text(&key), key, "static/locales/zh.json");
        }
        for (name, expected) in
            [("learning_rate", "Learning rate"), ("ddp_timeout", "Ddp timeout"), ("", "")]
        {
            assert_eq!(label(name, Lang::En), expected);
        }
    }
}
