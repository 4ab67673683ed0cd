//! The two things that a discriminator learns from: trajectories of known policies, and triples.

/// How prompt and trajectory are joined into POLAR's string (section 4.1 of the paper; the official client and
/// xtuner's `rm_utils.py`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrapper {
    /// `prompt \n reference <sep> prompt \n candidate <score>`: fine-tuning, and the default of the official client.
    #[default]
    Sft,
    /// `prompt reference <sep> prompt candidate <score>`: pre-training on continuations of text.
    Pretrain,
}

/// One output of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trajectory {
    /// The text that the policy answered.
    pub prompt: String,
    /// The name of the policy: a model, a checkpoint, a decoding.
    pub policy: String,
    /// What the policy wrote.
    pub output: String,
}

/// What the ranking loss compares: `r(prompt, reference, chosen)` is to exceed `r(prompt, reference, rejected)`.
///
/// In pre-training `reference` and `chosen` are two samples of one policy and `rejected` is one of another (Eq. 7);
/// in fine-tuning the three are ranked by people, best first (Eq. 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triple {
    /// The prompt that all three answer. Roles are dropped: messages are joined by newlines.
    pub prompt: String,
    /// The trajectory to compare with.
    pub reference: String,
    /// The one that is to score higher.
    pub chosen: String,
    /// The one that is to score lower.
    pub rejected: String,
    /// The row's own wrapper, if it names one.
    pub wrapper: Option<Wrapper>,
}
