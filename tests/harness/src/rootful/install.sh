# Run by sh in a booted node: loads the images, writes the runtime, starts CRI-O and enables the kubelet.
# usage: install.sh LAYOUT IMAGE...
set -eu
layout=$1
shift

# Capabilities that this machine's root lacks cannot be given to a privileged container.
# Inside a user namespace the same container has them all: only a rootful node needs this.
have=$(setpriv --dump | sed -n 's/^Capability bounding set: //p' | tr , '\n')
drop=$(setpriv --list-caps | grep -vxF "$have" | tr '[:lower:]' '[:upper:]' | sed 's/.*/s|"CAP_&",||g;s|,"CAP_&"||g;s|"CAP_&"||g;/' | tr -d '\n')
mkdir -p /usr/local/libexec/u7s-test
cat > /usr/local/libexec/u7s-test/crun <<EOT
#!/bin/sh
# crun for a machine with few capabilities and controllers; u7s-crun drops what needs a controller.
before=
fit() { sed -i '$drop' "\$1"; }
for arg; do
    case \$arg in --bundle=*) fit "\${arg#--bundle=}/config.json" ;; --process=*) fit "\${arg#--process=}" ;; esac
    case \$before in --bundle | -b) fit "\$arg/config.json" ;; --process | -p) fit "\$arg" ;; esac
    before=\$arg
done
exec /usr/local/libexec/u7s-test/u7s-crun "\$@"
EOT
chmod 755 /usr/local/libexec/u7s-test/crun

store='[overlay@/var/lib/containers/storage+/run/containers/storage]'
for image; do
    skopeo --insecure-policy copy -q "oci:$layout:$image" "containers-storage:$store$image"
done
systemctl daemon-reload
systemctl -q enable kubelet
systemctl -q enable --now crio
