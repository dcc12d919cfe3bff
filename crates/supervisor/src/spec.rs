//! Reads the node's specification and refuses what cannot be meant.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component as Part, Path, PathBuf};

use u7s_plan::node::{Extent, MAX_BYTES, NodeSpec, VERSION};
use u7s_plan::subid::MAX_EXTENTS;

use crate::Error;

/// The MTU of a tap that slirp4netns accepts, bytes; below 1280 IPv6 would be gone.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65521;

/// What is wrong with a specification that is well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Longer than [`MAX_BYTES`].
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Written by another version of u7s.
    #[error("its version is {0}, this supervisor reads {VERSION}")]
    Version(u32),
    /// Its user is root.
    #[error("its user is root: a node must not run as root")]
    Root,
    /// It belongs to another user than the one that runs the supervisor.
    #[error("it is for uid {wanted}, the supervisor runs as uid {actual}")]
    User {
        /// The specification's.
        wanted: u32,
        /// The effective one.
        actual: u32,
    },
    /// No machine is so slow.
    #[error("patience is {0}, but 1 to 100 is possible")]
    Patience(u32),
    /// The node's name is no host name.
    #[error("node name {0:?} is not a DNS-1123 name")]
    NodeName(String),
    /// An id map that the kernel would refuse or that does not make the user root inside.
    #[error("{map}: {reason}")]
    Map {
        /// `uid_map` or `gid_map`.
        map: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A path that must be absolute, without `..`.
    #[error("{field}: {} is not a plain absolute path", path.display())]
    Path {
        /// Where it stands.
        field: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A sysctl key that leaves /proc/sys.
    #[error("sysctl key {0:?} is not a plain path below /proc/sys")]
    Sysctl(String),
    /// The MTU is out of range.
    #[error("mtu {0} is not within {low} to {high}", low = MTU.start(), high = MTU.end())]
    Mtu(u32),
    /// The driver's addresses contradict each other.
    #[error("gateway, dns and node ip contradict range {0}")]
    Range(String),
    /// A component without a program.
    #[error("component {0} has no program")]
    NoProgram(&'static str),
    /// A component twice.
    #[error("component {0} is there twice")]
    Twice(&'static str),
}

/// Reads and checks the specification at `path` for the user `uid`.
///
/// # Errors
/// [`Error::ReadSpec`], [`Error::ParseSpec`], [`Error::CheckSpec`].
pub(crate) fn read(path: &Path, uid: u32) -> Result<NodeSpec, Error> {
    let problem = |source| Error::CheckSpec { path: path.to_owned(), source };
    let text = read_bounded(path).map_err(|source| Error::ReadSpec { path: path.to_owned(), source })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(problem(Problem::TooLong));
    }
    check_version(&text).map_err(problem)?;
    let spec =
        serde_json::from_slice(&text).map_err(|source| Error::ParseSpec { path: path.to_owned(), source })?;
    check(&spec, uid).map_err(problem)?;
    Ok(spec)
}

/// Room that is made beforehand, bytes.
const USUAL: usize = 8192;

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(USUAL);
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// A newer version must be named as such, not as an unknown field.
fn check_version(text: &[u8]) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_slice(text) {
        Ok(Versioned { version }) if version != VERSION => Err(Problem::Version(version)),
        _ => Ok(()),
    }
}

fn check(spec: &NodeSpec, uid: u32) -> Result<(), Problem> {
    if spec.user.uid == 0 || spec.user.gid == 0 {
        return Err(Problem::Root);
    }
    if spec.user.uid != uid {
        return Err(Problem::User { wanted: spec.user.uid, actual: uid });
    }
    if !(1..=100).contains(&spec.patience) {
        return Err(Problem::Patience(spec.patience));
    }
    check_name(&spec.node_name)?;
    check_map("uid_map", &spec.uid_map, spec.user.uid)?;
    check_map("gid_map", &spec.gid_map, spec.user.gid)?;
    check_network(spec)?;
    check_paths(spec)?;
    for (key, _) in &spec.sysctls {
        let plain = Path::new(key).components().all(|part| matches!(part, Part::Normal(_)));
        if key.is_empty() || !plain {
            return Err(Problem::Sysctl(key.clone()));
        }
    }
    check_components(spec)
}

fn check_name(name: &str) -> Result<(), Problem> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    // 64 is what the kernel takes as a host name.
    if name.len() <= 64 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(Problem::NodeName(name.to_owned()))
    }
}

fn check_map(map: &'static str, extents: &[Extent], own: u32) -> Result<(), Problem> {
    let fail = |reason| Err(Problem::Map { map, reason });
    let root = Extent { inside: 0, outside: own, count: 1 };
    if extents.first() != Some(&root) {
        return fail("its first line must map 0 to the user's own id, and only that");
    }
    if extents.len() > MAX_EXTENTS {
        return fail("it has too many lines");
    }
    let ends = |start: u32, count: u32| start.checked_add(count);
    for (index, extent) in extents.iter().enumerate() {
        let (Some(inside), Some(outside)) =
            (ends(extent.inside, extent.count), ends(extent.outside, extent.count))
        else {
            return fail("a line goes beyond the largest id");
        };
        if extent.count == 0 {
            return fail("a line is empty");
        }
        for other in &extents[..index] {
            if extent.inside < other.inside + other.count && other.inside < inside {
                return fail("two lines share ids inside");
            }
            if extent.outside < other.outside + other.count && other.outside < outside {
                return fail("two lines share ids of the host");
            }
        }
    }
    Ok(())
}

fn check_network(spec: &NodeSpec) -> Result<(), Problem> {
    let network = &spec.network;
    if !MTU.contains(&network.mtu) {
        return Err(Problem::Mtu(network.mtu));
    }
    let (range, gateway, dns) = (network.range, network.gateway, network.dns);
    let contradicts = !range.contains(&gateway)
        || !range.contains(&dns)
        || gateway == dns
        || range.contains(&network.node_ip)
        || network.node_ip.is_unspecified();
    if contradicts { Err(Problem::Range(range.to_string())) } else { Ok(()) }
}

fn check_paths(spec: &NodeSpec) -> Result<(), Problem> {
    let programs = &spec.programs;
    let mut paths = vec![
        ("user.home", &spec.user.home),
        ("cri_socket", &spec.cri_socket),
        ("programs.slirp4netns", &programs.slirp4netns),
    ];
    paths.extend(programs.newuidmap.iter().map(|path| ("programs.newuidmap", path)));
    paths.extend(programs.newgidmap.iter().map(|path| ("programs.newgidmap", path)));
    paths.extend(spec.services.kubectl.iter().map(|path| ("services.kubectl", path)));
    for bind in &spec.binds {
        paths.push(("binds.source", &bind.source));
        paths.push(("binds.target", &bind.target));
    }
    for component in &spec.components {
        paths.extend(component.env_files.iter().map(|path| ("components.env_files", path)));
        paths.extend(component.needs_file.iter().map(|path| ("components.needs_file", path)));
    }
    for (field, path) in paths {
        if !is_plain(path) {
            return Err(Problem::Path { field, path: path.clone() });
        }
    }
    Ok(())
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Part::RootDir | Part::Normal(_)))
}

fn check_components(spec: &NodeSpec) -> Result<(), Problem> {
    for (index, component) in spec.components.iter().enumerate() {
        let name = component.name.as_str();
        match component.argv.first() {
            None => return Err(Problem::NoProgram(name)),
            Some(program) if !is_plain(Path::new(program)) => {
                return Err(Problem::Path { field: "components.argv", path: program.into() });
            }
            Some(_) => {}
        }
        if spec.components[..index].iter().any(|other| other.name == component.name) {
            return Err(Problem::Twice(name));
        }
    }
    Ok(())
}

/// A specification: what is understood comes back, and what is accepted has plain paths and an id map that the kernel takes.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let newer = check_version(data).is_err();
    let Ok(spec) = serde_json::from_slice::<NodeSpec>(data) else { return };
    let again = serde_json::to_vec(&spec).map(|text| serde_json::from_slice::<NodeSpec>(&text));
    assert!(matches!(again, Ok(Ok(again)) if again == spec));
    assert!(newer || spec.version == VERSION);
    if check(&spec, spec.user.uid).is_err() {
        return;
    }
    assert!(spec.user.uid != 0 && spec.user.gid != 0);
    for map in [&spec.uid_map, &spec.gid_map] {
        assert!(
            map.iter()
                .all(|extent| extent.outside != 0 && extent.outside.checked_add(extent.count).is_some())
        );
    }
    let sources = spec.binds.iter().flat_map(|bind| [&bind.source, &bind.target]);
    for path in sources.chain([&spec.user.home, &spec.cri_socket]) {
        assert!(path.is_absolute() && !path.components().any(|part| part == Part::ParentDir), "{path:?}");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A specification that is good for uid 1000.
    pub(crate) fn sample() -> serde_json::Value {
        serde_json::json!({
            "version": 1,
            "user": {"name": "node", "uid": 1000, "gid": 1000, "home": "/home/node"},
            "node_name": "n1",
            "uid_map": [{"inside": 0, "outside": 1000, "count": 1}, {"inside": 1, "outside": 524288, "count": 65536}],
            "gid_map": [{"inside": 0, "outside": 1000, "count": 1}, {"inside": 1, "outside": 524288, "count": 65536}],
            "network": {"driver": "slirp4netns", "node_ip": "192.0.2.10", "mtu": 1500, "range": "10.41.0.0/24",
                        "gateway": "10.41.0.2", "dns": "10.41.0.3"},
            "forwards": [],
            "binds": [{"source": "/home/node/node/kubelet", "target": "/var/lib/kubelet", "mode": 448, "shared": true}],
            "sysctls": [["net/ipv4/ip_forward", "1"]],
            "resolv_conf": "nameserver 10.41.0.3\n", "hosts": "127.0.0.1 localhost\n",
            "programs": {"slirp4netns": "/usr/bin/slirp4netns", "newuidmap": null, "newgidmap": null},
            "components": [], "cri_socket": "/run/crio/crio.sock", "controllers": [], "degraded": [], "patience": 15
        })
    }

    fn verdict(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut value = sample();
        change(&mut value);
        match check_version(value.to_string().as_bytes()) {
            Err(problem) => problem.to_string(),
            Ok(()) => match serde_json::from_value::<NodeSpec>(value) {
                Ok(spec) => {
                    check(&spec, 1000).map_or_else(|problem| problem.to_string(), |()| "good".to_owned())
                }
                Err(error) => error.to_string(),
            },
        }
    }

    #[test]
    fn a_sane_specification_is_good() {
        assert_eq!(verdict(|_| {}), "good");
    }

    #[test]
    fn every_impossible_wish_is_named() {
        let map = |line: &str| format!("uid_map: {line}");
        let table: [(&str, serde_json::Value, String); 14] = [
            ("/version", 2.into(), "its version is 2, this supervisor reads 1".into()),
            ("/user/uid", 0.into(), "its user is root: a node must not run as root".into()),
            ("/user/uid", 1001.into(), "it is for uid 1001, the supervisor runs as uid 1000".into()),
            ("/node_name", "A b".into(), "node name \"A b\" is not a DNS-1123 name".into()),
            (
                "/uid_map/0/count",
                2.into(),
                map("its first line must map 0 to the user's own id, and only that"),
            ),
            ("/uid_map/1/inside", 0.into(), map("two lines share ids inside")),
            ("/uid_map/1/outside", 1000.into(), map("two lines share ids of the host")),
            ("/uid_map/1/outside", u32::MAX.into(), map("a line goes beyond the largest id")),
            ("/uid_map/1/count", 0.into(), map("a line is empty")),
            ("/patience", 0.into(), "patience is 0, but 1 to 100 is possible".into()),
            ("/network/mtu", 9.into(), "mtu 9 is not within 1280 to 65521".into()),
            (
                "/network/node_ip",
                "10.41.0.9".into(),
                "gateway, dns and node ip contradict range 10.41.0.0/24".into(),
            ),
            (
                "/binds/0/target",
                "/var/../etc".into(),
                "binds.target: /var/../etc is not a plain absolute path".into(),
            ),
            (
                "/sysctls/0/0",
                "../../etc/passwd".into(),
                "sysctl key \"../../etc/passwd\" is not a plain path below /proc/sys".into(),
            ),
        ];
        for (place, value, expected) in table {
            let said = verdict(|spec| *spec.pointer_mut(place).unwrap() = value.clone());
            assert_eq!(said, expected, "{place} = {value}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let said = verdict(|spec| spec["surprise"] = 1.into());
        assert!(said.starts_with("unknown field `surprise`"), "{said}");
    }

    #[test]
    fn a_component_without_a_program_or_twice_is_refused() {
        let crio = serde_json::json!({"name": "crio", "description": "", "argv": ["/usr/bin/crio"], "env": {},
            "env_files": [], "arg_vars": [], "needs_file": null, "always": true});
        assert_eq!(verdict(|spec| spec["components"] = [crio.clone()].into_iter().collect()), "good");
        let twice = verdict(|spec| spec["components"] = [crio.clone(), crio.clone()].into_iter().collect());
        assert_eq!(twice, "component crio is there twice");
        let mut empty = crio;
        empty["argv"] = serde_json::json!([]);
        assert_eq!(
            verdict(|spec| spec["components"] = [empty].into_iter().collect()),
            "component crio has no program"
        );
    }
}
