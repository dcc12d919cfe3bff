# Sourced by scripts/test: the order of the tests on nested nodes. A module is one file of tests/nodes.
# shellcheck shell=bash
# shellcheck disable=SC2154 # features and filter are the caller's

# With deadlines of seconds: alone. The others mostly wait, and do so beside each other. A module that no list names runs in all.
exact=(refusals init services posture faults reset resume machine)
single=(commands firewall flannel rootful)
pair=(join traffic outside strangers)
many=(mixed ha)

nested_nodes() {
    local failed=0
    nodes_but "${single[@]}" "${pair[@]}" "${many[@]}" || failed=1
    beside_each_other || failed=1
    return "$failed"
}

beside_each_other() {
    local failed=0 logs singles manys
    logs=$(mktemp -d)
    say "nested nodes, beside each other: ${single[*]}; ${pair[*]}; ${many[*]}"
    nodes_but "${exact[@]}" "${pair[@]}" "${many[@]}" >"$logs/single" 2>&1 &
    singles=$!
    nodes_but "${exact[@]}" "${single[@]}" "${pair[@]}" >"$logs/many" 2>&1 &
    manys=$!
    nodes_but "${exact[@]}" "${single[@]}" "${many[@]}" || failed=1
    wait "$singles" || failed=1
    wait "$manys" || failed=1
    cat "$logs/single" "$logs/many"
    rm -r "$logs"
    return "$failed"
}

nodes_but() { # MODULE...
    local skip=() module
    for module; do skip+=(--skip "$module::"); done
    cargo test --workspace --features "$features" --test nodes -- "${filter[@]}" "${skip[@]}"
}
