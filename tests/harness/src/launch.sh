# Brings the boot script into the node's cgroup and namespaces; runs as this process to the end.
# usage: launch.sh CGROUP BOOT-SCRIPT [ARGUMENT]...
#
# The cgroup namespace is made while we are in CGROUP, so that it becomes the node's root. Then we wait in a leaf:
# a cgroup that holds a process cannot hand controllers to its children.
set -eu
echo $$ > "$1/cgroup.procs"
# shellcheck disable=SC2016
exec unshare --cgroup sh -c '
    echo $$ > "$1/exec/cgroup.procs"
    script=$2
    shift 2
    exec unshare --mount --pid --uts --ipc --fork --kill-child=KILL -- sh -c "$script" boot.sh "$@"
' launch.sh "$@"
