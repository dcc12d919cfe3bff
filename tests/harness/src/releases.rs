//! Two releases of Kubernetes on one node, for tests that upgrade it.

use u7s_kit::{EARLIER, KUBERNETES};

use crate::lan::progress;
use crate::{Error, Node};

/// Where programs and images of the releases lie in a node, by version.
const RELEASES: &str = "/opt/kubernetes";

/// Beside the images that a node begins with.
const LATER_IMAGES: &str = "/var/lib/u7s/images/later";

/// What a distribution's packages replace.
const SWAPPED: [&str; 3] = ["kubeadm", "kubelet", "kubectl"];

impl Node {
    /// As [`install_kit`](Self::install_kit), but without kubeadm, kubelet and kubectl, and with the images of
    /// the earlier release: [`install_release`](Self::install_release) brings the programs when the node is booted.
    ///
    /// # Errors
    /// It is booted already; the earlier release cannot be built.
    pub fn install_earlier_kit(&mut self) -> Result<(), Error> {
        self.want_off()?;
        let earlier = u7s_kit::ensure_earlier(&progress)?;
        let later = std::mem::replace(&mut self.kit, earlier.clone());
        self.install_kit(&SWAPPED)?;
        for (version, kit) in [(EARLIER, &earlier), (KUBERNETES, &later)] {
            let all = SWAPPED.iter().filter_map(|name| Some((*name, kit.binary(name)?)));
            self.binds.extend(all.map(|(name, path)| (path.to_owned(), place(version, name))));
        }
        self.binds.push((later.layout().to_owned(), place(KUBERNETES, "images")));
        Ok(())
    }

    /// Puts one of the programs of a release to `/usr/bin`, as a package manager does: renamed over the former.
    ///
    /// # Errors
    /// It is not booted, or was not made with [`install_earlier_kit`](Self::install_earlier_kit).
    pub fn install_release(&self, version: &str, programs: &[&str]) -> Result<(), Error> {
        for name in programs {
            let from = place(version, name);
            self.sh(&format!("cp {from} /usr/bin/.{name}.new && mv /usr/bin/.{name}.new /usr/bin/{name}"))?;
        }
        Ok(())
    }

    /// Puts the images of the later release to where u7s looks for them.
    ///
    /// # Errors
    /// As [`install_release`](Self::install_release).
    pub fn install_later_images(&self) -> Result<(), Error> {
        self.sh(&format!("cp -r {} {LATER_IMAGES}", place(KUBERNETES, "images"))).map(drop)
    }
}

/// The versions before and after, as kubeadm writes them.
#[must_use]
pub fn releases() -> [&'static str; 2] {
    [EARLIER, KUBERNETES]
}

fn place(version: &str, name: &str) -> String {
    format!("{RELEASES}/{version}/{name}")
}
