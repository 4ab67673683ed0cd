//! That no output of a command takes the place of its input, or of another output.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::data::STDIN;
use crate::error::{Error, Result};
use crate::files;

/// A file that was named on the command line, with the option that names it.
pub type Named<'a> = (&'a str, &'a Path);

/// Checks that each of `outputs` is a file of its own: none of `inputs`, no file of a model in a folder among them, and no
/// other output, by whatever name or link. An input `-` is what standard input comes from.
///
/// # Errors
/// The user's, with both options.
pub fn check_distinct(inputs: &[Named], outputs: &[Named]) -> Result<()> {
    for (i, &(option, path)) in outputs.iter().enumerate() {
        let place = Place::of(path);
        let others = inputs.iter().chain(outputs.get(..i).unwrap_or_default());
        if let Some((other, _)) = others.copied().find(|(_, other)| place.is_in(other)) {
            return Err(Error::user(format!(
                "{other} and {option} are the same file, {}: give {option} another name",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Where a name leads.
#[derive(PartialEq, Eq)]
enum Place {
    /// A file that is there: device and inode, which all its names share.
    File(u64, u64),
    /// What is not there yet.
    Name(PathBuf),
}

impl Place {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) => Self::File(found.dev(), found.ino()),
            Err(_) => {
                let folder = files::parent(path);
                let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
                Self::Name(folder.join(path.file_name().unwrap_or_default()))
            }
        }
    }

    /// Whether this is `path`, or a file of the model in that folder.
    fn is_in(&self, path: &Path) -> bool {
        let path = if path == Path::new(STDIN) { Path::new("/dev/stdin") } else { path };
        let inside = |entries: fs::ReadDir| {
            let mut files = entries.flatten().map(|entry| entry.path()).filter(|path| is_of_a_model(path));
            files.any(|path| *self == Self::of(&path))
        };
        *self == Self::of(path) || fs::read_dir(path).is_ok_and(inside)
    }
}

/// Whether a model is read from a file of this name. Others in its folder may be outputs of before.
fn is_of_a_model(path: &Path) -> bool {
    const ENDINGS: [&str; 7] = ["safetensors", "bin", "gguf", "pt", "pth", "model", "jinja"];
    const NAMES: [&str; 12] = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
        "vocab.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "polar_raw.json",
        // Of a checkpoint.
        "state.json",
        "COMPLETE",
    ];
    let ends = path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
    ends || path.file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_file_by_two_names_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("model")).unwrap();
        fs::write(path("rows"), "").unwrap();
        fs::write(path("model/weights.safetensors"), "").unwrap();
        fs::write(path("model/config.json"), "").unwrap();
        fs::write(path("model/scores.jsonl"), "").unwrap();
        fs::write(path("other"), "").unwrap();
        symlink(path("rows"), path("link")).unwrap();
        symlink(path("model"), path("folder-link")).unwrap();
        fs::hard_link(path("rows"), path("hard")).unwrap();
        let same = |input: &str, output: &str| {
            check_distinct(&[("--input", &path(input))], &[("--output", &path(output))]).is_err()
        };
        for name in ["rows", "link", "hard", "./rows", "model/../rows"] {
            assert!(same("rows", name) && same(name, "rows"), "{name}");
        }
        assert!(same("model", "model/weights.safetensors") && same("model", "folder-link/config.json"));
        assert!(!same("model", "model/scores.jsonl"), "an output of before");
        assert!(!same("rows", "other") && !same("rows", "new") && !same("model", "model/new"));
        // Two outputs that are not there yet.
        let outputs = |a: &str, b: &str| check_distinct(&[], &[("--json", &path(a)), ("--html", &path(b))]);
        let message = outputs("model/new", "folder-link/new").unwrap_err().to_string();
        assert!(message.contains("--json and --html are the same file"), "{message}");
        outputs("model/new", "new").unwrap();
    }
}
