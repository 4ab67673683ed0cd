//! The fields of a description with other tensors in the place of theirs.

use super::adamw::AdamW;
use super::attention::AttentionArgs;
use super::gemm::Gemm;
use super::reward_head::{PairLoss, RewardHeadGrads};
use super::rope::{Heads, Qkv, Rotary};
use crate::tensor::Tensor;

/// A field of an operation's description.
pub(super) trait Rebind<'b> {
    /// The field with the lifetime of its new tensors.
    type Bound;

    /// Puts `tensor(t)` in the place of each tensor `t`.
    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> Self::Bound;
}

impl<'b> Rebind<'b> for &Tensor {
    type Bound = &'b Tensor;

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> &'b Tensor {
        tensor(self)
    }
}

impl<'b, T: Rebind<'b>> Rebind<'b> for Option<T> {
    type Bound = Option<T::Bound>;

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> Self::Bound {
        self.map(|t| t.rebind(tensor))
    }
}

impl<'b, T: Rebind<'b>, U: Rebind<'b>> Rebind<'b> for (T, U) {
    type Bound = (T::Bound, U::Bound);

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> Self::Bound {
        (self.0.rebind(tensor), self.1.rebind(tensor))
    }
}

impl<'b, T: Rebind<'b>, const N: usize> Rebind<'b> for [T; N] {
    type Bound = [T::Bound; N];

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> Self::Bound {
        self.map(|t| t.rebind(tensor))
    }
}

impl<'b> Rebind<'b> for Qkv<'_> {
    type Bound = Qkv<'b>;

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> Qkv<'b> {
        Qkv { q: self.q.rebind(tensor), kv: self.kv.rebind(tensor) }
    }
}

impl<'b> Rebind<'b> for AttentionArgs<'_> {
    type Bound = AttentionArgs<'b>;

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> AttentionArgs<'b> {
        let Self { heads, spans, query_tokens, scale } = self;
        AttentionArgs { heads, spans: tensor(spans), query_tokens: tensor(query_tokens), scale }
    }
}

impl<'b> Rebind<'b> for RewardHeadGrads<'_> {
    type Bound = RewardHeadGrads<'b>;

    fn rebind(self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> RewardHeadGrads<'b> {
        RewardHeadGrads { dx: tensor(self.dx), dnorm: tensor(self.dnorm), dhead: tensor(self.dhead) }
    }
}

/// Fields that hold no tensor stay as they are.
macro_rules! plain {
    ($($type:ty),*) => {
        $(
            impl<'b> Rebind<'b> for $type {
                type Bound = Self;

                fn rebind(self, _: &dyn Fn(&Tensor) -> &'b Tensor) -> Self {
                    self
                }
            }
        )*
    };
}
plain!(f64, Gemm, Heads, Rotary, &'b AdamW, &'b PairLoss);
