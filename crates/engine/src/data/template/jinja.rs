//! A template as the Jinja chat template that is saved with a model.

use super::{Class, Slot, Template};

impl Template {
    /// The chat template, with the names of the bos and eos tokens written into it. `None` where the slots name tokens
    /// that Jinja has no text for.
    pub fn to_jinja(&self, bos: Option<&str>, eos: Option<&str>) -> Option<String> {
        let sum = |slots: &[Slot], content: &str| expression(slots, content, bos, eos);
        let prefix = sum(&self.prefix, "content")?;
        let system = sum(&self.system, "system_message")?;
        let user = sum(&self.user, "content")?;
        let assistant = sum(&self.assistant, "content")?;
        let mut jinja = String::new();
        if !prefix.is_empty() {
            jinja += &format!("{{{{ {prefix} }}}}");
        }
        if !self.default_system.is_empty() {
            jinja += &format!("{{% set system_message = '{}' %}}", escape(&self.default_system));
        }
        jinja += "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
                  {% set system_message = messages[0]['content'] %}\
                  {% else %}{% set loop_messages = messages %}{% endif %}";
        if self.class == Class::Llama2 {
            jinja += "{% for message in loop_messages %}{% if loop.index0 == 0 and system_message is defined %}";
            jinja += &format!("{{% set content = {system} + message['content'] %}}");
            jinja += "{% else %}{% set content = message['content'] %}{% endif %}";
        } else {
            jinja +=
                &format!("{{% if system_message is defined %}}{{{{ {system} }}}}{{% endif %}}");
            jinja += "{% for message in loop_messages %}{% set content = message['content'] %}";
        }
        jinja += &format!("{{% if message['role'] == 'user' %}}{{{{ {user} }}}}");
        jinja += &format!(
            "{{% elif message['role'] == 'assistant' %}}{{{{ {assistant} }}}}{{% endif %}}{{% endfor %}}"
        );
        Some(jinja)
    }
}

/// The slots as a Jinja sum of quoted texts and the variable `content`.
fn expression(
    slots: &[Slot],
    content: &str,
    bos: Option<&str>,
    eos: Option<&str>,
) -> Option<String> {
    let mut terms = Vec::new();
    for slot in slots {
        match slot {
            Slot::Text(text) => {
                let (before, after) = text
                    .split_once("{{content}}")
                    .map_or((text.as_str(), None), |(b, a)| (b, Some(a)));
                if !before.is_empty() {
                    terms.push(format!("'{}'", escape(before)));
                }
                if let Some(after) = after {
                    terms.push(content.to_string());
                    if !after.is_empty() {
                        terms.push(format!("'{}'", escape(after)));
                    }
                }
            }
            Slot::Bos => terms.extend(bos.map(|token| format!("'{token}'"))),
            Slot::Eos => terms.extend(eos.map(|token| format!("'{token}'"))),
            Slot::Token(_) => return None,
        }
    }
    Some(terms.join(" + "))
}

fn escape(text: &str) -> String {
    text.replace('\'', "\\'")
}
