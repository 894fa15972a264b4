# The inside of one host of a lab: sh host.sh DIR NAME [SHARED]
# Run in new mount and UTS namespaces and in the host's network namespace. It mounts what is the
# host's own over the machine's directories, says "ready", and sleeps as the namespaces' holder.
set -eu
dir=$1 name=$2 shared=${3:-}

hostname "$name"
# A fresh /sys shows this namespace's network devices; it has no cgroups, libvirt does without.
mount -t sysfs sysfs /sys
mount --bind "$dir/run" /run
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/pki" /etc/pki
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/locks" /var/lib/libvirt/lockd/files
mount --bind "$dir/log" /var/log/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/state" /var/lib/magnetar
mount --bind "$dir/images" /var/lib/magnetar/images
mount --bind "$dir/hosts" /etc/hosts
# No name server is reachable from here, and waiting for one takes long.
if [ -e /etc/resolv.conf ]; then mount --bind "$dir/resolv.conf" /etc/resolv.conf; fi
# Another boot of this host is another boot for what runs in it.
mount --bind "$dir/boot_id" /proc/sys/kernel/random/boot_id
# With a read-only file in its place libvirt finds KVM unusable and does not probe it.
if [ -e /dev/kvm ]; then
    mount --bind "$dir/no-kvm" /dev/kvm
    mount -o remount,bind,ro /dev/kvm
fi
if [ -n "$shared" ]; then
    # libvirt takes a file system for shared by its type. Without caches hosts see one another's
    # writes at once.
    bindfs --multithreaded \
        -o subtype=glusterfs,fsname=lab:instances,direct_io \
        -o attr_timeout=0,entry_timeout=0,negative_timeout=0 \
        "$shared" /var/lib/magnetar/instances
fi
echo ready
exec sleep infinity
