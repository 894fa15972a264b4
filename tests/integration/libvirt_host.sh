# Holds the namespaces of one private libvirtd: sh libvirt_host.sh BASE kvm|no-kvm [cgroups]
# Run it in a new mount and network namespace. It says "ready", and lives until its standard
# input closes, thus also when the test dies; then it ends all that runs in the namespace.
set -e
base=$1

# A fresh /sys shows the namespace's network devices; it has no cgroups, and libvirt does without.
mount -t sysfs sysfs /sys
if [ "$3" = cgroups ]; then  # containers cannot do without; of the first version only, see test_lxc
    mount -t tmpfs cgroup /sys/fs/cgroup
    for controller in cpu cpuacct cpuset memory devices freezer blkio; do
        mkdir "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
    done
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
ip link set lo up
mount --bind "$base/run" /run/libvirt
mount --bind "$base/lib" /var/lib/libvirt
mount --bind "$base/log" /var/log/libvirt
mount --bind "$base/cache" /var/cache/libvirt
mount --bind "$base/etc" /etc/libvirt
# With a read-only file in its place libvirt finds KVM unusable and does not probe it.
if [ "$2" != kvm ] && [ -e /dev/kvm ]; then
    mount --bind "$base/no-kvm" /dev/kvm
    mount -o remount,bind,ro /dev/kvm
fi

others() {
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        [ "$(readlink "$entry/ns/mnt")" != "$namespace" ] || [ "$pid" = $$ ] || echo "$pid"
    done 2>/dev/null
}

echo ready
read -r _ || true
namespace=$(readlink /proc/$$/ns/mnt)
# A guest that is killed takes seconds to give its memory back, on a loaded machine many.
tries=2000
while [ $tries -gt 0 ]; do
    left=
    # The subshells of this script have ended when their pids are looked at again.
    for pid in $(others); do
        if kill -9 "$pid" 2>/dev/null; then left=yes; fi
    done
    [ -n "$left" ] || break
    tries=$((tries - 1))
    sleep 0.05
done
rm -rf "$base"
