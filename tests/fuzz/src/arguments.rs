//! Command lines of kubeadm, systemctl and of an OCI runtime.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use u7s_shim::kubeadm::{Call, init_phase, parse, words};
use u7s_shim::systemctl::{self, Place};

use crate::parts;

/// The words after the program's name: every reader of ours takes them, and loses none on the way to the real program.
pub(super) fn arguments(data: &[u8]) {
    let argv: Vec<OsString> = parts(data).into_iter().map(|part| OsString::from_vec(part.to_vec())).collect();
    if let Call::Init(request) = parse(&argv) {
        let _ = request.verbosity();
        assert!(request.pass_flags.iter().all(|flag| flag.starts_with("--")), "{request:?}");
    }
    assert!(words(&argv).len() <= argv.len());
    if let Some(phase) = init_phase(&argv) {
        assert!(phase.argv.len() >= 3 && phase.request.config.is_none());
    }
    for place in [Place::Host, Place::Inside] {
        if let systemctl::Call::Mixed { real, .. } = systemctl::parse(&argv, place) {
            assert!(place == Place::Host && real.iter().all(|word| argv.contains(word)), "{real:?}");
        }
    }
    let _ = u7s_host::oci::bundle(&argv);
    u7s::fuzzing::arguments(&argv);
}
