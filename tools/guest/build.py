"""Build the small guest image that quickstart and the tests boot.

A disk with a bootloader: MBR, a FAT16 partition with syslinux, Debian's cloud kernel and an
initrd of busybox and the files below root/, and an ext4 partition "guestdata" that keeps the
guest's counter. Only user-space tools write it, so neither root nor loop devices are needed.
"""

import argparse
import contextlib
import fcntl
import filecmp
import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import agent
import kernel

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache"
BUSYBOX = Path("/bin/busybox")
MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
MIB = 1 << 20
SECTOR = 512
DATA_MIB = 8

# What a guest may meet: virtio and IDE disks and cdroms, config drives, NICs, the power button.
MODULES = [
    *["virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_console"],
    *["virtio_balloon", "virtio_rng", "virtio_mem", "ata_piix", "sd_mod", "sr_mod"],
    *["isofs", "vfat", "nls_cp437", "nls_ascii", "button", "evdev", "af_packet"],
    *["pvpanic_pci", "pvpanic_mmio"],
]
DIRECTORIES = [
    *["bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/modules"],
    *["mnt", "mnt/config", "mnt/data", "proc", "root", "run", "sys", "tmp", "var"],
]
SYSLINUX_CFG = b"""SERIAL 0 115200
DEFAULT guest
PROMPT 0
LABEL guest
 KERNEL vmlinuz
 INITRD initrd.gz
 APPEND console=ttyS0 quiet loglevel=4 panic=5 no_timer_check mitigations=off random.trust_cpu=on
"""


class Initrd:
    """A cpio archive in the kernel's "newc" form, owned by root whoever builds it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def directory(self, path: str) -> None:
        self._add(path, 0o040755, b"")

    def file(self, path: str, content: bytes, executable: bool = False) -> None:
        self._add(path, 0o100755 if executable else 0o100644, content)

    def link(self, path: str, target: str) -> None:
        self._add(path, 0o120777, target.encode())

    def packed(self) -> bytes:
        """The archive, compressed; the same bytes for the same content."""
        self._add("TRAILER!!!", 0, b"")
        return gzip.compress(b"".join(self._parts), 6, mtime=0)

    def _add(self, path: str, mode: int, content: bytes) -> None:
        name = path.encode() + b"\0"
        fields = (len(self._parts) + 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts.append(_padded(header + name) + _padded(content))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def build_initrd(modules: kernel.Modules, unpacked: Path) -> bytes:
    """The whole user space of the guest: busybox, modules, the files below root/, and the agent,
    which only starts when somebody starts it."""
    initrd = Initrd()
    for path in [*DIRECTORIES, *agent.DIRECTORIES]:
        initrd.directory(path)
    initrd.link("sbin", "bin")
    initrd.link("var/run", "../run")
    initrd.file("bin/busybox", BUSYBOX.read_bytes(), executable=True)
    for applet in _run(str(BUSYBOX), "--list").split():
        if applet != "busybox":
            initrd.link(f"bin/{applet}", "busybox")
    initrd.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
    initrd.file("etc/group", b"root:x:0:\n")
    for path, content in agent.files(unpacked):
        initrd.file(path, content, executable=True)
    order = modules.load_order(MODULES)
    for module in order:
        initrd.file(f"lib/modules/{module}", modules.content(module))
    initrd.file("lib/modules/order", "\n".join(order).encode() + b"\n")
    for source in sorted((HERE / "root").rglob("*")):
        if source.is_file():
            inside = str(source.relative_to(HERE / "root"))
            initrd.file(inside, source.read_bytes(), executable=os.access(source, os.X_OK))
    return initrd.packed()


def boot_partition(work: Path, vmlinuz: bytes, initrd: bytes) -> bytes:
    """A FAT16 file system that syslinux boots from, as bytes."""
    image = work / "boot.fat"
    size = (len(vmlinuz) + len(initrd)) // MIB + 4
    with image.open("wb") as handle:
        handle.truncate(size * MIB)
    _run("mkfs.vfat", "-F", "16", "-n", "BOOT", str(image))
    _run("syslinux", "--install", str(image))
    files = {"vmlinuz": vmlinuz, "initrd.gz": initrd, "syslinux.cfg": SYSLINUX_CFG}
    for name, content in files.items():
        (work / name).write_bytes(content)
        _run("mcopy", "-i", str(image), str(work / name), f"::{name}")
    data = bytearray(image.read_bytes())
    # "Hidden sectors" must say where the partition starts, or syslinux cannot find itself.
    struct.pack_into("<I", data, 28, MIB // SECTOR)
    return bytes(data)


def data_partition(work: Path) -> bytes:
    """An empty ext4 file system named guestdata, as bytes."""
    image = work / "data.ext4"
    with image.open("wb") as handle:
        handle.truncate(DATA_MIB * MIB)
    _run("mkfs.ext4", "-q", "-L", "guestdata", str(image))
    return image.read_bytes()


def boot_record(boot: int, data: int) -> bytes:
    """The first sector: syslinux's code and a table of the two partitions (sizes in bytes)."""

    def entry(flag: int, kind: int, start: int, size: int) -> bytes:
        beyond_chs = b"\xfe\xff\xff"
        sectors = (start // SECTOR, size // SECTOR)
        return struct.pack("<B3sB3sII", flag, beyond_chs, kind, beyond_chs, *sectors)

    table = entry(0x80, 0x0E, MIB, boot) + entry(0, 0x83, MIB + boot, data)
    return MBR.read_bytes()[:440].ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa"


def build(out: Path, tree: Path, inside: Path) -> None:
    """Write the qcow2 image to `out`; a failure leaves no half-written file there."""
    modules = kernel.Modules(tree)
    with tempfile.TemporaryDirectory(prefix="build-guest-") as name:
        work = Path(name)
        boot = boot_partition(work, modules.vmlinuz.read_bytes(), build_initrd(modules, inside))
        data = data_partition(work)
        disk = work / "disk.raw"
        first = boot_record(len(boot), len(data)).ljust(MIB, b"\0")
        disk.write_bytes(first + boot + data)
        partial = out.with_name(out.name + ".partial")
        _run("qemu-img", "convert", "-c", "-O", "qcow2", str(disk), str(partial))
        partial.rename(out)


def inputs_digest(tree: Path, inside: Path) -> str:
    """A hash of everything that the image is made of."""
    digest = hashlib.sha256(tree.name.encode())
    sources = sorted(path for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    for path in [*sources, BUSYBOX, MBR, inside / agent.PROGRAM]:
        digest.update(f"{path.name} {os.access(path, os.X_OK)}".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise kernel.KernelError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Tests that run side by side ask for the image at the same moment."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "guest.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def copy(built: Path, out: Path) -> None:
    """Put the image in its place, unless it is there: a guest may have it open."""
    if out.exists() and filecmp.cmp(built, out, shallow=False):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.copyfile(built, partial)
    partial.rename(out)


def main() -> int:
    parser = argparse.ArgumentParser(prog="build-guest", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.qcow2")
    out = parser.parse_args().out.resolve()
    try:
        with one_at_a_time():
            tree = kernel.fetch(CACHE / "kernel")
            inside = agent.fetch(CACHE / "agent")
            built = CACHE / "guest" / f"{inputs_digest(tree, inside)}.qcow2"
            if not built.exists():
                shutil.rmtree(built.parent, ignore_errors=True)
                built.parent.mkdir(parents=True)
                build(built, tree, inside)
            copy(built, out)
    except (kernel.KernelError, OSError) as error:
        print(f"build-guest: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {out.stat().st_size / MIB:.0f} MiB, from {tree.name} and busybox")
    return 0


if __name__ == "__main__":
    sys.exit(main())
