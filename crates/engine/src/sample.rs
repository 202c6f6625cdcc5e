//! What the model answers to the run's prompt: before the first step, at every evaluation, when asked, after the last.

use run::event::Body;

use crate::data::template::{Message, Role};
use crate::error::{Error, Result};
use crate::generate::greedy;
use crate::observer::Observer;
use crate::train::Run;

/// Answers `sample_prompt` greedily and tells it; does nothing without a prompt.
///
/// # Errors
/// When the prompt cannot be encoded or the answer not written down.
pub fn tell(run: &Run<'_>, io: &mut dyn Observer) -> Result<()> {
    let (Some(prompt), Some(tokenizer), Some(template)) =
        (&run.config.sample_prompt, &run.prepared.tokenizer, &run.prepared.template)
    else {
        return Ok(());
    };
    let messages = [Message::new(Role::User, prompt.clone()), Message::new(Role::Assistant, "")];
    let (ids, _) = template
        .encode_oneturn(tokenizer, &messages, "", "")
        .map_err(|e| Error::input("sample_prompt", e.0))?;
    let stop = tokenizer.stop_ids(&template.stop_words).into_iter().collect();
    let limit = run.config.sample_max_new_tokens;
    let answer = greedy(&run.prepared.decoder, &ids, limit, &stop, || true)?;
    let text = tokenizer.decode_clean(&answer);
    io.event(Body::Sample { step: run.state.step, prompt: prompt.clone(), text })
}
