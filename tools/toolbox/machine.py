"""Settings of the machine that a NAT network and libvirt want, so that --down can put them back."""

import contextlib
import grp
import os
import subprocess
from pathlib import Path

from tools.toolbox import libvirtd
from tools.toolbox.ledger import Ledger

FORWARDING = {
    "ipv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "ipv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
TOOLS = ("iptables", "ip6tables")
TABLES = ("filter", "nat", "mangle")
CHAIN = "LIBVIRT_"
KVM = Path("/dev/kvm")
KVM_GROUP, KVM_MODE = "kvm", 0o660  # as udev sets them


def remember(ledger: Ledger) -> None:
    """Note forwarding and firewall as they are now, unless noted before."""
    if ledger.get("machine") is None:
        forwarding = {name: path.read_text().strip() for name, path in _present().items()}
        ledger.put("machine", {"forwarding": forwarding, "chains": bool(_chains())})


def share_kvm(ledger: Ledger, device: Path = KVM, group: str = KVM_GROUP) -> None:
    """Give /dev/kvm to the group of QEMU's user, where no udev has done so.

    libvirtd may use the device and guests may not: then it never believes what it has found out
    about QEMU, and asks QEMU anew in every call, which takes half a minute where KVM hangs.
    """
    with contextlib.suppress(OSError, KeyError):  # no such device or group, or not ours to change
        now, wanted = device.stat(), grp.getgrnam(group).gr_gid
        mode = now.st_mode & 0o777
        if mode & 0o006 == 0o006 or (now.st_gid == wanted and mode & 0o060 == 0o060):
            return
        ledger.put("kvm", {"gid": now.st_gid, "mode": mode})
        os.chown(device, -1, wanted)
        device.chmod(KVM_MODE)


def unshare_kvm(ledger: Ledger, device: Path = KVM) -> None:
    """Give the device back as it was."""
    noted = ledger.get("kvm")
    if noted is not None:
        with contextlib.suppress(OSError):
            if device.stat().st_mode & 0o777 == KVM_MODE:
                os.chown(device, -1, noted["gid"])
                device.chmod(noted["mode"])
        ledger.forget("kvm")


def restore(ledger: Ledger) -> str:
    """Put back what was noted, unless libvirtd still runs and may need it. Returns one line."""
    noted = ledger.get("machine")
    if noted is None:
        return "as it was"
    if libvirtd.answers():
        ledger.forget("machine")
        ledger.forget("kvm")
        return "left to the libvirtd that runs"
    unshare_kvm(ledger)
    for name, path in _present().items():
        if noted["forwarding"].get(name) not in (None, path.read_text().strip()):
            path.write_text(noted["forwarding"][name])
    if not noted["chains"]:
        _remove_chains()
    ledger.forget("machine")
    return "as it was before"


def _present() -> dict[str, Path]:
    return {name: path for name, path in FORWARDING.items() if path.exists()}


def _rules(tool: str, table: str) -> list[list[str]]:
    done = subprocess.run([tool, "-t", table, "-S"], capture_output=True, text=True, check=False)
    return [line.split() for line in done.stdout.splitlines()]


def _chains() -> list[tuple[str, str, str]]:
    """(tool, table, chain) of every chain that libvirt made."""
    return [
        (tool, table, rule[1])
        for tool in TOOLS
        for table in TABLES
        for rule in _rules(tool, table)
        if rule[0] == "-N" and rule[1].startswith(CHAIN)
    ]


def _remove_chains() -> None:
    """Remove libvirt's chains and the jumps to them; the next libvirtd makes them anew."""
    chains = _chains()
    for tool, table in {(tool, table) for tool, table, _ in chains}:
        for rule in _rules(tool, table):
            jumps = "-j" in rule and rule[rule.index("-j") + 1].startswith(CHAIN)
            if rule[0] == "-A" and jumps and not rule[1].startswith(CHAIN):
                _iptables(tool, table, "-D", *rule[1:])
    for action in ("-F", "-X"):
        for tool, table, chain in chains:
            _iptables(tool, table, action, chain)


def _iptables(tool: str, table: str, *words: str) -> None:
    subprocess.run([tool, "-w", "-t", table, *words], capture_output=True, check=False)
