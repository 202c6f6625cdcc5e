//! A checkpoint is staged beside its place and appears whole or not at all.
//!
//! `.tmp-checkpoint-N-*` is filled; every file is synced; manifest.json is written last and
//! synced; the folder is synced, renamed to `checkpoint-N`, and the run directory synced. Only
//! then are older checkpoints pruned: renamed to `.trash-*`, then removed. A kill at any point
//! leaves complete checkpoints and names that [`crate::atomic::sweep`] removes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::atomic::{self, TEMPORARY, TRASH};
use crate::dir::{Checkpoint, RunDir};
use crate::manifest::{self, Facts};

/// A checkpoint that is being written; dropped before [`Staged::publish`], it is removed.
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Staged {
    /// Makes the empty folder to fill.
    ///
    /// # Errors
    /// When the run directory cannot be written to.
    pub fn begin(dir: &RunDir, step: u64) -> io::Result<Self> {
        let target = dir.checkpoint(step);
        let temporary = atomic::unused_name(&target, TEMPORARY);
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir(&temporary)?;
        Ok(Self { temporary, target, published: false })
    }

    /// The folder to fill with plain files.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Syncs everything, writes the manifest and gives the folder its name.
    ///
    /// A folder that has the name already (an incomplete one, or the same step of an earlier
    /// attempt) is replaced.
    ///
    /// # Errors
    /// When something cannot be written; no `checkpoint-N` appears then.
    pub fn publish(mut self, facts: Facts) -> io::Result<PathBuf> {
        // Files first, then the manifest, then the folder's own names: all synced in there.
        manifest::write(&self.temporary, facts)?;
        let replaced = exchange(&self.temporary, &self.target)?;
        self.published = true;
        atomic::sync_dir(atomic::parent(&self.target))?;
        if let Some(old) = replaced {
            fs::remove_dir_all(old)?;
        }
        Ok(self.target.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is swept at the next start.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Removes the oldest checkpoints until `keep` are left; `spare` (the best one) always stays.
///
/// Returns the removed ones.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(dir: &RunDir, keep: usize, spare: Option<u64>) -> io::Result<Vec<Checkpoint>> {
    let all = dir.checkpoints()?;
    let mut surplus = all.len().saturating_sub(keep.max(1));
    let mut removed = Vec::new();
    // The newest is never removed: a resume needs it.
    for checkpoint in all.into_iter().skip(1).rev() {
        if surplus == 0 {
            break;
        }
        if spare == Some(checkpoint.step) {
            continue;
        }
        if let Some(trash) = set_aside(&checkpoint.path)? {
            fs::remove_dir_all(trash)?;
        }
        removed.push(checkpoint);
        surplus -= 1;
    }
    Ok(removed)
}

/// Gives `new` the name of `target`; returns where the old target is now, under a name to sweep.
///
/// At every moment one of the two has the name, where the file system can exchange names.
fn exchange(new: &Path, target: &Path) -> io::Result<Option<PathBuf>> {
    if !target.exists() {
        fs::rename(new, target)?;
        return Ok(None);
    }
    match rustix::fs::renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Some(new.to_owned())),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let old = set_aside(target)?;
            fs::rename(new, target)?;
            Ok(old)
        }
        Err(error) => Err(error.into()),
    }
}

/// Renames a folder to `.trash-*`, so that it is gone in one step however long removal takes.
fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let trash = atomic::unused_name(path, TRASH);
    match fs::rename(path, &trash) {
        Ok(()) => Ok(Some(trash)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
