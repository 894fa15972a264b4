"""Record traces of real migrations, with native threads:

    MAGNETAR_CONCURRENCY=threading python -m tests.unit.migration_traces.record [NAME…]

A guest of tools/build-guest moves between two private libvirtds, about ten samples a second, while
the policy decides and its actions are carried out. Each file holds the limits, the samples as
libvirt's statistics gave them, and what was done after which sample. It takes about five minutes.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from compute import concurrency
from compute.migration import policy
from compute.migration.policy import Limits, State
from compute.model import move
from compute.model.move import JobSample
from tests.integration import libvirtd
from tests.integration.move_hosts import MoveHost
from virt.libvirt import jobs

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
INTERVAL = 0.1
MOST_SECONDS = 150
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory>
<os><type machine='pc-q35-7.2'>hvm</type></os><features><acpi/></features>
<cpu mode='custom' match='exact'><model>Nehalem</model></cpu><devices>
<disk type='file'><driver name='qemu' type='qcow2' cache='none'/><source file='{disk}'/>
  <target dev='vda' bus='virtio'/></disk>
<serial type='pty'><log file='{console}' append='on'/></serial><console type='pty'/>
</devices></domain>"""
FLAGS = (libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
         | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE | libvirt.VIR_MIGRATE_PERSIST_DEST
         | libvirt.VIR_MIGRATE_UNSAFE)  # both hosts are this machine, and see the same files
# Rewrite SIZE MiB of memory, then rest SLEEP microseconds, for ever.
DIRTY = ("dd if=/dev/urandom of=/run/pat bs=64k count=16 2>/dev/null; l=; i=0; "
         "while [ $i -lt {size} ]; do l=\"$l /run/pat\"; i=$((i+1)); done; "
         "while :; do cat $l 1<>/run/region; usleep {sleep}; done &")
WRITE = ("while :; do dd if=/run/pat of=/mnt/data/load bs=64k count=16 conv=notrunc,fsync "
         "2>/dev/null; usleep {sleep}; done &")


@dataclass(frozen=True)
class Scene:
    """One migration: its limits, what the guest does, and what people do (at seconds)."""

    what: str
    limits: Limits
    dirty: tuple[int, int] | None = None  # MiB, microseconds of rest
    writes: int | None = None  # microseconds of rest between writes of a MiB to disk
    disk: str = ""  # "full" or "overlay" when it is copied
    bandwidth: int = 0
    downtime_ms: int = 100
    paused: bool = False
    flags: int = 0
    people: dict[float, str] = field(default_factory=dict)  # "abort", "force", "cut", "mend"


POSTCOPY = libvirt.VIR_MIGRATE_POSTCOPY
HEAVY = {"dirty": (40, 0), "bandwidth": 20}
SCENES = {
    "idle": Scene("an idle guest", Limits()),
    "converges": Scene("a guest that writes 10 MiB about twice a second", Limits(bandwidth=60),
                       dirty=(10, 500000), bandwidth=60),
    "raised-pause": Scene("a guest that rewrites 10 MiB as fast as it can",
                          Limits(budget_ms=800, bandwidth=30), dirty=(10, 0), bandwidth=30),
    "never-converges": Scene("a guest that rewrites 40 MiB, with a bandwidth of 20 MiB/s",
                             Limits(budget_ms=300, bandwidth=20, completion_seconds=30), **HEAVY),
    "auto-converge": Scene("the same with auto-converge", Limits(
        budget_ms=300, bandwidth=20, auto_converge=True, completion_seconds=120),
        flags=libvirt.VIR_MIGRATE_AUTO_CONVERGE, **HEAVY),
    "postcopy": Scene("the same where post-copy is permitted", Limits(
        budget_ms=300, bandwidth=20, postcopy=True), flags=POSTCOPY, **HEAVY),
    "postcopy-eager": Scene("the same with the strategy postcopy", Limits(
        budget_ms=300, bandwidth=20, postcopy=True, eager=True), flags=POSTCOPY, **HEAVY),
    "postcopy-cut": Scene("an idle guest, forced into post-copy, whose link breaks", Limits(
        bandwidth=6, postcopy=True), bandwidth=6, flags=POSTCOPY,
        people={2.0: "force", 0.0: "cut in post-copy"}),
    "aborted": Scene("the same, aborted by a person", Limits(budget_ms=300, bandwidth=20),
                     people={6.0: "abort"}, **HEAVY),
    "forced": Scene("the same, forced by a person without post-copy",
                    Limits(budget_ms=300, bandwidth=20), people={14.0: "force"}, **HEAVY),
    "paused": Scene("a paused guest", Limits(bandwidth=20, guest_paused=True), paused=True,
                    dirty=(40, 0), bandwidth=20),
    "block": Scene("block migration of an idle guest's whole disk", Limits(bandwidth=60),
                   disk="full", bandwidth=60, flags=libvirt.VIR_MIGRATE_NON_SHARED_DISK),
    "block-busy": Scene("block migration of an overlay, of a guest that writes disk and memory",
                        Limits(budget_ms=300, bandwidth=20, postcopy=True), disk="overlay",
                        writes=100000, flags=libvirt.VIR_MIGRATE_NON_SHARED_INC | POSTCOPY,
                        **HEAVY),
    "block-aborted": Scene("block migration, aborted while the disk goes over",
                           Limits(bandwidth=10), disk="full", bandwidth=10,
                           flags=libvirt.VIR_MIGRATE_NON_SHARED_DISK, people={3.0: "abort"}),
}


class Recorder:
    """Two hosts, and one guest at a time."""

    def __init__(self, home: Path, source: MoveHost, destination: MoveHost):
        self.home, self.hosts = home, (source, destination)
        self.source = libvirt.open(source.uri)
        self.destination = libvirt.open(destination.uri)

    def record(self, name: str, scene: Scene) -> dict:
        """Carry one scene out; returns the trace."""
        domain = self._start(name, scene)
        run = _Run(self, domain, scene)
        try:
            samples, done, error = run.go()
        finally:
            self._clear(name)
        return {
            "scene": scene.what, "recorded": True,
            "libvirt": libvirt.getVersion(), "qemu": self.source.getVersion(),
            "limits": dataclasses.asdict(scene.limits),
            "state": {"downtime_ms": scene.downtime_ms, "bandwidth": scene.bandwidth},
            "asked": run.asked, "done": done, "ended": error or "completed",
            "samples": [_lean(sample, samples[0].time) for sample in samples],
        }

    def _start(self, name: str, scene: Scene) -> libvirt.virDomain:
        disk, console = self.home / f"{name}.qcow2", self.home / f"{name}.console"
        base = ["-b", str(TOP / ".cache/guest.qcow2"), "-F", "qcow2"]
        if scene.disk == "full":
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-S", "0", base[1], str(disk)],
                           check=True)
        else:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(disk)],
                           check=True)
        xml = DOMAIN.format(name=name, disk=disk, console=console)
        domain = self.source.defineXML(xml)
        domain.create()
        _await(lambda: console.exists() and b"TICK 2" in console.read_bytes(), 90)
        if scene.dirty:
            self._type(domain, console, DIRTY.format(size=scene.dirty[0],
                                                     sleep=scene.dirty[1] or 1))
        if scene.writes:
            self._type(domain, console, WRITE.format(sleep=scene.writes))
        time.sleep(2)
        if scene.paused:
            domain.suspend()
        return domain

    def target(self, name: str, scene: Scene) -> dict:
        """What the destination needs when the disk is copied: another file, made beforehand."""
        if not scene.disk:
            return {}
        disk, made = self.home / f"{name}.qcow2", self.home / f"{name}-arrived.qcow2"
        base = ["-b", str(TOP / ".cache/guest.qcow2"), "-F", "qcow2"] \
            if scene.disk == "overlay" else []
        size = json.loads(subprocess.run(
            ["qemu-img", "info", "-U", "--output", "json", str(disk)], check=True,
            capture_output=True).stdout)["virtual-size"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(made), str(size)],
                       check=True)
        return {"migrate_disks": ["vda"], "disk": (str(disk), str(made))}

    def _type(self, domain: libvirt.virDomain, console: Path, line: str) -> None:
        """Give the guest's shell a command, until it answers."""
        said = console.read_bytes().count(b"TYPED")
        stream = self.source.newStream()
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        for text in (line, "echo TYP''ED"):
            stream.send(text.encode() + b"\n")
            time.sleep(1)
        stream.finish()
        _await(lambda: console.read_bytes().count(b"TYPED") > said, 10)

    def _clear(self, name: str) -> None:
        for connection in (self.source, self.destination):
            for domain in connection.listAllDomains():
                if domain.isActive():
                    domain.destroy()
                if domain.isPersistent():
                    domain.undefine()
        for path in self.home.glob(f"{name}*"):
            path.unlink()


class _Run:
    """One migration under the policy's eyes."""

    def __init__(self, recorder: Recorder, domain: libvirt.virDomain, scene: Scene):
        self.recorder, self.domain, self.scene = recorder, domain, scene
        self.error, self.asked = "", []
        self.threads: list[threading.Thread] = []

    def go(self) -> tuple[list[JobSample], list, str]:
        scene = self.scene
        self.domain.migrateSetMaxDowntime(scene.downtime_ms)
        self._call(FLAGS | scene.flags)
        samples: list[JobSample] = []
        done: list = []
        state = State(downtime_ms=scene.downtime_ms, bandwidth=scene.bandwidth)
        began = time.monotonic()
        while any(thread.is_alive() for thread in self.threads) or self._broken():
            if time.monotonic() > began + MOST_SECONDS:
                raise TimeoutError("the migration does not end")
            sample = self._look()
            if sample is not None:
                samples.append(sample)
                state = self._people(state, samples, time.monotonic() - began)
                action = policy.decide(samples, scene.limits, state)
                if action.kind != policy.NOTHING:
                    print(f"  {sample.elapsed:7.2f} {action}", flush=True)
                    self._act(action)
                    done.append([len(samples) - 1, action.kind, action.value])
                    state = state.after(action, samples)
            time.sleep(INTERVAL)
        samples.append(self._end())
        return samples, done, self.error

    def _call(self, flags: int) -> None:
        source, destination = self.recorder.hosts
        parameters = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{destination.address}"}
        if self.scene.bandwidth:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = self.scene.bandwidth
            if flags & libvirt.VIR_MIGRATE_POSTCOPY:
                parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = self.scene.bandwidth
        if not flags & libvirt.VIR_MIGRATE_POSTCOPY_RESUME:
            extra = self.recorder.target(self.domain.name(), self.scene)
            if extra:
                xml = self.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
                xml = xml.replace(*extra.pop("disk"))
                parameters |= {**extra, libvirt.VIR_MIGRATE_PARAM_DEST_XML: xml,
                               libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: xml}
        uri = f"qemu+tcp://{destination.address}/system"
        # A connection of its own: without an event loop, a long call keeps others waiting.
        domain = libvirt.open(source.uri).lookupByName(self.domain.name())

        def migrate() -> None:
            try:
                domain.migrateToURI3(uri, parameters, flags)
                self.error = ""
            except libvirt.libvirtError as error:
                self.error = f"{error.get_error_code()}: {error}"

        thread = threading.Thread(target=migrate)
        thread.start()
        self.threads.append(thread)
        _await(lambda: self._look() is not None or not thread.is_alive(), 10)

    def _look(self) -> JobSample | None:
        try:
            stats, (number, why) = self.domain.jobStats(), self.domain.state()
        except libvirt.libvirtError:
            return None  # it is gone, or going
        if not stats.get("type") and not stats.get("memory_total"):
            phase = jobs.phase(number, why, stats)
            return jobs.sample(stats, phase) if phase == move.POSTCOPY_PAUSED else None
        return jobs.sample(stats, jobs.phase(number, why, stats))

    def _broken(self) -> bool:
        """Whether the call ended, and the migration did not: it can be continued."""
        sample = self._look()
        return sample is not None and sample.phase == move.POSTCOPY_PAUSED

    def _end(self) -> JobSample:
        try:
            stats = self.domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        except libvirt.libvirtError:
            stats = {}
        phase = move.COMPLETED if not self.error else \
            move.CANCELLED if "78:" in self.error else move.FAILED
        return jobs.sample(stats, phase, self.error)

    def _people(self, state: State, samples: list[JobSample], seconds: float) -> State:
        source, _ = self.recorder.hosts
        for at, what in self.scene.people.items():
            index = len(samples) - 1
            if what in [told[1] for told in self.asked] or seconds < at:
                continue
            if what == "cut in post-copy":
                # Not at once: QEMU can only recover when no device of the guest waits for memory.
                since = [look.time for look in samples if look.phase == move.POSTCOPY]
                if since and samples[-1].time > since[0] + 3:
                    source.enter("ss", "-K", "-tnH", "dport", ">=", ":49152")
                    self.asked.append([index, what])
                continue
            self.asked.append([index, what])
            state = dataclasses.replace(state, **{what: "a person wants it."})
        return state

    def _act(self, action: policy.Action) -> None:
        domain = self.domain
        if action.kind == policy.DOWNTIME:
            domain.migrateSetMaxDowntime(action.value)
        elif action.kind == policy.BANDWIDTH:
            domain.migrateSetMaxSpeed(action.value)
        elif action.kind == policy.POSTCOPY:
            domain.migrateStartPostCopy()
        elif action.kind == policy.PAUSE:
            domain.suspend()
        elif action.kind == policy.ABORT:
            domain.abortJob()
        elif action.kind == policy.RECOVER:
            self._call(FLAGS | self.scene.flags | libvirt.VIR_MIGRATE_POSTCOPY_RESUME)


def _lean(sample: JobSample, began: float) -> dict:
    """The fields that say something; the clock from 0."""
    plain = {**sample.to_plain(), "time": round(sample.time - began, 3)}
    return {name: value for name, value in plain.items() if value not in (0, None, "")}


def _await(check, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.05)


def write(name: str, trace: dict) -> None:
    """One sample a line, so that differences can be read."""
    head = {key: value for key, value in trace.items() if key != "samples"}
    lines = ",\n".join(json.dumps(sample) for sample in trace["samples"])
    text = json.dumps(head, indent=1)[:-2] + f',\n "samples": [\n{lines}\n]}}\n'
    (HERE / f"{name}.json").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SCENES], help="default: all")
    names = parser.parse_args().names or list(SCENES)
    if concurrency.mode() != "threading":
        raise SystemExit("Set MAGNETAR_CONCURRENCY=threading: a migration blocks its thread.")
    if reason := libvirtd.missing():
        raise SystemExit(f"Nothing can be recorded: {reason}")
    libvirt.registerErrorHandler(lambda context, error: None, None)  # not to standard error
    home = Path(tempfile.mkdtemp(prefix="traces-", dir="/var/tmp"))
    source = MoveHost(1)
    destination = MoveHost(2, source)
    try:
        source.setUp()
        destination.setUp()
        recorder = Recorder(home, source, destination)
        for name in names:
            print(name, flush=True)
            trace = recorder.record(name, SCENES[name])
            write(name, trace)
            print(f"  {len(trace['samples'])} samples, {trace['ended']}", flush=True)
    finally:
        destination.cleanUp()
        source.cleanUp()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
