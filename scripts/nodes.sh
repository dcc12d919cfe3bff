# Sourced by scripts/test: the tests on nested nodes. Their groups are in tests/nodes/main.rs, which every module is in.
# shellcheck shell=bash
# shellcheck disable=SC2154 # work is the caller's

nested_nodes() {
    local groups failed=0
    mapfile -t groups < <(U7S_NODES=names "$(program nodes)")
    [ ${#groups[@]} -gt 1 ] || die "the tests on nested nodes tell no groups"
    say "nested nodes: ${groups[0]}"
    U7S_NODES=${groups[0]} built . nodes || failed=1
    # Told before the long part begins.
    need_lints
    raise_limits
    beside_each_other "${groups[@]:1}" kubeadm harness || failed=1
    return "$failed"
}

# They mostly wait, and do so at the same time, two for each processor. What each says is shown when it has ended.
beside_each_other() { # GROUP...
    local failed=0 group
    declare -A running=()
    say "beside each other: $*"
    for group; do
        [ ${#running[@]} -lt $((2 * $(nproc))) ] || await_one || failed=1
        run_group "$group" >"$work/$group" 2>&1 &
        running[$!]=$group
    done
    while [ ${#running[@]} -gt 0 ]; do await_one || failed=1; done
    return "$failed"
}

# Waits for one of those in `running`, and shows what it said.
await_one() {
    local pid status=0
    wait -n -p pid "${!running[@]}" || status=$?
    group_ended "${running[$pid]}" "$status"
    unset "running[$pid]"
    [ "$status" -eq 0 ]
}

group_ended() { # GROUP STATUS
    local how=ended
    [ "$2" -eq 0 ] || how=FAILED
    say "$1 $how $SECONDS s after the start"
    cat "$work/$1"
}

# Limits of the machine, and what a rootful kubelet sets: u7s raises and takes back what is too low, which of nodes on
# one machine only one at a time may do. So it is done beforehand.
raise_limits() {
    local pair file former
    for pair in fs/inotify/max_user_instances=8192 fs/inotify/max_user_watches=524288 kernel/keys/maxkeys=10000 \
        kernel/keys/maxbytes=2500000 kernel/panic=10 kernel/panic_on_oops=1 vm/overcommit_memory=1; do
        file=/proc/sys/${pair%=*}
        former=$(<"$file")
        [ "$former" -lt "${pair#*=}" ] || continue
        printf '%s %s\n' "$file" "$former" >>"$work/limits"
        printf '%s\n' "${pair#*=}" >"$file"
    done
}

restore_limits() {
    local file former
    [ -f "$work/limits" ] || return 0
    while read -r file former; do printf '%s\n' "$former" >"$file"; done <"$work/limits"
}

run_group() {
    case $1 in
    harness) built tests/harness machine ;;
    # The same command lines and documents to the kit's kubeadm and to ours.
    kubeadm) built crates/plan kubeadm kubeadm && built crates/shim u7s_shim kubeadm ;;
    *) U7S_NODES=$1 built . nodes ;;
    esac
}
