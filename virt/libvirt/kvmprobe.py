"""Does KVM run a guest? A /dev/kvm may exist and hang, or be slower than emulation.

A firmware of our own, 64 KiB with some thirty bytes of code, enters protected mode, counts to
fifty million and leaves through isa-debug-exit. Hardware needs a tenth of a second for it; a
nested KVM that interprets each instruction does not get there in the time allowed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass

ROM_SIZE = 65536
ROM_BASE = 0x1_0000_0000 - ROM_SIZE  # firmware ends where the address space of 32 bits ends
ENTRY, GDT, GDTR, FLAT = 0xFF00, 0xFF40, 0xFF58, 0xFF60
LOOPS = 50_000_000
EXIT_PORT, EXIT_VALUE = 0x501, 0x10
EXIT_CODE = EXIT_VALUE << 1 | 1  # as isa-debug-exit defines it


@dataclass(frozen=True)
class Verdict:
    """Whether KVM ran the probe, and the reason in words."""

    works: bool
    why: str
    cached: bool = False


def firmware() -> bytes:
    """The probe's firmware image."""
    rom = bytearray(b"\xf4" * ROM_SIZE)  # hlt wherever it should not be

    def put(offset: int, data: bytes) -> None:
        rom[offset : offset + len(data)] = data

    put(0xFFF0, b"\xe9" + struct.pack("<h", ENTRY - 0xFFF3))  # reset vector: jmp ENTRY
    put(
        ENTRY,
        b"\xfa"  # cli
        + b"\x2e\x66\x0f\x01\x16" + struct.pack("<H", GDTR)  # lgdt cs:[GDTR]
        + b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"  # cr0 |= 1
        + b"\x66\xea" + struct.pack("<IH", ROM_BASE + FLAT, 8),  # jmp 8:FLAT
    )
    # A null descriptor and flat 32-bit code, marked as accessed since the table is in ROM.
    put(GDT, struct.pack("<QQ", 0, 0x00CF9B000000FFFF))
    put(GDTR, struct.pack("<HI", 15, ROM_BASE + GDT))
    put(
        FLAT,
        b"\xb9" + struct.pack("<I", LOOPS)  # mov ecx, LOOPS
        + b"\x49\x75\xfd"  # dec ecx; jnz back
        + b"\x66\xba" + struct.pack("<H", EXIT_PORT)  # mov dx, EXIT_PORT
        + b"\xb0" + bytes([EXIT_VALUE])  # mov al, EXIT_VALUE
        + b"\xee\xf4",  # out dx, al; hlt
    )
    return bytes(rom)


def prove(
    emulator: str, state_path: str, *, device: str = "/dev/kvm", accel: str = "kvm",
    limit: float = 3.0,
) -> Verdict:
    """Run the probe, or repeat what it found since this boot with this emulator.

    Takes ``limit`` seconds at most, plus one to give up on a process that cannot be killed.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Verdict(False, f"{device} cannot be opened ({error.strerror})")
    key = _key(emulator)
    path = os.path.join(state_path, "kvm-probe.json")
    known = _read(path, key)
    if known is not None:
        return known
    verdict = _run(emulator, accel, limit)
    if verdict.works or "did not finish" in verdict.why:  # what passes by itself is not kept
        _write(path, key, verdict)
    return verdict


def _run(emulator: str, accel: str, limit: float) -> Verdict:
    with tempfile.NamedTemporaryFile(suffix=".rom") as rom, tempfile.TemporaryFile("w+") as said:
        rom.write(firmware())
        rom.flush()
        command = [
            emulator, "-accel", accel, "-machine", "pc", "-m", "16", "-nodefaults",
            "-no-user-config", "-display", "none", "-bios", rom.name,
            "-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=2",
        ]  # fmt: skip
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Verdict(False, f"{emulator} cannot be run: {error.strerror}")
        try:
            process.wait(limit)  # not communicate(): its exception is another class when green
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            return Verdict(False, f"KVM did not finish a small program in {limit:g} s")
        took = time.monotonic() - began
        if process.returncode == EXIT_CODE:
            return Verdict(True, f"KVM ran a small program in {took:.2f} s")
        said.seek(0)
        lines = said.read().strip().splitlines() or [f"it ended with {process.returncode}"]
        return Verdict(False, f"QEMU refused KVM: {lines[-1]}")


def _key(emulator: str) -> str:
    """This boot and this emulator: its version changes only with its file."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as handle:
            boot = handle.read().strip()
        stat = os.stat(os.path.realpath(emulator))
    except OSError:
        return ""
    return f"{boot} {emulator} {stat.st_size} {stat.st_mtime_ns} {LOOPS}"


def _read(path: str, key: str) -> Verdict | None:
    try:
        with open(path) as handle:
            data = json.load(handle)
        if key and data["key"] == key:
            return Verdict(bool(data["works"]), str(data["why"]), cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no note, or not ours: the probe costs little
    return None


def _write(path: str, key: str, verdict: Verdict) -> None:
    scratch = f"{path}.{os.getpid()}"
    try:
        with open(scratch, "w") as handle:
            json.dump({"key": key, **asdict(verdict)}, handle)
        os.replace(scratch, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
