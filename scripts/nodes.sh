# Sourced by scripts/test: the order of the tests on nested nodes. A module is one file of tests/nodes.
# shellcheck shell=bash
# shellcheck disable=SC2154 # features, filter and listing are the caller's

# First what has deadlines of seconds, alone; then single nodes beside clusters, which mostly wait. A module that no list names
# would run in all three.
nested_nodes() {
    local exact=(refusals init services posture faults reset resume machine) single=(commands firewall flannel rootful)
    local clusters=(join traffic outside strangers mixed ha) beside failed=0
    nodes_but "${single[@]}" "${clusters[@]}" || failed=1
    say "nested nodes: ${single[*]} beside ${clusters[*]}"
    nodes_but "${exact[@]}" "${clusters[@]}" >"$listing" 2>&1 &
    beside=$!
    nodes_but "${exact[@]}" "${single[@]}" || failed=1
    wait "$beside" || failed=1
    cat "$listing"
    return "$failed"
}

nodes_but() { # MODULE...
    local skip=() module
    for module; do skip+=(--skip "$module::"); done
    cargo test --workspace --features "$features" --test nodes -- "${filter[@]}" "${skip[@]}"
}
