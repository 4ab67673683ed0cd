//! The files that a name stands for: a file, all files of data in a folder, or those that fit a pattern.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The name that stands for standard input.
pub(crate) const STDIN: &str = "-";
/// How names of files of data end, in small letters or capitals; one of [`PACKED`] may follow.
const ENDINGS: [&str; 6] = ["jsonl", "jsonlines", "ndjson", "json", "txt", "parquet"];
const PACKED: [&str; 3] = ["zst", "zstd", "gz"];

/// The files that `name` stands for, in the order of their names: itself, and `-`; the files of data in a folder; or, if
/// there is nothing of that name, what fits it as a pattern of `*`, `?`, `[ab]` and `**`.
///
/// # Errors
/// The user's: a folder without a file of data, a pattern that nothing fits, or that is none.
pub fn files_of(name: &Path) -> Result<Vec<PathBuf>> {
    match fs::metadata(name) {
        _ if name == Path::new(STDIN) => {}
        Ok(found) if found.is_dir() => return in_folder(name),
        Err(_) if name.to_string_lossy().contains(['*', '?', '[']) => return fitting(name),
        // Whatever else is wrong with it is said when it is opened.
        _ => {}
    }
    Ok(vec![name.to_path_buf()])
}

/// The files that each of `names` stands for, for what reads its data more than once.
///
/// # Errors
/// As [`files_of`], and the user's for standard input.
pub fn files_to_keep(names: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if names.iter().any(|name| name == Path::new(STDIN)) {
        return Err(Error::user(
            "training reads its data more than once, and standard input (-) gives them once: save them as a file, and \
             give that",
        ));
    }
    let mut all = Vec::new();
    let mut seen: HashMap<(u64, u64), PathBuf> = HashMap::new();
    for name in names {
        for file in files_of(name)? {
            // What is not there is said when it is opened.
            let before = identity(&file).and_then(|id| seen.insert(id, file.clone()));
            if let Some(before) = before {
                return Err(Error::user(format!(
                    "{} and {} are one file, whose rows would count twice: name it once",
                    before.display(),
                    file.display()
                )));
            }
            all.push(file);
        }
    }
    Ok(all)
}

/// What a file is, by whatever name or link it is reached.
fn identity(file: &Path) -> Option<(u64, u64)> {
    fs::metadata(file).ok().map(|found| (found.dev(), found.ino()))
}

/// Drops what is one file with an earlier one: a link to it, or it again on a way through a link to a folder.
fn once(files: &mut Vec<PathBuf>) {
    let mut seen = HashSet::new();
    files.retain(|file| identity(file).is_none_or(|id| seen.insert(id)));
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", folder, &e);
    let entries = fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(|path| is_data(path)).collect();
    files.sort();
    once(&mut files);
    if files.is_empty() {
        let endings = ENDINGS.map(|ending| format!(".{ending}")).join(", ");
        return Err(Error::user(format!(
            "{0}: there is no file of data in this folder: names that end in {endings}, or in one of these and .zst or \
             .gz; name files of folders in it by a pattern, as in '{0}/**/*.jsonl'",
            folder.display()
        )));
    }
    Ok(files)
}

/// Whether a file of a folder is taken for data: what is hidden is somebody else's.
fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lower = name.to_lowercase();
    let plain =
        lower.rsplit_once('.').filter(|(_, ending)| PACKED.contains(ending)).map_or(&*lower, |(plain, _)| plain);
    let known = plain.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending));
    known && !name.starts_with('.') && !path.is_dir()
}

fn fitting(pattern: &Path) -> Result<Vec<PathBuf>> {
    let shown = pattern.display();
    let text = pattern.to_str().ok_or_else(|| Error::user(format!("{shown}: a pattern is UTF-8")))?;
    let unread = |error: glob::PatternError| Error::user(format!("{shown}: not a pattern of names: {error}"));
    // What is hidden is somebody else's, unless it is asked for.
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    let mut files = Vec::new();
    if text.contains("**") {
        let matcher = glob::Pattern::new(text).map_err(unread)?;
        let fixed = pattern.iter().take_while(|part| !part.to_string_lossy().contains(['*', '?', '[']));
        walk(&fixed.collect::<PathBuf>(), &|path| matcher.matches_path_with(path, options), &mut files)?;
    } else {
        for path in glob::glob_with(text, options).map_err(unread)? {
            files.push(path.map_err(|error| Error::io("read", error.path(), error.error()))?);
        }
    }
    files.retain(|path| !path.is_dir());
    files.sort();
    once(&mut files);
    match files.is_empty() {
        true => Err(Error::user(format!("{shown}: there is no such file, and none that fits it as a pattern"))),
        false => Ok(files),
    }
}

/// What `fits` of all that lies below a folder. Links to folders are not followed: they may lead back.
fn walk(folder: &Path, fits: &impl Fn(&Path) -> bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |error| Error::io("read", here, &error);
    let entries = match fs::read_dir(here) {
        // Nothing lies below what is not there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let path = folder.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&path, fits, files)?;
        } else if fits(&path) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("deep/er.jsonl")).unwrap();
        for name in [
            "b.jsonl",
            "a.json.gz",
            "c.txt.zst",
            "d.parquet",
            ".hidden.jsonl",
            "README.md",
            "jsonl",
            "deep/x.jsonl",
            "D.JSONL",
        ] {
            fs::write(path(name), "").unwrap();
        }
        fs::write(path("literal[1].jsonl"), "").unwrap();
        let names = |name: &str| -> Vec<String> {
            let files = files_of(&path(name)).unwrap();
            files.iter().map(|file| file.strip_prefix(folder.path()).unwrap().display().to_string()).collect()
        };
        // Each doubles what a walk that followed them would see, at every level.
        for link in ["deep/loop", "deep/again"] {
            std::os::unix::fs::symlink(folder.path(), path(link)).unwrap();
        }
        std::os::unix::fs::symlink(path("b.jsonl"), path("latest.jsonl")).unwrap();
        assert_eq!(names(""), ["D.JSONL", "a.json.gz", "b.jsonl", "c.txt.zst", "d.parquet", "literal[1].jsonl"]);
        assert_eq!(names("*.jsonl"), ["b.jsonl", "literal[1].jsonl"]);
        assert_eq!(names("**/*.jsonl"), ["b.jsonl", "deep/x.jsonl", "literal[1].jsonl"]);
        assert_eq!(names("[ab].json*"), ["a.json.gz", "b.jsonl"]);
        assert_eq!(names("literal[1].jsonl"), ["literal[1].jsonl"], "a name before a pattern");
        assert_eq!(names("none.jsonl"), ["none.jsonl"], "said when it is opened");
        assert_eq!(files_of(Path::new("-")).unwrap(), [PathBuf::from("-")]);
        for (name, part) in
            [("none*.jsonl", "none that fits it"), ("***x", "not a pattern"), ("deep/er.jsonl", "er.jsonl/**/*.jsonl")]
        {
            let error = files_of(&path(name)).unwrap_err();
            assert!(error.to_string().contains(part) && error.exit_code() == 2, "{error}");
        }
        assert_eq!(files_to_keep(&[path("d*"), path("b.jsonl")]).unwrap(), [path("d.parquet"), path("b.jsonl")]);
        let twice = files_to_keep(&[path("b.jsonl"), path("*.jsonl")]).unwrap_err().to_string();
        assert!(twice.contains("b.jsonl are one file, whose rows would count twice"), "{twice}");
        assert!(files_to_keep(&[path("b.jsonl"), "-".into()]).unwrap_err().to_string().contains("standard input (-)"));
    }
}
