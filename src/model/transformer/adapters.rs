//! Adapters beside the projections that they are of, forward and backward.

use std::ops::Range;

use super::{Layer, LayerGrads, Pass, Split};
use crate::backend::{Gemm, Operations};
use crate::config::Projection;
use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::tensor::{Slot, Tensor};

impl Pass<'_> {
    /// Adds to `y` what the adapters of `projections` make of `x`.
    pub(super) fn adapt(&self, layer: &Layer, projections: &[Projection], y: &Tensor, x: &Tensor) -> Result<()> {
        for (projection, adapter) in layer.adapters(projections) {
            let low = self.low_rank(adapter, x)?;
            for Band { columns, rows } in layer.bands(projection) {
                let y = y.slice_cols(columns);
                self.backend.gemm(Gemm::Nt, &y, &low, &adapter.b.slice_rows(rows), Some(&y))?;
            }
        }
        Ok(())
    }

    /// The scaled product of `x` with an adapter's first factor, `[rows, rank]`.
    fn low_rank(&self, adapter: &Adapter, x: &Tensor) -> Result<Tensor> {
        let [product, scaled] = self.workspace.temporaries.low_rank;
        let dims = [x.rows(), adapter.a.rows()];
        let product = self.buffer(product, &dims);
        self.backend.gemm(Gemm::Nt, &product, x, &adapter.a, None)?;
        self.scaled(&product, scaled)
    }

    /// `alpha / rank` times `x`, in the buffer `slot`.
    fn scaled(&self, x: &Tensor, slot: Slot) -> Result<Tensor> {
        let scale = self.model.params.scale.as_ref().ok_or_else(|| Error::machine("an adapter without a scale"))?;
        let scaled = self.buffer(slot, x.dims());
        self.backend.gemm(Gemm::Nt, &scaled, x, scale, None)?;
        Ok(scaled)
    }

    /// Adds the gradients of the adapters of `projections`, which made a part of `y` of `x`, and theirs of `x` to `dx`.
    pub(super) fn adapt_backward(
        &self,
        layer: &Layer,
        projections: &[Projection],
        dx: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        grads: &LayerGrads,
    ) -> Result<()> {
        for (projection, adapter) in layer.adapters(projections) {
            let dlow = self.factors_backward(layer, projection, adapter, dy, x, grads)?;
            self.backend.gemm(Gemm::Nn, dx, &dlow, &adapter.a, Some(dx))?;
        }
        Ok(())
    }

    /// Adds the gradients of an adapter's factors; that of the product of `x` with the first, `[rows, rank]`.
    pub(super) fn factors_backward(
        &self,
        layer: &Layer,
        projection: Projection,
        adapter: &Adapter,
        dy: &Tensor,
        x: &Tensor,
        grads: &LayerGrads,
    ) -> Result<Tensor> {
        let (b, temporaries) = (self.backend, &self.workspace.temporaries);
        let missing = || Error::machine("no gradient for an adapter");
        let dadapter = grads.adapter(projection).ok_or_else(missing)?;
        // The forward pass's own product: it takes less time than a buffer for each adapter would take memory.
        let low = self.low_rank(adapter, x)?;
        let dscaled = self.buffer(temporaries.low_rank[0], low.dims());
        for (at, Band { columns, rows }) in layer.bands(projection).enumerate() {
            let (dy, db) = (dy.slice_cols(columns), dadapter.b.slice_rows(rows.clone()));
            b.gemm(Gemm::Tn, &db, &dy, &low, Some(&db))?;
            b.gemm(Gemm::Nn, &dscaled, &dy, &adapter.b.slice_rows(rows), (at > 0).then_some(&dscaled))?;
        }
        let dlow = self.scaled(&dscaled, temporaries.dlow_rank)?;
        b.gemm(Gemm::Tn, &dadapter.a, &dlow, x, Some(&dadapter.a))?;
        Ok(dlow)
    }
}

impl Layer<'_> {
    /// Those of `projections` that have an adapter, with it.
    fn adapters(&self, projections: &[Projection]) -> impl Iterator<Item = (Projection, &Adapter)> {
        projections.iter().filter_map(|of| Some((*of, self.weights.adapter(*of)?)))
    }

    /// Where the result of a projection lies in that of the product which it is a part of, band by band.
    fn bands(&self, projection: Projection) -> impl Iterator<Item = Band> + use<> {
        let (heads, ffn) = (self.args.heads, self.weights.w2.cols());
        let split = Split::new(heads);
        // First column, columns from one band to the next, columns of a band, bands.
        let (first, stride, width, count) = match (projection, self.last) {
            (Projection::Q, false) => (0, split.q + split.kv, split.q, heads.kv),
            (Projection::K, false) => (split.q, split.q + split.kv, heads.dim, heads.kv),
            (Projection::V, false) => (split.q + heads.dim, split.q + split.kv, heads.dim, heads.kv),
            // Of the last layer the fused projection is taken apart.
            (Projection::Q, true) => (0, 0, heads.kv * split.q, 1),
            (Projection::K, true) => (0, split.kv, heads.dim, heads.kv),
            (Projection::V, true) => (heads.dim, split.kv, heads.dim, heads.kv),
            (Projection::O | Projection::Down, _) => (0, 0, self.x.cols(), 1),
            (Projection::Gate, _) => (0, 0, ffn, 1),
            (Projection::Up, _) => (ffn, 0, ffn, 1),
        };
        (0..count).map(move |at| {
            let start = first + at * stride;
            Band { columns: start..start + width, rows: at * width..(at + 1) * width }
        })
    }
}

/// Columns of a product, and the rows of an adapter's second factor that are added to them.
struct Band {
    columns: Range<usize>,
    rows: Range<usize>,
}
