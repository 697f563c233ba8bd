//! Where the lines that were typed are kept from one run to the next.

use std::{env, fs, path::PathBuf};

/// The file, in a directory that is there and the user's own. None where there is no place for it.
///
/// # Errors
/// Which directory cannot be made, and why.
pub(super) fn file() -> Result<Option<PathBuf>, String> {
    let Some(directory) = directory() else {
        return Ok(None);
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(&directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(Some(directory.join("history")))
}

/// The XDG Base Directory Specification says where state belongs; on Windows, the system does.
fn directory() -> Option<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = set("XDG_STATE_HOME").or_else(|| {
        if cfg!(windows) {
            set("LOCALAPPDATA")
        } else {
            env::home_dir().map(|home| home.join(".local/state"))
        }
    })?;
    Some(state.join("sockeye"))
}
