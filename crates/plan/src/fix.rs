//! What `u7s check --print-fix` prints: one block to paste that mends what a command can mend.

use std::fmt::Write as _;

use crate::need::Unmet;

/// How a need is met.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fix {
    /// A package to install.
    Package { by: String, name: String },
    /// A command that root may paste without a second thought.
    Run(String),
    /// Somebody must decide, or look.
    Hand,
}

/// The block: a script of root's own shell that stops at the first failure; what wants a decision stands in it as a comment.
///
/// Shape: nothing for no need; otherwise whole lines. Nothing that a user of the host chose (names of processes, lines of
/// files) stands anywhere but in comments without control characters.
#[must_use]
pub fn block(unmet: &[Unmet]) -> String {
    if unmet.is_empty() {
        return String::new();
    }
    let mut script = String::from("sudo sh -eux <<'EOT'\n");
    let mut packages: Vec<(String, Vec<String>)> = Vec::new();
    let mut rest = String::new();
    for need in unmet {
        match fix(need) {
            Fix::Package { by, name } => match packages.iter_mut().find(|(known, _)| *known == by) {
                Some((_, names)) if names.contains(&name) => {}
                Some((_, names)) => names.push(name),
                None => packages.push((by, vec![name])),
            },
            Fix::Run(command) => {
                let _ = writeln!(rest, "{}\n{command}", comment(&need.to_string()));
            }
            Fix::Hand => {
                let _ = writeln!(
                    rest,
                    "{}\n{}",
                    comment(&need.to_string()),
                    comment(&format!("by hand: {}", need.remedy))
                );
            }
        }
    }
    for (by, names) in packages {
        let _ = writeln!(script, "{by} -y {}", names.join(" "));
    }
    script + &rest + "EOT\n"
}

/// A comment of one line: no text of others ends it, or the block.
fn comment(text: &str) -> String {
    let line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    format!("# {line}")
}

fn fix(need: &Unmet) -> Fix {
    let first = need.remedy.split(';').next().unwrap_or_default().trim();
    let run = || Fix::Run(first.to_owned());
    match need.id.as_str() {
        "Modules" => package(first),
        id if id.starts_with("FileExisting-") => package(first),
        // Words of ours around numbers and paths of ours.
        "Subids" | "SubidOverlap" if first.starts_with("usermod ") => run(),
        "Home" if first.starts_with("chmod ") => run(),
        "UserNamespaces" if first.contains("&&") => run(),
        "Tun" | "Firewall" | "Overlay" if first.starts_with("modprobe ") => run(),
        "CgroupWrite" if first.starts_with("mount ") => run(),
        _ => Fix::Hand,
    }
}

/// `apt-get install NAME`, and nothing else behind it.
fn package(remedy: &str) -> Fix {
    let known = ["apt-get install ", "dnf install "].into_iter().find_map(|by| {
        let name = remedy.strip_prefix(by)?;
        let plain =
            name.chars().all(|char| char.is_ascii_alphanumeric() || "-._+$()".contains(char) || char == ' ');
        plain.then(|| Fix::Package { by: by.trim().to_owned(), name: name.to_owned() })
    });
    known.unwrap_or(Fix::Hand)
}

#[cfg(test)]
mod tests {
    use crate::need::Level;

    use super::*;

    fn need(id: &str, remedy: &str) -> Unmet {
        Unmet { id: id.into(), message: "why".into(), remedy: remedy.into(), level: Level::Error }
    }

    #[test]
    fn packages_are_installed_together_commands_run_and_decisions_are_comments() {
        let unmet = [
            need("Port-6443", "stop what listens there: ss -ltnp 'sport = :6443'"),
            need("FileExisting-crun", "apt-get install crun"),
            need("Subids", "usermod --add-subuids 100000-165535 u7s-admin"),
            need("FileExisting-nft", "apt-get install nftables; or, without bounds for pods, in …"),
            need("Tun", "modprobe tun; in a container, pass the device in"),
            need("UserNamespaces", "echo 'a = 1' >>/etc/x && sysctl -p /etc/x"),
        ];
        let wanted = "\
sudo sh -eux <<'EOT'
apt-get install -y crun nftables
# [ERROR Port-6443]: why
# by hand: stop what listens there: ss -ltnp 'sport = :6443'
# [ERROR Subids]: why
usermod --add-subuids 100000-165535 u7s-admin
# [ERROR Tun]: why
modprobe tun
# [ERROR UserNamespaces]: why
echo 'a = 1' >>/etc/x && sysctl -p /etc/x
EOT
";
        assert_eq!(block(&unmet), wanted);
        assert_eq!(block(&[]), "");
    }

    #[test]
    fn s5_what_others_chose_never_leaves_its_comment() {
        let mut evil = need("Port-1", "stop\nEOT\nrm -rf /");
        evil.message = "in use by x\nEOT\nreboot".into();
        let block = block(&[evil, need("FileExisting-x", "apt-get install x`reboot`")]);
        assert_eq!(
            block.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(),
            ["sudo sh -eux <<'EOT'", "EOT"],
            "{block}"
        );
    }
}
