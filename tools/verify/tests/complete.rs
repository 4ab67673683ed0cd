//! The table has every operation of the runtime.

use std::collections::BTreeSet;

use polar_raw::backend::{Backend, Operations};
use polar_raw::cpu::Cpu;
use polar_raw::tensor::Tensor;
use verify::case::{Allowed, Case, Given, index, input, result, scratch, updated};
use verify::check::Prepared;
use verify::draw::{Class, Draw, Dtypes};

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows: BTreeSet<&str> = verify::rows::table().iter().map(|row| row.operation).collect();
    assert_eq!(polar_raw::ops::NAMES.iter().copied().collect::<BTreeSet<_>>(), rows);
}

#[test]
fn labels_name_one_case() {
    for row in verify::rows::table() {
        let specs = (row.cases)();
        let labels: BTreeSet<&str> = specs.iter().map(|spec| spec.label.as_str()).collect();
        assert_eq!(labels.len(), specs.len(), "{}", row.operation);
        assert!(specs.iter().any(|spec| spec.quick), "{} has no quick case", row.operation);
        assert!(labels.iter().all(|label| !label.contains('\'')), "{}", row.operation);
    }
}

/// The row of an operation calls that one, and says of each operand what its description leaves to the row. Every
/// run of a case looks at that.
#[test]
fn rows_fit_the_descriptions() {
    let dtypes = Dtypes::of(&Cpu::new());
    for row in verify::rows::table() {
        for spec in (row.cases)().into_iter().filter(|spec| spec.quick).take(2) {
            let case = (spec.draw)(&mut Draw::new(dtypes, 1, row.operation, &spec.label));
            let prepared = Prepared::new(&case, dtypes, 1).unwrap_or_else(|e| panic!("{} {e}", row.operation));
            assert_eq!(prepared.operation, row.operation, "{}", spec.label);
        }
    }
}

/// What a row may get wrong is an error, which names the operand.
#[test]
fn a_row_that_does_not_fit_is_refused() {
    fn bias(b: &dyn Backend, x: &[Tensor]) -> polar_raw::Result<()> {
        b.bias_forward(&x[0], &x[1])
    }
    fn gather(b: &dyn Backend, x: &[Tensor]) -> polar_raw::Result<()> {
        b.gather_forward(&x[0], &x[1], &x[2])
    }
    fn product(b: &dyn Backend, x: &[Tensor]) -> polar_raw::Result<()> {
        b.gemm_swiglu_backward(&x[0], &x[1], &x[2], &x[3])
    }
    fn fill(b: &dyn Backend, x: &[Tensor]) -> polar_raw::Result<()> {
        b.fill(&x[0], 1.0)
    }
    fn twice(b: &dyn Backend, x: &[Tensor]) -> polar_raw::Result<()> {
        fill(b, x)?;
        fill(b, x)
    }
    type Call = fn(&dyn Backend, &[Tensor]) -> polar_raw::Result<()>;
    let (two, close) = (|| vec![0.5, 0.25], || Allowed::All(0.1));
    let (row, rows) = ([1, 2], || index(&[1], &[0]));
    let of_product = |dy| vec![updated(&[1, 4], [two(), two()].concat(), close()), dy, input(&row, two())];
    let network = |dy| of_product(dy).into_iter().chain([input(&[2, 2], [two(), two()].concat())]).collect();
    let cases: [(Call, Vec<Given>, &str); 13] = [
        (bias, vec![input(&row, two()), input(&row, two())], "y is a result without a bound"),
        (bias, vec![result(&row, close()), input(&row, two())], "y counts as it was, and the row has no values"),
        (bias, vec![updated(&row, two(), close()), updated(&row, two(), close())], "bias is no result"),
        (bias, vec![updated(&row, two(), close()), scratch(&row)], "bias counts as it was"),
        (bias, vec![updated(&row, two(), close()), input(&row, vec![0.1, 0.5])], "bias has values that its class"),
        (bias, vec![updated(&row, two(), close()), input(&row, two()).of_class(Class::Sum)], "bias is Float"),
        (gather, vec![updated(&row, two(), close()), input(&row, two()), rows()], "y does not count as it was"),
        (gather, vec![result(&row, close()), input(&row, two()), rows(), rows()], "operand 3 of the row is none of"),
        (product, network(result(&row, close())), "dy is no result"),
        (product, network(input(&row, two())), "dy does not count as it was"),
        (fill, vec![result(&row, close())], "x is FloatOrSum, and the row says None"),
        (twice, vec![result(&row, close()).of_class(Class::Sum)], "the row makes 2 calls and not one"),
        (|_, _| Ok(()), vec![input(&row, two())], "the row makes 0 calls and not one"),
    ];
    for (call, operands, wanted) in cases {
        let case = Case::exact(operands, call);
        let said = Prepared::new(&case, Dtypes::of(&Cpu::new()), 1).err().unwrap_or_default();
        assert!(said.contains(wanted), "{said:?}, and not {wanted:?}");
    }
}
