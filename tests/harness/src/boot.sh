# Run by sh as pid 1 of new mount, pid, uts, ipc and cgroup namespaces, in the node's network namespace: makes the
# mounts of a machine in the tree ROOT, goes there and becomes systemd. Nothing outside ROOT is changed.
# usage: boot.sh ROOT NAME CONSOLE TREE DEVICES [SOURCE TARGET]...   (binds: read-only, TARGET is made)
set -eu
root=$1 name=$2 console=$3 tree=$4 devices=$5
shift 5

hostname "$name"
mount --make-rprivate /
# All nodes share the bulk of the tree, and the memory it takes; what one writes is its own.
mount -t overlay -o "lowerdir=$tree/usr,upperdir=$root/usr,workdir=${root%/*}/work" overlay "$root/usr"
mount --rbind "$root" "$root"
cd "$root"

mkdir -p proc sys dev run tmp
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
# From the leaf it was started in to the namespace's root, which systemd takes for its own.
echo $$ > sys/fs/cgroup/cgroup.procs
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp

# Device nodes of its own, so that their modes are this node's affair: "name:major:minor".
mount -t tmpfs -o nosuid,mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in $devices; do
    path=dev/${device%%:*}
    numbers=${device#*:}
    mknod -m 666 "$path" c "${numbers%:*}" "${numbers#*:}"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
: > dev/console
mount --bind "$console" dev/console

while [ $# -gt 1 ]; do
    if [ -d "$1" ]; then
        mkdir -p "$root$2"
    else
        mkdir -p "$root${2%/*}"
        : >> "$root$2"
    fi
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done

pivot_root . .
umount -l .
# As on a real machine, where systemd finds itself outside a container.
mount --make-rshared /
cd /
exec env -i container=u7s-test TERM=dumb /lib/systemd/systemd --log-target=journal --show-status=no
