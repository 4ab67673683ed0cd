//! The learning rate over a run.

use std::f64::consts::PI;

use crate::config::{ScheduleKind, ScheduleSection};

/// The learning rate of step `step`, counted from 0, of a run of `steps` steps with peak `peak`.
///
/// The first `w = round(warmup_ratio * steps)` steps rise in a straight line: `peak * (step + 1) / w`. The first step
/// after them is at the peak and the last step of the run at `min_lr_ratio * peak` (for `constant`, at the peak).
/// Steps beyond the last have the rate of the last.
pub fn lr(section: &ScheduleSection, peak: f64, step: usize, steps: usize) -> f64 {
    let step = step.min(steps.saturating_sub(1));
    let warmup = share(section.warmup_ratio, steps);
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let rest = steps - warmup;
    let down = match section.kind {
        ScheduleKind::Constant => 0.0,
        ScheduleKind::Linear => progress(step - warmup, rest),
        ScheduleKind::Cosine => (1.0 - (PI * progress(step - warmup, rest)).cos()) / 2.0,
        ScheduleKind::Wsd => {
            let decay = share(section.decay_ratio, steps).min(rest);
            progress((step + decay).saturating_sub(steps), decay)
        }
    };
    peak * (1.0 - down * (1.0 - section.min_lr_ratio))
}

/// `ratio` of `steps`, rounded.
fn share(ratio: f64, steps: usize) -> usize {
    ((ratio * steps as f64).round() as usize).min(steps)
}

/// How far step `index` of `count` is on the way from 0, the first, to 1, the last.
fn progress(index: usize, count: usize) -> f64 {
    if count < 2 { 0.0 } else { index as f64 / (count - 1) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::{abs_diff_eq, assert_abs_diff_eq};
    use proptest::prelude::*;

    fn section() -> impl Strategy<Value = ScheduleSection> {
        let kind = prop::sample::select(vec![
            ScheduleKind::Cosine,
            ScheduleKind::Linear,
            ScheduleKind::Constant,
            ScheduleKind::Wsd,
        ]);
        (kind, 0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64).prop_map(|(kind, warmup_ratio, min_lr_ratio, decay_ratio)| {
            ScheduleSection { kind, warmup_ratio, min_lr_ratio, decay_ratio }
        })
    }

    proptest! {
        #[test]
        fn rises_then_never_rises_again(section in section(), peak in 1e-8..10.0f64, steps in 1usize..300) {
            let rates: Vec<f64> = (0..steps).map(|step| lr(&section, peak, step, steps)).collect();
            let warmup = share(section.warmup_ratio, steps);
            // Rounding is relative to the peak, however low a rate is.
            for (step, rate) in rates.iter().enumerate() {
                let low = if step < warmup { 0.0 } else { section.min_lr_ratio * peak };
                prop_assert!(*rate >= low - peak * 1e-12 && *rate <= peak * (1.0 + 1e-12), "step {step}: {rate}");
            }
            for (step, pair) in rates.windows(2).enumerate() {
                let rises = pair[1] > pair[0] + peak * 1e-12;
                prop_assert_eq!(rises, step + 1 < warmup, "between steps {} and {}", step, step + 1);
            }
        }

        #[test]
        fn begins_and_ends_where_it_says(section in section(), peak in 1e-8..10.0f64, steps in 4usize..300) {
            let near = |a: f64, b: f64| abs_diff_eq!(a, b, epsilon = 1e-12 * peak);
            let warmup = share(section.warmup_ratio, steps);
            if warmup > 0 {
                prop_assert!(near(lr(&section, peak, 0, steps), peak / warmup as f64));
                prop_assert!(near(lr(&section, peak, warmup - 1, steps), peak));
            }
            let descent = match section.kind {
                ScheduleKind::Constant => 0,
                ScheduleKind::Wsd => share(section.decay_ratio, steps).min(steps - warmup),
                _ => steps - warmup,
            };
            let last = if descent < 2 { peak } else { section.min_lr_ratio * peak };
            prop_assert!(near(lr(&section, peak, steps - 1, steps), last));
            prop_assert!(near(lr(&section, peak, steps + 7, steps), last));
            if descent > 0 {
                prop_assert!(near(lr(&section, peak, steps - descent, steps), peak));
            }
        }

        #[test]
        fn linear_is_wsd_without_a_stable_part(section in section(), steps in 1usize..300) {
            let linear = ScheduleSection { kind: ScheduleKind::Linear, ..section.clone() };
            let wsd = ScheduleSection { kind: ScheduleKind::Wsd, decay_ratio: 1.0, ..section };
            for step in 0..steps {
                prop_assert_eq!(lr(&linear, 1.0, step, steps), lr(&wsd, 1.0, step, steps));
            }
        }
    }

    #[test]
    fn cosine_is_halfway_down_in_the_middle() {
        let section =
            ScheduleSection { kind: ScheduleKind::Cosine, warmup_ratio: 0.0, min_lr_ratio: 0.1, decay_ratio: 0.0 };
        assert_abs_diff_eq!(lr(&section, 2.0, 50, 101), 1.1, epsilon = 1e-12);
        assert_abs_diff_eq!(lr(&section, 2.0, 25, 101), 1.1 + 0.9 * (PI / 4.0).cos(), epsilon = 1e-12);
    }
}
