//! From a conversation to ids and labels: what is trained, what is masked and what is cut off.

use super::convert::Example;
use super::error::RowError;
use super::template::{Encoder, Message, Role, Template};
use super::tokenizer::Tokenizer;

/// The label of a token that is not trained.
pub const IGNORE: i32 = -100;

/// A row of a dataset, ready for the model. Labels are not shifted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Token ids, without padding.
    pub input_ids: Vec<u32>,
    /// The id to learn at each place, or -100. As long as `input_ids`.
    pub labels: Vec<i32>,
    /// Where the row is a pack of several: the length of each, in order. Positions restart at each.
    pub segments: Vec<usize>,
    /// Where the row is a pack: whether its segments are hidden from each other (`neat_packing`).
    pub neat: bool,
    /// How many padding tokens the reference appends to this row; they change no loss.
    pub padding: usize,
}

/// How conversations are labelled and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labelling {
    /// The most tokens a row may have. With packing this is one less than `cutoff_len`.
    pub cutoff_len: usize,
    /// Prompts are trained too.
    pub train_on_prompt: bool,
    /// Only the last answer is trained.
    pub mask_history: bool,
}

/// An encoded row and what was lost on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The row.
    pub row: Row,
    /// Tokens cut off.
    pub cut_tokens: usize,
    /// Turns that did not fit at all.
    pub dropped_turns: usize,
}

/// How many tokens of a prompt and of an answer remain when both must fit into `cutoff_len`.
pub fn infer_seqlen(prompt: usize, answer: usize, cutoff_len: usize) -> (usize, usize) {
    let most = if answer * 2 < cutoff_len {
        cutoff_len
    } else if prompt * 2 < cutoff_len {
        cutoff_len - prompt
    } else {
        (cutoff_len as f64 * (answer as f64 / (prompt + answer) as f64)) as usize
    };
    let answer = most.min(answer);
    (cutoff_len.saturating_sub(answer).min(prompt), answer)
}

/// Ids and labels of a conversation for supervised fine-tuning.
///
/// # Errors
/// When the conversation is not one of prompts and answers in turn, or cannot be encoded.
pub fn supervised(
    encoder: &dyn Encoder,
    template: &Template,
    example: &Example,
    how: Labelling,
) -> Result<Encoded, RowError> {
    example.check_turns()?;
    let messages: Vec<Message> = example.prompt.iter().chain(&example.response).cloned().collect();
    let discard = how.mask_history && !template.preserve_thinking;
    let mut pairs =
        template.encode_multiturn(encoder, &messages, &example.system, &example.tools, discard)?;
    if how.mask_history {
        // The last turns are the ones to keep.
        pairs.reverse();
    }
    let eos = if template.efficient_eos { encoder.eos_id() } else { None };
    let mut total = usize::from(template.efficient_eos);
    let mut encoded = Encoded::default();
    let mut turns: Vec<(Vec<u32>, Vec<i32>)> = Vec::with_capacity(pairs.len());
    for (turn, (mut prompt, mut answer)) in pairs.into_iter().enumerate() {
        if total >= how.cutoff_len {
            encoded.dropped_turns += 1;
            encoded.cut_tokens += prompt.len() + answer.len();
            continue;
        }
        let (prompt_len, answer_len) =
            infer_seqlen(prompt.len(), answer.len(), how.cutoff_len - total);
        encoded.cut_tokens += prompt.len() - prompt_len + answer.len() - answer_len;
        prompt.truncate(prompt_len);
        answer.truncate(answer_len);
        total += prompt_len + answer_len;
        let mut labels = prompt_labels(&prompt, turn, how, eos);
        if how.mask_history && turn != 0 {
            labels.resize(labels.len() + answer_len, IGNORE);
        } else {
            labels.extend(answer.iter().map(|id| *id as i32));
        }
        prompt.append(&mut answer);
        turns.push((prompt, labels));
    }
    if how.mask_history {
        turns.reverse();
    }
    for (ids, labels) in turns {
        encoded.row.input_ids.extend(ids);
        encoded.row.labels.extend(labels);
    }
    if let Some(eos) = eos {
        encoded.row.input_ids.push(eos);
        encoded.row.labels.push(eos as i32);
    }
    Ok(encoded)
}

fn prompt_labels(
    prompt: &[u32],
    turn: usize,
    how: Labelling,
    efficient_eos: Option<u32>,
) -> Vec<i32> {
    if how.train_on_prompt {
        return prompt.iter().map(|id| *id as i32).collect();
    }
    let mut labels = vec![IGNORE; prompt.len()];
    // The eos that would have ended the answer before is learned at the first token of this prompt.
    if let (Some(eos), Some(first)) = (efficient_eos.filter(|_| turn != 0), labels.first_mut()) {
        *first = eos as i32;
    }
    labels
}

/// Ids of the prompt and of the expected answer, for generation.
///
/// # Errors
/// When the conversation does not end with a prompt, or cannot be encoded.
pub fn prompt_and_answer(
    encoder: &dyn Encoder,
    template: &Template,
    example: &Example,
    cutoff_len: usize,
) -> Result<(Vec<u32>, Vec<u32>), RowError> {
    if example.prompt.len() % 2 != 1 {
        return Err("the prompt must end with a user message".into());
    }
    let mut messages = example.prompt.clone();
    match example.response.as_slice() {
        [answer] => messages.push(answer.clone()),
        _ => messages.push(Message::new(Role::Assistant, "")),
    }
    let (mut prompt, mut answer) =
        template.encode_oneturn(encoder, &messages, &example.system, &example.tools)?;
    if template.efficient_eos {
        answer.extend(encoder.eos_id());
    }
    let (prompt_len, answer_len) = infer_seqlen(prompt.len(), answer.len(), cutoff_len);
    prompt.truncate(prompt_len);
    answer.truncate(answer_len);
    Ok((prompt, answer))
}

/// Ids of a text for pretraining (`stage: pt`): the first message's text, ended by eos, not cut.
///
/// # Errors
/// When the row has no text or it cannot be encoded.
pub fn pretraining(
    tokenizer: &Tokenizer,
    template: &Template,
    example: &Example,
    bos: bool,
) -> Result<Vec<u32>, RowError> {
    let text = example.prompt.first().ok_or("the row has no text")?;
    // The reference ends texts for Llama 3 as the base models were trained to.
    let eos =
        if template.name == "llama3" { Some("<|end_of_text|>") } else { tokenizer.eos_token() };
    let bos = tokenizer.bos_token().filter(|_| bos).unwrap_or_default();
    tokenizer.encode(&format!("{bos}{}{}", text.content, eos.unwrap_or_default()))
}
