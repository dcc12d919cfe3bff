//! Which kubeconfigs are there: kubeadm writes them at init and join, and removes them at reset.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::Error;
use crate::watch::watch;

/// The node's own credentials.
pub(crate) const NODE: &str = "/etc/kubernetes/kubelet.conf";

/// The administrator's, on control planes.
pub(crate) const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// What is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// [`NODE`].
    pub(crate) node: bool,
    /// [`ADMIN`].
    pub(crate) admin: bool,
}

/// Watches the directory of the kubeconfigs, which is one and the same on both sides.
#[derive(Debug)]
pub(crate) struct Credentials {
    directory: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    present: Present,
}

impl Credentials {
    /// Begins to watch `directory`.
    ///
    /// # Errors
    /// [`Error::Io`]: it is not there, or the user has no inotify instance left (`fs.inotify.max_user_instances`).
    pub(crate) fn new(directory: &Path) -> Result<Self, Error> {
        let what = "watch the directory of the kubeconfigs";
        let errno = |errno: nix::Error| Error::Io { what, source: errno.into() };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(errno)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(directory, changes).map_err(errno)?;
        let inotify = watch(inotify.into()).map_err(Error::io(what))?;
        let directory = directory.to_owned();
        let present = look(&directory);
        Ok(Self { directory, inotify, present })
    }

    /// What is there now.
    pub(crate) fn present(&self) -> Present {
        self.present
    }

    /// Waits until that changes. May be cancelled.
    pub(crate) async fn changed(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else {
                return std::future::pending().await;
            };
            // Only that something happened matters: EAGAIN ends the news.
            let mut events = [0; 4096];
            while let Ok(1..) = nix::unistd::read(self.inotify.as_fd(), &mut events) {}
            ready.clear_ready();
            let present = look(&self.directory);
            if std::mem::replace(&mut self.present, present) != present {
                return;
            }
        }
    }
}

fn look(directory: &Path) -> Present {
    let has = |path: &str| Path::new(path).file_name().is_some_and(|name| directory.join(name).is_file());
    Present { node: has(NODE), admin: has(ADMIN) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn kubeconfigs_are_seen_to_come_and_to_go() {
        let place = tempfile::tempdir().unwrap();
        let mut seen = Credentials::new(place.path()).unwrap();
        assert_eq!(seen.present(), Present::default());
        let node = place.path().join("kubelet.conf");
        fs::write(place.path().join("other"), "").unwrap();
        fs::write(&node, "").unwrap();
        tokio::time::timeout(Duration::from_secs(5), seen.changed()).await.unwrap();
        assert_eq!(seen.present(), Present { node: true, admin: false });
        fs::remove_file(&node).unwrap();
        tokio::time::timeout(Duration::from_secs(5), seen.changed()).await.unwrap();
        assert_eq!(seen.present(), Present::default());
        Credentials::new(&place.path().join("missing")).unwrap_err();
    }
}
