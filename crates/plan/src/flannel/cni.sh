# Writes the CNI configuration of this node from flannel's subnet file, and again when it, or the template, changes.
# usage: cni.sh TEMPLATE SUBNET-FILE CONFIGURATION
# Runs in the image of flannel, whose sh, sed, cat, mv and sleep are busybox'.
set -u
template=$1 subnets=$2 configuration=$3
trap 'exit 0' TERM INT

value() {
    sed -n "s/^FLANNEL_$1=//p" "$subnets"
}

# The node's own values; fails while the file has none.
read_subnets() {
    address=$(value SUBNET) mtu=$(value MTU)
    case $address in *.*.*.*/*) ;; *) return 1 ;; esac
    case $mtu in '' | *[!0-9]*) return 1 ;; esac
    # The file has the address of the bridge, the first one of the node's network; host-local wants the network itself.
    host=${address%/*}
    network=${host%.*}.$((${host##*.} - 1))/${address#*/}
}

render() {
    sed -e "s|@SUBNET@|$network|" -e "s|\"@MTU@\"|$mtu|" "$template"
}

# Under another suffix than .conflist first, so that half a file is never read.
write() {
    printf '%s\n' "$text" >"$configuration.new" && mv -f "$configuration.new" "$configuration" &&
        echo "wrote $configuration: pods in $network, MTU $mtu"
}

while :; do
    pause=0.2
    if [ -s "$subnets" ] && read_subnets && text=$(render); then
        pause=5
        [ "$text" = "$(cat "$configuration" 2>/dev/null)" ] || write
    fi
    # In the background, so that TERM is heard at once.
    sleep "$pause" &
    wait $!
done
