//! Undoes what the book of former values holds, last change first.

use std::path::PathBuf;

use u7s_plan::step::Realm;

use super::host::{remove_subids, remove_user, sysctl_path, write_sysctl};
use super::{Applier, Ended};
use crate::error::Error;
use crate::files::{self, Rights};
use crate::probe;
use crate::undo::FormerRights;

impl Applier<'_> {
    /// Goes on after errors; what failed stays in the book for the next reset.
    pub(super) fn restore_host(&mut self) -> Result<Ended, Error> {
        if self.undo.is_empty() {
            // A run that was killed while it began the book left no book, but perhaps the start of one.
            return Ok(if self.undo.sweep()? { Ended::Done } else { Ended::Held });
        }
        let mut errors = self.restore_files();
        errors.extend(self.restore_directories());
        errors.extend(self.restore_values());
        errors.extend(self.restore_user());
        match errors.pop() {
            None => {
                self.undo.forget_all()?;
                Ok(Ended::Done)
            }
            Some(last) if errors.is_empty() => Err(last),
            Some(last) => {
                errors.push(last);
                Err(Error::Several { errors })
            }
        }
    }

    /// Files that no step of reset named: those in trees that are gone need nothing.
    fn restore_files(&mut self) -> Vec<Error> {
        let paths: Vec<PathBuf> = self.undo.former().files.keys().cloned().collect();
        let has_parent =
            |path: &PathBuf| path.parent().is_some_and(|dir| matches!(files::directory(dir), Ok(Some(_))));
        paths
            .iter()
            .filter(|path| has_parent(path))
            .filter_map(|path| self.remove_file(Realm::Root, path).err())
            .collect()
    }

    /// The deepest first; then those that are gone are made again, the topmost first.
    fn restore_directories(&mut self) -> Vec<Error> {
        let mut directories: Vec<(PathBuf, Option<FormerRights>)> =
            self.undo.former().directories.iter().map(|(path, former)| (path.clone(), *former)).collect();
        directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        let mut errors: Vec<Error> = Vec::new();
        for (path, former) in &directories {
            errors.extend(self.give_back(path, *former).err());
        }
        let made = directories.iter().rev().filter_map(|(path, former)| {
            let former = (*former)?;
            let above = path.parent().is_some_and(|dir| matches!(files::directory(dir), Ok(Some(_))));
            let gone = above && matches!(files::stat(path), Ok(None));
            gone.then(|| files::make_dir(path, Rights::from(former)).err()).flatten()
        });
        errors.extend(made);
        errors
    }

    fn restore_values(&mut self) -> Vec<Error> {
        let former = self.undo.former();
        let devices = former.devices.iter().map(|(path, mode)| match files::device_mode(path) {
            Ok(Some(_)) => files::set_device_mode(path, *mode),
            other => other.map(drop),
        });
        let sysctls = former.sysctls.iter().map(|(key, value)| match probe::sysctl(key) {
            Some(_) => sysctl_path(key).and_then(|path| write_sysctl(&path, value)),
            None => Ok(()),
        });
        devices.chain(sysctls).filter_map(Result::err).collect()
    }

    fn restore_user(&mut self) -> Vec<Error> {
        let former = self.undo.former();
        let subids = former.subids.as_ref().map(|given| match probe::user(&given.user) {
            Some(_) => remove_subids(&given.user, given.uids.map(Into::into), given.gids.map(Into::into)),
            None => Ok(()),
        });
        let user = former.user.as_deref().map(remove_user);
        subids.into_iter().chain(user).filter_map(Result::err).collect()
    }
}
