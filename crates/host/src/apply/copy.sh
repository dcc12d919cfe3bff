# Run by sh as the node's user, inside: copies images into the node's store, several at a time.
# usage: sh -c SCRIPT copy.sh LANES SKOPEO SOURCE STORE [NAME NAME-IN-STORE]...
# Says "+NAME" when one begins and "-NAME" when it is there; the first failure of a lane ends it.
lanes=$1 skopeo=$2 source=$3 store=$4
shift 4
trap 'trap - TERM; kill -TERM 0' TERM

lane() {
    number=$1 at=0
    shift
    while [ $# -gt 0 ]; do
        if [ $((at % lanes)) -eq "$number" ]; then
            echo "+$1"
            "$skopeo" --insecure-policy copy --quiet "$source:$1" "$store$2" || exit 1
            echo "-$1"
        fi
        at=$((at + 1))
        shift 2
    done
}

running='' number=0 failed=0
while [ "$number" -lt "$lanes" ]; do
    lane "$number" "$@" &
    running="$running $!"
    number=$((number + 1))
done
for pid in $running; do
    wait "$pid" || failed=1
done
exit "$failed"
