# Sourced by scripts/test: the tests on virtual machines, a workspace of their own.
# shellcheck shell=bash
# shellcheck disable=SC2154 # filter is the caller's

# U7S_LONG tells whether long ones run, and the usual ones once more on the kernel of Debian's backports.
virtual_machines() {
    local target=${CARGO_TARGET_DIR:-target} cargo
    mkdir -p "$target"
    target=$(realpath "$target")
    cargo=(env "U7S_VM_BIN=$target/release" "CARGO_TARGET_DIR=$target/vm" cargo)
    say "programs as they are installed"
    scripts/build
    say "virtual machines"
    cd vm-tests
    if [ ${#filter[@]} -eq 0 ]; then
        cargo fmt --check
        "${cargo[@]}" clippy --quiet --locked --all-targets --all-features -- -D warnings
        "${cargo[@]}" test --quiet --locked --lib --bins
    fi
    "${cargo[@]}" test --quiet --locked --features machines --test vm -- "${filter[@]}"
    [ -z "$U7S_LONG" ] || U7S_VM_KERNEL=backports U7S_LONG='' \
        "${cargo[@]}" test --quiet --locked --features machines --test vm -- "${filter[@]}"
    cd ..
}
