# Fills a disk image's tree. Run by sh -eu as root: everything that must not be left mounted is, in a namespace of its own.
# usage: sh -eu bake.sh ROOT INSTALL BIN-DIR AGENT    with IMAGES in the environment, a name a line
root=$1 install=$2 bin=$3 agent=$4
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

install -D -m 755 "$agent" "$root/usr/local/libexec/vm-agent"
cat >"$root/etc/systemd/system/vm-agent.service" <<'UNIT'
[Unit]
Description=Commands of the tests
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup-dev.service
# The last words of a machine that goes down are worth hearing.
Before=multi-user.target
[Service]
ExecStart=/usr/local/libexec/vm-agent
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
OOMScoreAdjust=-1000
TasksMax=infinity
LimitNOFILE=65536
Restart=always
KillMode=process
[Install]
WantedBy=multi-user.target
UNIT
cat >"$root/etc/systemd/network/10-ether.network" <<'NETWORK'
[Match]
Type=ether
Kind=!*
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
DNS=10.0.2.3
LinkLocalAddressing=no
IPv6AcceptRA=no
NETWORK
printf 'n1\n' >"$root/etc/hostname"
printf '127.0.0.1 localhost\n10.0.2.15 n1\n::1 localhost\n' >"$root/etc/hosts"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
# A journal that is still there after a power cut.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nSyncIntervalSec=5s\nSystemMaxUse=200M\nRateLimitIntervalSec=0\n' >"$root/etc/systemd/journald.conf.d/tests.conf"

"$install" --bin "$bin" "$root"
# skopeo unpacks in a chroot of its own, which wants / to be a mount.
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
chroot "$root" /usr/libexec/u7s/postinstall
chroot "$root" systemctl -q enable vm-agent systemd-networkd systemd-networkd-wait-online
chroot "$root" systemctl -q mask serial-getty@ttyS0.service systemd-timesyncd.service
# What the installation of resolved does where it can: a stub on 127.0.0.53.
ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
umount "$root/run"

# The node's store of images, with the owners that it has after an init.
ids=$(awk -F: '$1 == "u7s-admin" { print $3, $4 }' "$root/etc/passwd")
subids=$(awk -F: '$1 == "u7s-admin" { print $2 }' "$root/etc/subuid")
uid=${ids% *} gid=${ids#* }
home=$root/var/lib/u7s-admin
install -d -m 700 -o "$uid" -g "$gid" "$home/node" "$home/node/containers"
# Not of that name's directory: what u7s has there it makes itself.
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
unshare --user sleep 600 &
holder=$!
until [ "$(readlink "/proc/$holder/ns/user")" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.05; done
printf '0 %s 1\n1 %s 65535\n' "$uid" "$subids" >"/proc/$holder/uid_map"
printf '0 %s 1\n1 %s 65535\n' "$gid" "$subids" >"/proc/$holder/gid_map"
cd "$root"
printf '%s\n' "$IMAGES" | while read -r name; do
    [ -n "$name" ] || continue
    HOME=/tmp nsenter --user="/proc/$holder/ns/user" -S 0 -G 0 unshare --mount --propagation private \
        chroot . skopeo --insecure-policy --tmpdir /tmp copy --quiet "oci:/var/lib/u7s/images/kit:$name" \
        "containers-storage:[overlay@/var/lib/u7s-admin/node/containers/storage+/tmp/storage]$name" </dev/null
done
kill "$holder"
umount -l "$root/tmp" "$root/proc"
