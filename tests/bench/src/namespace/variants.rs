//! What is compared.
//!
//! RootlessKit's builtin port driver loses a race for its `.bp.sock` in a few of a hundred short runs.

use u7s_plan::node::Driver;

use super::spec::{self, MTU, STABLE, UNSTABLE};
use crate::Error;
use crate::stage::{Stage, payload, place};
use crate::trial::{Kind, NOTIFY, Variant};

/// CAP_SETGID and CAP_SETUID.
const IDS: u64 = 1 << 6 | 1 << 7;

/// What the unit gives: those two and CAP_NET_BIND_SERVICE.
const UNIT: u64 = IDS | 1 << 10;

pub(super) const SUPERVISOR: &str = "/usr/libexec/u7s/u7s-supervisor";

/// podsec's flags but for the network; the mtu of its driver follows with that.
const PODSEC: [&str; 8] = [
    "--copy-up=/etc",
    "--copy-up=/run",
    "--copy-up=/var/lib",
    "--cgroupns",
    "--pidns",
    "--ipcns",
    "--utsns",
    "--propagation=rslave",
];

/// Names of the variants, which are also those of the tables' rows.
pub(super) const FLOOR: &str = "floor: one clone3, maps, exec";
pub(super) const UNSHARE: &str = "unshare, all namespaces";
pub(super) const NONE: &str = "u7s (a): no network";
pub(super) const SLIRP: &str = "u7s (b): slirp4netns of Debian stable, by name, waited for";
pub(super) const HANDED: &str = "u7s (b): slirp4netns of Debian stable, handed the tap";
pub(super) const TAPFD: &str = "u7s (b2): slirp4netns of Debian unstable, handed the tap";
pub(super) const FALLBACK: &str = "u7s (d): newuidmap, newgidmap; else as (b)";
pub(super) const RK_HOST: &str = "RootlessKit --net=host";
pub(super) const RK_NAMESPACES: &str = "RootlessKit --net=host, podsec's other flags";
pub(super) const RK_PODSEC: &str = "RootlessKit, podsec's flags";
pub(super) const DRIVER: &str = "slirp4netns of Debian stable alone";
pub(super) const PASTA: &str = "(c): Debian's pasta alone";

/// All that are there, in the order of the tables.
pub(super) fn all(stage: &Stage) -> Result<Vec<Variant>, Error> {
    let (uid, subordinate) = (stage.user.id.to_string(), stage.user.subordinate.to_string());
    let floor = [vec![place("floor"), uid.clone(), uid, subordinate], payload().into()].concat();
    let unshare = "/usr/bin/unshare --user --map-root-user --mount --uts --ipc --net --cgroup --pid --fork";
    let unshare = [words(unshare), payload().into()].concat();
    let stable = spec::write(stage, "stable", |_| ())?;
    let unstable = spec::write(stage, "unstable", |spec| {
        spec.programs.slirp4netns = UNSTABLE.into();
        spec.programs.slirp4netns_tapfd = true;
    })?;
    let handed = spec::write(stage, "handed", |spec| spec.programs.slirp4netns_tapfd = true)?;
    let none = spec::write(stage, "none", |spec| spec.network.driver = Driver::None)?;
    // Handed the tap, the driver keeps what is sent before it is ready: the payload need not wait.
    let at_once = |variant| Variant { kind: Kind::Supervisor { with_driver: false }, ..variant };
    let mut variants = vec![
        tool(stage, FLOOR, floor, IDS),
        tool(stage, UNSHARE, unshare, 0),
        at_once(supervisor(stage, NONE, &none, UNIT)),
        supervisor(stage, SLIRP, &stable, UNIT),
        at_once(supervisor(stage, HANDED, &handed, UNIT)),
        at_once(supervisor(stage, TAPFD, &unstable, UNIT)),
        supervisor(stage, FALLBACK, &stable, 0),
    ];
    variants.extend(rootlesskit(stage));
    let driver = format!(
        "{STABLE} --mtu={MTU} --disable-host-loopback --enable-sandbox --enable-seccomp --cidr=10.41.0.0/24 \
         --outbound-addr={} --ready-fd=20 @TAP@ tap0",
        stage.node.ip()
    );
    let driver = tool(stage, DRIVER, words(&driver), 0);
    variants.push(Variant { kind: Kind::Driver, ..driver });
    // It goes to the background when it is ready.
    let pasta = format!(
        "{} --quiet --ipv4-only --tcp-ports none --udp-ports none --tcp-ns none --udp-ns none --no-map-gw --mtu {MTU} \
         --address {} --ns-ifname tap0 @TAP@",
        place("pasta"),
        stage.node.ip()
    );
    variants.push(Variant { kind: Kind::Command, ..tool(stage, PASTA, words(&pasta), 0) });
    Ok(variants)
}

fn rootlesskit(stage: &Stage) -> [Variant; 3] {
    let network = format!(
        "--net=slirp4netns --mtu={MTU} --disable-host-loopback --slirp4netns-sandbox=true --slirp4netns-seccomp=true \
         --port-driver=builtin"
    );
    let podsec = words(&PODSEC.join(" "));
    let command =
        |flags: &[Vec<String>]| [vec![place("rootlesskit")], flags.concat(), payload().into()].concat();
    let host = words("--net=host");
    [
        tool(stage, RK_HOST, command(std::slice::from_ref(&host)), 0),
        tool(stage, RK_NAMESPACES, command(&[host, podsec.clone()]), 0),
        tool(stage, RK_PODSEC, command(&[words(&network), podsec]), 0),
    ]
}

fn supervisor(stage: &Stage, name: &str, spec: &str, capabilities: u64) -> Variant {
    let argv = format!("{SUPERVISOR} --spec {spec} --runtime-dir {}", place("runtime"));
    let mut variant = tool(stage, name, words(&argv), capabilities);
    variant.env.push(("NOTIFY_SOCKET".into(), NOTIFY.into()));
    Variant { kind: Kind::Supervisor { with_driver: true }, ..variant }
}

fn tool(stage: &Stage, name: &str, argv: Vec<String>, capabilities: u64) -> Variant {
    let env =
        [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/var/lib/u7s-admin"), ("USER", "u7s-admin")];
    Variant {
        name: name.into(),
        argv,
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        uid: stage.user.id,
        capabilities,
        kind: Kind::Tool,
        trace: None,
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}
