//! The flags of `kubeadm init`, `kubeadm join` and `kubeadm reset`: one table each, and what becomes of every flag.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use u7s_plan::need::Ignored;
use u7s_plan::request;

use super::read::Given;
use super::{Call, values};

/// One flag of kubeadm.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    /// Its one-letter form.
    pub(super) short: Option<u8>,
    /// The type of its value.
    pub(super) takes: Takes,
    /// What becomes of it.
    goes: Goes,
}

/// Types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Any text.
    Text,
    /// A 32-bit integer.
    Int,
    /// klog's verbosity.
    Level,
    /// Go's duration.
    Duration,
    /// A list: repeats accumulate.
    List,
    /// A boolean; bare means true.
    Bool,
    /// The form of what we say: `text` or `json`.
    Form,
    /// Help, which is handled before all else.
    Help,
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// A field of the configuration.
    Field,
    /// To the real kubeadm.
    Pass,
    /// A field of the request.
    Ours,
}

/// Why a flag's value is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// kubeadm refuses it while it reads its flags.
    ByKubeadm(OsString),
    /// It cannot be written into a configuration: the flag's name.
    NotUtf8(String),
    /// A form of [`OUTPUT`] that there is not.
    Form(OsString),
}

impl Flag {
    /// The value of the flag when none is given, if it needs none.
    pub(super) fn bare<'a>(&self) -> Option<&'a OsStr> {
        matches!(self.takes, Takes::Bool | Takes::Help).then(|| OsStr::new("true"))
    }
}

const fn flag(name: &'static str, takes: Takes, goes: Goes) -> Flag {
    Flag { name, short: None, takes, goes }
}

const fn short(letter: u8, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

/// How we speak of what we do: ours, beside kubeadm's own flags, which has none of this name for the commands that are planned.
pub(super) const OUTPUT: Flag = short(b'o', flag("output", Takes::Form, Goes::Ours));

/// Flags of `kubeadm init`, the same from 1.31 to 1.36.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/init.go; a test compares with `kubeadm init --help`.
pub(super) const INIT: &[Flag] = &[
    flag("apiserver-advertise-address", Takes::Text, Goes::Field),
    flag("apiserver-bind-port", Takes::Int, Goes::Field),
    flag("apiserver-cert-extra-sans", Takes::List, Goes::Field),
    flag("cert-dir", Takes::Text, Goes::Field),
    flag("certificate-key", Takes::Text, Goes::Field),
    flag("config", Takes::Text, Goes::Ours),
    flag("control-plane-endpoint", Takes::Text, Goes::Field),
    flag("cri-socket", Takes::Text, Goes::Field),
    flag("dry-run", Takes::Bool, Goes::Ours),
    flag("feature-gates", Takes::Text, Goes::Field),
    short(b'h', flag("help", Takes::Help, Goes::Ours)),
    flag("ignore-preflight-errors", Takes::List, Goes::Ours),
    flag("image-repository", Takes::Text, Goes::Field),
    flag("kubernetes-version", Takes::Text, Goes::Field),
    flag("node-name", Takes::Text, Goes::Field),
    OUTPUT,
    flag("patches", Takes::Text, Goes::Field),
    flag("pod-network-cidr", Takes::Text, Goes::Field),
    flag("rootfs", Takes::Text, Goes::Pass),
    flag("service-cidr", Takes::Text, Goes::Field),
    flag("service-dns-domain", Takes::Text, Goes::Field),
    flag("skip-certificate-key-print", Takes::Bool, Goes::Pass),
    flag("skip-phases", Takes::List, Goes::Pass),
    flag("skip-token-print", Takes::Bool, Goes::Pass),
    flag("token", Takes::Text, Goes::Field),
    flag("token-ttl", Takes::Duration, Goes::Field),
    flag("upload-certs", Takes::Bool, Goes::Pass),
    short(b'v', flag("v", Takes::Level, Goes::Pass)),
    flag("vmodule", Takes::Text, Goes::Pass),
];

/// Flags of `kubeadm join`, the same from 1.31 to 1.36.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/join.go; a test compares with `kubeadm join --help`.
pub(super) const JOIN: &[Flag] = &[
    flag("apiserver-advertise-address", Takes::Text, Goes::Field),
    flag("apiserver-bind-port", Takes::Int, Goes::Field),
    flag("certificate-key", Takes::Text, Goes::Field),
    flag("config", Takes::Text, Goes::Ours),
    flag("control-plane", Takes::Bool, Goes::Field),
    flag("cri-socket", Takes::Text, Goes::Field),
    flag("discovery-file", Takes::Text, Goes::Field),
    flag("discovery-token", Takes::Text, Goes::Field),
    flag("discovery-token-ca-cert-hash", Takes::List, Goes::Field),
    flag("discovery-token-unsafe-skip-ca-verification", Takes::Bool, Goes::Field),
    flag("dry-run", Takes::Bool, Goes::Ours),
    short(b'h', flag("help", Takes::Help, Goes::Ours)),
    flag("ignore-preflight-errors", Takes::List, Goes::Ours),
    flag("node-name", Takes::Text, Goes::Field),
    OUTPUT,
    flag("patches", Takes::Text, Goes::Field),
    flag("rootfs", Takes::Text, Goes::Pass),
    flag("skip-phases", Takes::List, Goes::Pass),
    flag("tls-bootstrap-token", Takes::Text, Goes::Field),
    flag("token", Takes::Text, Goes::Field),
    short(b'v', flag("v", Takes::Level, Goes::Pass)),
    flag("vmodule", Takes::Text, Goes::Pass),
];

/// Flags of the phases of `kubeadm init`, but for those that only kubeadm can make sense of: what it takes beside `--config`, and
/// what has a field there.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/phases/init, `InheritFlags`; cmd/kubeadm/app/apis/kubeadm/validation,
/// `isAllowedFlag`.
pub(super) const INIT_PHASE: &[Flag] = &[
    flag("apiserver-advertise-address", Takes::Text, Goes::Field),
    flag("apiserver-bind-port", Takes::Int, Goes::Field),
    flag("apiserver-cert-extra-sans", Takes::List, Goes::Field),
    flag("config", Takes::Text, Goes::Ours),
    flag("control-plane-endpoint", Takes::Text, Goes::Field),
    flag("cri-socket", Takes::Text, Goes::Field),
    flag("dry-run", Takes::Bool, Goes::Pass),
    flag("feature-gates", Takes::Text, Goes::Field),
    flag("image-repository", Takes::Text, Goes::Field),
    flag("kubeconfig", Takes::Text, Goes::Pass),
    flag("kubeconfig-dir", Takes::Text, Goes::Pass),
    flag("kubernetes-version", Takes::Text, Goes::Field),
    flag("node-name", Takes::Text, Goes::Field),
    flag("patches", Takes::Text, Goes::Field),
    flag("pod-network-cidr", Takes::Text, Goes::Field),
    flag("print-manifest", Takes::Bool, Goes::Pass),
    flag("service-cidr", Takes::Text, Goes::Field),
    flag("service-dns-domain", Takes::Text, Goes::Field),
    short(b'v', flag("v", Takes::Level, Goes::Pass)),
];

/// Flags of `kubeadm reset`, the same from 1.31 to 1.36.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/reset.go; a test compares with `kubeadm reset --help`.
pub(super) const RESET: &[Flag] = &[
    flag("cert-dir", Takes::Text, Goes::Pass),
    flag("cleanup-tmp-dir", Takes::Bool, Goes::Pass),
    flag("config", Takes::Text, Goes::Ours),
    flag("cri-socket", Takes::Text, Goes::Pass),
    flag("dry-run", Takes::Bool, Goes::Ours),
    short(b'f', flag("force", Takes::Bool, Goes::Pass)),
    short(b'h', flag("help", Takes::Help, Goes::Ours)),
    flag("ignore-preflight-errors", Takes::List, Goes::Pass),
    flag("kubeconfig", Takes::Text, Goes::Pass),
    OUTPUT,
    flag("rootfs", Takes::Text, Goes::Pass),
    flag("skip-phases", Takes::List, Goes::Pass),
    short(b'v', flag("v", Takes::Level, Goes::Pass)),
    flag("vmodule", Takes::Text, Goes::Pass),
];

/// Flags without a value of the commands that are not planned, as the search for a subcommand must know them.
///
/// Help is not among them: cobra adds it after the search.
pub(super) const BOOLEANS: &[&str] = &[
    "--allow-experimental-api",
    "--allow-experimental-upgrades",
    "--allow-missing-template-keys",
    "--allow-release-candidate-upgrades",
    "--certificate-renewal",
    "--control-plane",
    "--discovery-token-unsafe-skip-ca-verification",
    "--dry-run",
    "--etcd-upgrade",
    "--force",
    "-f",
    "--print-config",
    "--print-join-command",
    "--show-managed-fields",
    "--skip-certificate-key-print",
    "--skip-token-print",
    "--upload-certs",
    "--yes",
    "-y",
];

/// The flags of `table` without a value, with dashes, as the search for a subcommand must know them.
pub(super) fn booleans(table: &'static [Flag]) -> Vec<&'static str> {
    let known = |arg: &&&str| {
        let name = arg.trim_start_matches('-');
        table.iter().any(|flag| {
            flag.takes == Takes::Bool
                && (flag.name == name || flag.short.is_some_and(|letter| name.as_bytes() == [letter]))
        })
    };
    BOOLEANS.iter().chain(&["--cleanup-tmp-dir"]).filter(known).copied().collect()
}

/// A request of `kubeadm init`.
pub(super) fn init(given: Vec<Given<'_>>) -> Result<Call, Refused> {
    common(given).map(Call::Init)
}

/// A request of a phase of `kubeadm init`.
pub(super) fn init_phase(given: Vec<Given<'_>>) -> Result<request::Init, Refused> {
    common(given)
}

/// A request of `kubeadm join`, without its endpoint.
pub(super) fn join(given: Vec<Given<'_>>) -> Result<Call, Refused> {
    common(given).map(|given| Call::Join(request::Join { given, endpoint: None }))
}

/// What init and join have in common: every flag has its place.
fn common(given: Vec<Given<'_>>) -> Result<request::Init, Refused> {
    let mut request = request::Init::default();
    let mut ignored = Vec::new();
    for given in given {
        let name = given.flag.name;
        if name == "config" {
            request.config = Some(PathBuf::from(given.value));
            continue;
        }
        if given.flag == &OUTPUT {
            request.output = form(&given)?;
            continue;
        }
        let values = checked(&given)?;
        match (name, given.flag.goes) {
            ("dry-run", Goes::Ours) => request.dry_run = values == ["true"],
            ("ignore-preflight-errors", _) => ignored.extend(values),
            (_, Goes::Field | Goes::Ours) => {
                request.config_flags.extend(values.into_iter().map(|value| (name.to_owned(), value)));
            }
            (_, Goes::Pass) => {
                request.pass_flags.push(rendered(&given));
                if name == "skip-phases" {
                    request.skip_phases.extend(values);
                }
            }
        }
    }
    request.ignored = Ignored::new(ignored);
    Ok(request)
}

/// A request of `kubeadm reset`.
pub(super) fn reset(given: Vec<Given<'_>>) -> Result<Call, Refused> {
    let mut request = request::Reset::default();
    let mut ignored = Vec::new();
    for given in given {
        if given.flag.name == "config" {
            request.config = Some(PathBuf::from(given.value)).filter(|path| !path.as_os_str().is_empty());
            continue;
        }
        if given.flag == &OUTPUT {
            request.output = form(&given)?;
            continue;
        }
        let values = checked(&given)?;
        match given.flag.name {
            "dry-run" => {
                request.dry_run = values == ["true"];
                continue;
            }
            "force" => request.force = values == ["true"],
            "ignore-preflight-errors" => ignored.extend(values),
            _ => {}
        }
        request.pass_flags.push(rendered(&given));
    }
    request.ignored = Ignored::new(ignored);
    Ok(Call::Reset(request))
}

fn form(given: &Given<'_>) -> Result<request::Form, Refused> {
    match given.value.to_str() {
        Some("text") => Ok(request::Form::Text),
        Some("json") => Ok(request::Form::Json),
        _ => Err(Refused::Form(given.value.to_owned())),
    }
}

/// The value, or the items of a list: numbers decimal, booleans `true` or `false`.
fn checked(given: &Given<'_>) -> Result<Vec<String>, Refused> {
    let Some(text) = given.value.to_str() else {
        return Err(match given.flag.takes {
            Takes::Text | Takes::List => Refused::NotUtf8(given.flag.name.to_owned()),
            _ => Refused::ByKubeadm(given.value.to_owned()),
        });
    };
    let one = |value: String| vec![value];
    let values = match given.flag.takes {
        Takes::Text | Takes::Form => Some(one(text.to_owned())),
        Takes::Int => values::int32(text).map(|value| one(value.to_string())),
        Takes::Level => values::level(text).map(|value| one(value.to_string())),
        Takes::Duration => values::duration(text).map(|()| one(text.to_owned())),
        Takes::Bool | Takes::Help => values::boolean(text).map(|value| one(value.to_string())),
        Takes::List => values::list(text),
    };
    values.ok_or_else(|| Refused::ByKubeadm(given.value.to_owned()))
}

/// `--name=value`, for the real kubeadm; [`checked`] has seen that it is UTF-8.
fn rendered(given: &Given<'_>) -> String {
    format!("--{}={}", given.flag.name, given.value.to_string_lossy())
}
