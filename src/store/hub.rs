//! Models by the name that they have on the Hugging Face Hub, from the local cache of its programs. Nothing is fetched.
//!
//! The cache is that of `huggingface_hub`: `models--ORG--NAME/refs/REVISION` holds a commit, and
//! `models--ORG--NAME/snapshots/COMMIT` its files.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The longest text of a reference: a commit has 40 characters.
const MAX_COMMIT: usize = 64;

/// The folder of a model that is named on the command line: `path` if that exists or cannot be a name, else what the
/// cache has of `ORG/NAME` or `ORG/NAME@REVISION`, of which `main` is the usual one.
///
/// # Errors
/// The user's: a name that the cache does not have, with the command that fetches it.
pub fn locate(path: &Path) -> Result<PathBuf> {
    locate_in(path, cache(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)))
}

fn locate_in(path: &Path, cache: Option<PathBuf>) -> Result<PathBuf> {
    let Some(name) = path.to_str().filter(|_| !path.exists()).and_then(Name::parse) else {
        if path.exists() && !path.is_dir() {
            // What is no file either is said here, and not by the first file that is missed in it.
            files::open(path)?;
        }
        return Ok(path.to_path_buf());
    };
    let fetch = match name.revision {
        None => format!("hf download {}/{}", name.org, name.model),
        Some(revision) => format!("hf download {}/{} --revision {revision}", name.org, name.model),
    };
    let Some(cache) = cache else {
        return Err(Error::user(format!(
            "there is no folder {}, and no Hugging Face cache to look into: set HF_HOME, or give a folder",
            path.display()
        )));
    };
    name.find(&cache).ok_or_else(|| {
        Error::user(format!(
            "there is no folder {}, and the Hugging Face cache {} has no such model: fetch it with `{fetch}`, or give \
             a folder",
            path.display(),
            cache.display()
        ))
    })
}

/// Where the cache lies, as `huggingface_hub` decides.
fn cache(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let home = || variable("HF_HOME").map(|home| home.join("hub"));
    let own = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("HF_HUB_CACHE").or_else(home).or_else(|| Some(own()?.join("huggingface/hub")))
}

/// A model's name on the Hub.
struct Name<'a> {
    org: &'a str,
    model: &'a str,
    revision: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// `None` where the text is a path: one part, more than two, or one that begins with a dot.
    fn parse(text: &'a str) -> Option<Self> {
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (text, None),
        };
        let (org, model) = name.split_once('/')?;
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
        };
        let all = [Some(org), Some(model), revision].into_iter().flatten().all(plain);
        // A file of weights, and not a model of that name.
        let file = model.ends_with(".gguf") || model.ends_with(".safetensors");
        (all && !file).then_some(Self { org, model, revision })
    }

    fn find(&self, cache: &Path) -> Option<PathBuf> {
        let folder = cache.join(format!("models--{}--{}", self.org, self.model));
        let revision = self.revision.unwrap_or("main");
        let commit = files::read_text(&folder.join("refs").join(revision), 2 * MAX_COMMIT as u64).ok();
        let commit = commit.as_deref().map_or(revision, str::trim);
        let plain = !commit.is_empty() && commit.len() <= MAX_COMMIT && !commit.contains(['/', '\\', '.']);
        let snapshot = plain.then(|| folder.join("snapshots").join(commit))?;
        snapshot.is_dir().then_some(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_found_in_the_cache_and_a_path_is_left_alone() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--a.model-7B");
        for commit in ["0123abc", "4567def"] {
            fs::create_dir_all(folder.join("snapshots").join(commit)).unwrap();
        }
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "0123abc\n").unwrap();
        fs::write(folder.join("refs/v2"), "4567def").unwrap();
        fs::write(folder.join("refs/evil"), "../../..").unwrap();
        fs::write(folder.join("refs/gone"), "89ab").unwrap();
        let at = |name: &str| locate_in(Path::new(name), Some(cache.path().to_path_buf()));
        for (name, commit) in [
            ("org/a.model-7B", "0123abc"),
            ("org/a.model-7B@main", "0123abc"),
            ("org/a.model-7B@v2", "4567def"),
            ("org/a.model-7B@4567def", "4567def"),
        ] {
            assert_eq!(at(name).unwrap(), folder.join("snapshots").join(commit), "{name}");
        }
        for (name, command) in [
            ("org/other", "`hf download org/other`"),
            ("org/a.model-7B@v3", "`hf download org/a.model-7B --revision v3`"),
            ("org/a.model-7B@evil", "--revision evil`"),
            ("org/a.model-7B@gone", "--revision gone`"),
        ] {
            let refused = at(name).unwrap_err();
            assert!(refused.to_string().contains(command) && refused.exit_code() == 2, "{refused}");
        }
        for path in
            ["model", "./org/model", "../org/model", "runs/a/model", "/org/model", "org/m.gguf", "org/", "a b/c"]
        {
            assert_eq!(at(path).unwrap(), Path::new(path));
        }
        // A folder of that name comes first.
        assert_eq!(at("src/store").unwrap(), Path::new("src/store"));
        assert!(locate_in(Path::new("org/model"), None).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn the_cache_lies_where_the_hubs_own_programs_have_it() {
        let with = |known: &[(&str, &str)]| {
            cache(|name| known.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
        };
        let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/d")];
        for (skip, path) in ["/a", "/b/hub", "/c/huggingface/hub", "/d/.cache/huggingface/hub"].iter().enumerate() {
            assert_eq!(with(&all[skip..]), Some(PathBuf::from(path)));
        }
        assert_eq!(with(&[]), None);
    }
}
