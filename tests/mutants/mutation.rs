//! One instruction of a kernel changed. It is found by what it is and by the line of the source that it was compiled
//! from, as `.loc` says: compiling the kernels again moves lines and renames registers, and neither matters.

use std::collections::HashMap;
use std::path::Path;

use polar_raw::cuda::kernel::Entry;
use polar_raw::cuda::ptx;

/// Where an instruction stands in a kernel.
pub struct Place {
    /// The whole opcode, `setp.ge.u32`.
    pub opcode: &'static str,
    /// A part of the line of `kernels/` that it was compiled from.
    pub source: &'static str,
    /// How many such instructions stand before it.
    pub nth: usize,
}

/// What happens to an instruction.
pub enum Edit {
    /// It goes.
    Remove,
    /// A part of its text becomes another.
    Replace(&'static str, &'static str),
    /// Two operands change places; they are counted from 0, those in braces one by one.
    Swap(usize, usize),
    /// All warps of a block but the first return before it.
    ExitBefore,
}

/// A module with one kernel changed.
pub struct Change {
    pub ptx: String,
    /// The instruction, before and after.
    pub text: String,
}

/// The kernel of a target that has a name. The error says that there is none.
pub fn entry(target: &str, name: &str) -> Result<&'static Entry, String> {
    let mut all = ptx::MODULES.iter().flat_map(|module| module.kernels);
    let found = all.find(|kernel| kernel.target.name == target && kernel.name == name);
    found.ok_or(format!("no kernel of {target} is called {name}"))
}

/// Changes a kernel of the committed PTX. The error says what was not found.
pub fn change(kernel: &'static Entry, place: &Place, edit: &Edit) -> Result<Change, String> {
    let (ptx, kernel) = (ptx::module_of(kernel).ok_or("a kernel is in no module")?.ptx, kernel.name);
    let entry = format!(".visible .entry {kernel}(");
    let begin = ptx.find(&entry).ok_or(format!("{kernel} has no entry"))?;
    let length = ptx[begin + entry.len()..].find(".visible .entry ").map_or(ptx.len() - begin, |at| at + entry.len());
    let (before, body, behind) = (&ptx[..begin], &ptx[begin..begin + length], &ptx[begin + length..]);
    let mut sources = Sources::new(ptx);
    let mut lines: Vec<String> = body.lines().map(str::to_owned).collect();
    let (mut here, mut left, mut found) = (String::new(), place.nth, None);
    for (i, line) in lines.iter().enumerate() {
        if let Some(at) = line.trim().strip_prefix(".loc") {
            here = sources.line(at)?;
        } else if here.contains(place.source) && opcode(line) == place.opcode {
            if left == 0 {
                found = Some(i);
                break;
            }
            left -= 1;
        }
    }
    let i = found.ok_or_else(|| {
        let seen = place.nth - left;
        format!("number {} of `{}` at `{}` is not there; {seen} are", place.nth, place.opcode, place.source)
    })?;
    let changed = edited(&lines[i], edit)?;
    if changed.trim() == lines[i].trim() {
        return Err(format!("`{}` stays as it is", lines[i].trim()));
    }
    let text = format!("`{}` is `{}`, from `{}`", lines[i].trim(), changed.trim(), here.trim());
    lines[i] = changed;
    Ok(Change { ptx: format!("{before}{}\n{behind}", lines.join("\n")), text })
}

/// The opcode of an instruction, behind its guard.
fn opcode(line: &str) -> &str {
    let mut words = line.trim().trim_end_matches(';').split_whitespace();
    let first = words.next().unwrap_or_default();
    if first.starts_with('@') { words.next().unwrap_or_default() } else { first }
}

fn edited(line: &str, edit: &Edit) -> Result<String, String> {
    Ok(match *edit {
        Edit::Remove => String::new(),
        Edit::Replace(from, to) => line.replacen(from, to, 1),
        Edit::Swap(a, b) => {
            let opcode = opcode(line);
            let start = line.find(opcode).map_or(0, |at| at + opcode.len());
            let operands: Vec<&str> =
                line[start..].split([' ', '\t', ',', '{', '}', ';']).filter(|s| !s.is_empty()).collect();
            let (Some(a), Some(b)) = (operands.get(a), operands.get(b)) else {
                return Err(format!("`{}` has no operands {a} and {b}", line.trim()));
            };
            // Each is where it lies in the line: the operands are slices of it.
            let at = |operand: &str| operand.as_ptr() as usize - line.as_ptr() as usize;
            let ((first, i), (second, j)) =
                if at(a) < at(b) { ((a, at(a)), (b, at(b))) } else { ((b, at(b)), (a, at(a))) };
            let (between, rest) = (&line[i + first.len()..j], &line[j + second.len()..]);
            format!("{}{second}{between}{first}{rest}", &line[..i])
        }
        Edit::ExitBefore => format!(
            "{{\n.reg .pred %leaves;\n.reg .b32 %thread;\nmov.u32 %thread, %tid.x;\nsetp.gt.u32 %leaves, %thread, 31;\n\
             @%leaves ret;\n}}\n{line}"
        ),
    })
}

/// The lines of the sources that a module names.
struct Sources {
    paths: HashMap<String, String>,
    texts: HashMap<String, Vec<String>>,
}

impl Sources {
    fn new(ptx: &str) -> Self {
        let file = |line: &str| {
            let (number, path) = line.trim().strip_prefix(".file")?.trim().split_once(' ')?;
            Some((number.to_owned(), path.trim().trim_matches('"').to_owned()))
        };
        Self { paths: ptx.lines().filter_map(file).collect(), texts: HashMap::new() }
    }

    /// The line that `.loc FILE LINE COLUMN` means. NVIDIA's own headers are not here, and their lines empty.
    fn line(&mut self, loc: &str) -> Result<String, String> {
        let mut numbers = loc.split_whitespace();
        let (file, line) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let path = self.paths.get(file).ok_or(format!(".loc names a file {file}, which no .file does"))?;
        let number: usize = line.parse().map_err(|_| format!(".loc has a line `{line}`"))?;
        if !path.starts_with("kernels/") {
            return Ok(String::new());
        }
        if !self.texts.contains_key(path) {
            let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            let text = std::fs::read_to_string(&full).map_err(|e| format!("cannot read {}: {e}", full.display()))?;
            self.texts.insert(path.clone(), text.lines().map(str::to_owned).collect());
        }
        Ok(number.checked_sub(1).and_then(|i| self.texts[path].get(i)).cloned().unwrap_or_default())
    }
}

#[test]
fn instructions_are_edited_and_what_is_not_there_is_an_error() {
    let sub = "\tsub.f32 \t%f1, %f23, %f2;";
    assert_eq!(edited(sub, &Edit::Swap(1, 2)), Ok("\tsub.f32 \t%f1, %f2, %f23;".into()));
    assert_eq!(
        edited("mma.x {%f1}, {%r1, %r2}, {%f1};", &Edit::Swap(2, 1)).unwrap(),
        "mma.x {%f1}, {%r2, %r1}, {%f1};"
    );
    assert_eq!(opcode("@%p1 bra \t$L__BB0_7;"), "bra");
    let place = |opcode, source, nth| Place { opcode, source, nth };
    let bound = "if (row >= p.rows)";
    let rope = entry("sm_80", "rope_forward_any").unwrap();
    assert!(change(rope, &place("setp.ge.u32", bound, 0), &Edit::Remove).is_ok());
    assert!(change(rope, &place("setp.ge.u32", bound, 1), &Edit::Remove).is_err());
    assert!(change(rope, &place("setp.ge.u32", "no such line", 0), &Edit::Remove).is_err());
    assert!(change(rope, &place("setp.ge.u32", bound, 0), &Edit::Replace("lt", "le")).is_err());
    assert!(entry("sm_80", "no_such_kernel").is_err());
    assert!(entry("sm_9", "rope_forward_any").is_err());
}
