//! `u7s kubeconfig`: the administrator's kubeconfig of the cluster, for somebody else than root.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use u7s_host::apply::clean_kubeconfig;

use crate::doors::machine::{self, Caller};
use crate::{End, Error, report};

/// kubeadm's, which belongs to the node's user.
const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// Flags of the command.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where it goes, readable by its owner alone; nothing may lie there yet. Without it: standard output.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Below the help of the command.
pub(super) const HELP: &str = "\
It has the rights of kubeadm's admin.conf: all of them. admin.conf itself is a file of u7s-admin, who may write into it that
kubectl shall run a program: do not use it with KUBECONFIG, do not copy it. What is printed here is made of its checked parts:
the server's address, certificates, a key. Root's own is /root/.kube/config, made the same way.

Only on a control plane. For a user with fewer rights: kubeadm kubeconfig user --help

Examples:
  u7s kubeconfig --file admin.kubeconfig
  u7s kubeconfig | install -D -o alice -g alice -m 600 /dev/stdin /home/alice/.kube/config";

/// Prints it, or writes the file.
///
/// # Errors
/// The caller may not read admin.conf; there is none; it holds more than kubeadm writes; the file is there already.
pub(super) fn run(arguments: &Arguments) -> Result<End, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    let user = machine::user(&config);
    if user.is_some() && Caller::this(user.as_ref()) == Caller::Other {
        return Err(machine::not_privileged("u7s kubeconfig"));
    }
    let text = clean_kubeconfig(Path::new(ADMIN))?;
    match &arguments.file {
        None => report::result(&text)?,
        Some(path) => {
            let failed = |source| Error::Write { path: path.clone(), source };
            write(path, &text).map_err(failed)?;
        }
    }
    Ok(End::OK)
}

/// A new file: what is there stays, a link is not followed.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_credential_goes_to_a_new_file_of_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        write(&path, "x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, "y").is_err() && std::fs::read_to_string(&path).unwrap() == "x");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(write(&link, "x").is_err() && !dir.path().join("elsewhere").exists());
    }
}
