//! What operations say that they cost at least, against what the kernels do, on the cases of the table: from these
//! figures come the floors of the benches, the share of the peak and what a trace says.

use std::cell::Cell;

use polar_raw::Result;
use polar_raw::backend::{Backend, Checked};
use polar_raw::cuda::Cuda;
use polar_raw::ops::Work;
use polar_raw::wrap::{self, Around};
use verify::check::Prepared;
use verify::draw::{Draw, Dtypes};

/// The bytes of a sector, of which memory moves whole ones.
const SECTOR: u64 = 32;

/// What a kernel may read besides its operands: the rotary frequencies of a head of 256.
const TABLE: u64 = 128 * 4;

/// What one operation has moved and multiplied.
#[derive(Clone, Copy, Default)]
struct Done {
    work: Work,
    moved: u64,
    products: u64,
    launches: usize,
    /// Whether the floor is all of the operands: of keys that nobody sees a tile may hold some.
    whole: bool,
    /// What may be moved above the least: operands, or chosen rows of them, may begin and end within a sector, and what
    /// is updated is moved twice.
    ends: u64,
}

/// A card whose kernels are counted.
struct Counted {
    cuda: Cuda,
    done: Cell<Done>,
}

impl Around for Counted {
    fn inner(&self) -> &dyn Backend {
        &self.cuda
    }

    fn around(&self, op: &Checked) -> Result<()> {
        let work = wrap::work(&self.cuda, op.op())?;
        self.cuda.reports()?;
        // SAFETY: checked for the dtypes, memory and indices of the one inside, which `Around` hands on.
        unsafe { self.cuda.execute(op) }?;
        let reports = self.cuda.reports()?;
        let sectors =
            |counters: &emulator::Counters| counters.loads.footprint_sectors + counters.stores.footprint_sectors;
        let operands = op.op().op().operands();
        let ends = operands.iter().map(|o| match o.tensor.is_dense() && o.moved == o.tensor.len() {
            true => 2 * SECTOR,
            false => 4 * SECTOR * o.tensor.rows() as u64,
        });
        self.done.set(Done {
            work,
            moved: reports.iter().map(|report| SECTOR * sectors(&report.counters)).sum(),
            products: reports.iter().map(|report| report.counters.mma_operations).sum(),
            launches: reports.len(),
            whole: work.bytes == operands.moves().bytes,
            ends: ends.sum(),
        });
        Ok(())
    }
}

/// No kernel does less than its operation's `work`, and where one launch does it all, it moves that and no more.
#[test]
fn work_is_what_kernels_do_at_least() {
    let counted = Counted { cuda: Cuda::emulated().unwrap(), done: Cell::default() };
    let dtypes = Dtypes::of(&counted);
    let mut wrong = Vec::new();
    for row in verify::rows::table() {
        // A copy is the driver's.
        if row.operation == "copy" {
            continue;
        }
        let (mut most, mut reached) = (0, 0);
        for spec in (row.cases)().into_iter().filter(|spec| spec.quick && !spec.less) {
            let case = (spec.draw)(&mut Draw::new(dtypes, 1, row.operation, &spec.label));
            let prepared = Prepared::new(&case, dtypes, 1).unwrap();
            prepared.call(&counted, &prepared.tensors(&counted).unwrap()).unwrap();
            let Done { work, moved, products, launches, whole, ends } = counted.done.take();
            // There is no element to compute.
            if launches == 0 {
                continue;
            }
            let name = format!("{} {}, {launches} launches", row.operation, spec.label);
            if moved < work.bytes || products < work.matrix {
                wrong.push(format!("{name}: a floor of {work:?}; {moved} B are moved and {products} operations done"));
            }
            if launches == 1 && whole && moved > work.bytes + ends + TABLE {
                wrong.push(format!("{name}: a floor of {} B, and {moved} are moved, {ends} of ends", work.bytes));
            }
            most = most.max(moved);
            reached += usize::from(launches == 1);
        }
        println!("{}: at most {most} B, {reached} cases of one launch", row.operation);
        assert!(most > 0, "{}: nothing was moved", row.operation);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
