//! The reward head with its pair loss, and the language model's cross-entropy.

use polar_raw::backend::{Gemm, Operations, PairLoss, RewardHeadGrads};
use polar_raw::config::{LossKind, PenaltyKind};
use polar_raw::cuda::abi::{self, CrossEntropyParams, RewardHeadParams};
use polar_raw::cuda::{gemm, linear_cross_entropy as cross_entropy, reward_head as head_kernels};
use polar_raw::reference::Reference;

use crate::device::{Device, Kernels};
use crate::values::{BF16, Draw, close, empty, indices, tensor, values_of};

const EPS: f64 = 1e-5;
const LOSSES: [(LossKind, u32); 2] = [(LossKind::Ranking, abi::LOSS_RANKING), (LossKind::Focal, abi::LOSS_FOCAL)];
const PENALTIES: [(PenaltyKind, u32); 3] = [
    (PenaltyKind::None, abi::PENALTY_NONE),
    (PenaltyKind::LogBarrier, abi::PENALTY_LOG_BARRIER),
    (PenaltyKind::L2, abi::PENALTY_L2),
];

/// Rows, columns and pairs. Rows that stand in several pairs, rows that stand in none.
fn shapes() -> Vec<(usize, usize, Vec<u32>)> {
    vec![
        (2, 1, vec![0, 1]),
        (3, 8, vec![0, 1, 0, 2]),
        (5, 77, vec![4, 0, 1, 2]),
        (9, 264, vec![0, 1, 2, 3, 4, 5, 6, 7, 0, 7]),
        (40, 136, (0..40).collect()),
        // More rows, and more pairs, than a block has threads.
        (300, 8, (0..290).flat_map(|i| [i, (i * 7 + 1) % 300]).collect()),
    ]
}

pub fn reward_head(kernels: &Kernels) {
    for (rows, columns, pairs) in shapes() {
        for (kind, loss_kind) in LOSSES {
            for (penalty, penalty_kind) in PENALTIES {
                for fused in [true, false] {
                    let what = format!("{rows}x{columns} {kind:?} {penalty:?} fused {fused}");
                    let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
                    let x = draw.bf16(rows * columns, 2.0);
                    let (norm, head) = (draw.bf16(columns, 1.0), draw.bf16(columns, 0.5));
                    let (dnorm, dhead) = (draw.f32(columns, 1.0), draw.f32(columns, 1.0));
                    let loss = PairLoss { kind, penalty, penalty_weight: 0.25, scale: 0.125 };
                    let params = RewardHeadParams {
                        scores: device.poisoned(4 * rows),
                        rstd: device.poisoned(4 * rows),
                        dscores: device.poisoned(4 * rows),
                        loss: device.f32(&[3.0]),
                        dx: device.poisoned(2 * rows * columns),
                        dnorm: device.f32(&dnorm),
                        dhead: device.f32(&dhead),
                        x: device.bf16(&x),
                        select: 0,
                        norm: device.bf16(&norm),
                        head: device.bf16(&head),
                        pairs: device.u32(&pairs),
                        rows: rows as u32,
                        columns: columns as u32,
                        n_pairs: pairs.len() as u32 / 2,
                        loss_kind,
                        penalty_kind,
                        penalty_weight: 0.25,
                        scale: 0.125,
                        eps: EPS as f32,
                    };
                    if fused {
                        device.launch(&head_kernels::plan_loss(rows, columns), &params);
                    } else {
                        device.launch(&head_kernels::plan_forward(rows), &params);
                        for launch in head_kernels::plan_unfused(columns) {
                            device.launch(&launch, &params);
                        }
                    }
                    let (scores, total) = (empty(&[rows]), tensor(&[3.0], &[1]));
                    let dx = empty(&[rows, columns]);
                    let (dnorm, dhead) = (tensor(&dnorm, &[columns]), tensor(&dhead, &[1, columns]));
                    let grads = RewardHeadGrads { dx: &dx, dnorm: &dnorm, dhead: &dhead };
                    let (x, norm) = (tensor(&x, &[rows, columns]), tensor(&norm, &[columns]));
                    let (head, pairs) = (tensor(&head, &[1, columns]), indices(&pairs, &[pairs.len() / 2, 2]));
                    let eps = f64::from(EPS as f32);
                    Reference.reward_head_loss(&scores, &total, grads, &x, &norm, &head, &pairs, &loss, eps).unwrap();
                    close(&what, &device.read_f32(params.scores, rows), &values_of(&scores), 1e-6, 1e-5);
                    close(&what, &device.read_f32(params.loss, 1), &values_of(&total), 1e-5, 1e-5);
                    close(&what, &device.read_bf16(params.dx, rows * columns), &values_of(&dx), 1.1 * BF16, 1e-5);
                    close(&what, &device.read_f32(params.dnorm, columns), &values_of(&dnorm), 1e-5, 1e-4);
                    close(&what, &device.read_f32(params.dhead, columns), &values_of(&dhead), 1e-5, 1e-4);
                }
            }
        }
    }
}

pub fn reward_head_of_selected_rows(kernels: &Kernels) {
    let (all, rows, columns) = (20, 11, 72);
    let (device, mut draw) = (Device::new(kernels), Draw::new(1));
    let (x, select) = (draw.bf16(all * columns, 1.0), draw.distinct(rows, all as u32));
    let (norm, head) = (draw.bf16(columns, 1.0), draw.bf16(columns, 1.0));
    let params = RewardHeadParams {
        scores: device.poisoned(4 * rows),
        x: device.bf16(&x),
        select: device.u32(&select),
        norm: device.bf16(&norm),
        head: device.bf16(&head),
        rows: rows as u32,
        columns: columns as u32,
        eps: EPS as f32,
        ..RewardHeadParams::default()
    };
    device.launch(&head_kernels::plan_forward(rows), &params);
    let (gathered, want) = (empty(&[rows, columns]), empty(&[rows]));
    Reference.gather_forward(&gathered, &tensor(&x, &[all, columns]), &indices(&select, &[rows])).unwrap();
    let (norm, head) = (tensor(&norm, &[columns]), tensor(&head, &[1, columns]));
    Reference.reward_head_forward(&want, &gathered, &norm, &head, f64::from(EPS as f32)).unwrap();
    close("scores", &device.read_f32(params.scores, rows), &values_of(&want), 1e-6, 1e-5);
}

/// The softmax from logits of its own, against the reference through a table that makes the same logits: the identity.
pub fn linear_cross_entropy(kernels: &Kernels) {
    for (rows, columns) in [(1, 1), (3, 8), (7, 77), (5, 520), (300, 3), (2, 5000)] {
        for gradient in [true, false] {
            let what = format!("{rows}x{columns} gradient {gradient}");
            let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
            let logits = draw.bf16(rows * columns, 20.0);
            let (targets, weights) = (draw.below(rows, columns as u32), draw.f32(rows, 2.0));
            let params = CrossEntropyParams {
                logits: device.bf16(&logits),
                targets: device.u32(&targets),
                weights: device.f32(&weights),
                losses: device.poisoned(4 * rows),
                loss: device.f32(&[1.0]),
                rows: rows as u32,
                columns: columns as u32,
                gradient: u32::from(gradient),
            };
            for launch in cross_entropy::plan(rows, columns.is_multiple_of(8)) {
                device.launch(&launch, &params);
            }

            let mut loss = 1.0;
            let mut dlogits = logits.clone();
            for (r, row) in dlogits.chunks_mut(columns).enumerate() {
                let (weight, target) = (weights[r], targets[r] as usize);
                let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = top + row.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
                loss += weight * (lse - row[target]);
                for (v, x) in row.iter_mut().enumerate() {
                    *x = weight * ((*x - lse).exp() - if v == target { 1.0 } else { 0.0 });
                }
            }
            close(&what, &device.read_f32(params.loss, 1), &[loss], 1e-5, 1e-4);
            let got = device.read_bf16(params.logits, rows * columns);
            if gradient {
                close(&what, &got, &dlogits, 1.01 * BF16, 1e-5);
            } else {
                close(&what, &got, &logits, 0.0, 0.0);
            }
        }
    }
}

/// The whole operation as a backend runs it, chunk by chunk through the four kernels, against the reference.
pub fn linear_cross_entropy_in_chunks(kernels: &Kernels) {
    let (rows, hidden, vocabulary, chunk) = (21, 40, 72, 8);
    let (device, mut draw) = (Device::new(kernels), Draw::new(5));
    let (x, table) = (draw.bf16(rows * hidden, 1.0), draw.bf16(vocabulary * hidden, 1.0));
    let (targets, weights) = (draw.below(rows, vocabulary as u32), draw.f32(rows, 1.0));
    let dtable = draw.f32(vocabulary * hidden, 1.0);
    let [x_at, table_at] = [&x, &table].map(|values| device.bf16(values));
    let (dx_at, dtable_at) = (device.poisoned(2 * rows * hidden), device.f32(&dtable));
    let (targets_at, weights_at) = (device.u32(&targets), device.f32(&weights));
    let loss_at = device.f32(&[0.0]);
    let (logits, losses) = (device.poisoned(2 * chunk * vocabulary), device.poisoned(4 * chunk));
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let product = |layout: Gemm, [out, a, b]: [u64; 3], [m, n, k]: [usize; 3], ld: [usize; 3], to_f32: bool| {
            let [ldout, lda, ldb] = ld.map(|ld| ld as u32);
            let params = abi::GemmParams {
                out,
                a,
                b,
                addend: if to_f32 { out } else { 0 },
                m: m as u32,
                n: n as u32,
                k: k as u32,
                lda,
                ldb,
                ldout,
                ldaddend: ldout,
                out_is_f32: u32::from(to_f32),
                ..abi::GemmParams::default()
            };
            let product = gemm::Product::Plain(layout);
            let description = gemm::Description { product, m, n, k, aligned: true };
            device.launch(&gemm::plan(&description, &Device::properties()).unwrap(), &params);
        };
        let (x_here, dx_here) = (x_at + 2 * (start * hidden) as u64, dx_at + 2 * (start * hidden) as u64);
        let lds = [vocabulary, hidden, hidden];
        product(Gemm::Nt, [logits, x_here, table_at], [n, vocabulary, hidden], lds, false);
        let params = CrossEntropyParams {
            logits,
            targets: targets_at + 4 * start as u64,
            weights: weights_at + 4 * start as u64,
            losses,
            loss: loss_at,
            rows: n as u32,
            columns: vocabulary as u32,
            gradient: 1,
        };
        for launch in cross_entropy::plan(n, true) {
            device.launch(&launch, &params);
        }
        let lds = [hidden, vocabulary, hidden];
        product(Gemm::Nn, [dx_here, logits, table_at], [n, hidden, vocabulary], lds, false);
        product(Gemm::Tn, [dtable_at, logits, x_here], [vocabulary, hidden, n], lds, true);
    }
    let (loss, dx) = (tensor(&[0.0], &[1]), empty(&[rows, hidden]));
    let dtable = tensor(&dtable, &[vocabulary, hidden]);
    let (x, table) = (tensor(&x, &[rows, hidden]), tensor(&table, &[vocabulary, hidden]));
    let (targets, weights) = (indices(&targets, &[rows]), tensor(&weights, &[rows]));
    let scratch = empty(&[chunk, vocabulary]);
    Reference.linear_cross_entropy(&loss, Some((&dx, &dtable)), &x, &table, &targets, &weights, &scratch).unwrap();
    // Logits, of size up to 10, are rounded to bf16: 0.02 in the exponent.
    close("loss", &device.read_f32(loss_at, 1), &values_of(&loss), 0.0, 0.02 * rows as f64);
    close("dx", &device.read_bf16(dx_at, rows * hidden), &values_of(&dx), BF16, 0.05);
    close("dtable", &device.read_f32(dtable_at, vocabulary * hidden), &values_of(&dtable), 0.0, 0.05);
    // The reference's own product, so that the table's order of operands is not what is shared.
    let logits = empty(&[rows, vocabulary]);
    Reference.gemm(Gemm::Nt, &logits, &x, &table, None).unwrap();
    assert!(values_of(&logits).iter().any(|x| x.abs() > 2.0), "the case is too tame to tell right from wrong");
}
