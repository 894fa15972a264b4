"""Which kind of domain guests become: what the operator chose, or what was proven."""

from __future__ import annotations

import threading

from oslo_log import log

from virt.libvirt import kvmprobe
from virt.libvirt.caps import HostCaps

LOG = log.getLogger(__name__)


class VirtType:
    """``kvm`` or ``qemu``, decided once; whoever cannot do without it waits for the proof."""

    def __init__(self, chosen: str, state_path: str):
        self._state_path = state_path
        self._lock = threading.Lock()
        self._decided = threading.Event()
        self._found = ""
        if chosen != "auto":
            self._decide(chosen)

    def get(self, caps: HostCaps) -> str:
        """The type in force; takes up to four seconds on the first call after a host's boot."""
        with self._lock:
            if not self._decided.is_set():
                self._decide(self._prove(caps))
        return self._found

    def known(self, wait: float = 0.0) -> str | None:
        """The type if it is decided within ``wait`` seconds; starts nothing."""
        return self._found if self._decided.wait(wait) else None

    def _decide(self, found: str) -> None:
        self._found = found
        self._decided.set()

    def _prove(self, caps: HostCaps) -> str:
        support = caps.native()
        if "kvm" not in support.types:
            return self._fall_back("libvirt offers no KVM here")
        verdict = kvmprobe.prove(support.emulator, self._state_path)
        if not verdict.works:
            return self._fall_back(verdict.why)
        LOG.info("virt_type is kvm: %s.", verdict.why)
        return "kvm"

    def _fall_back(self, why: str) -> str:
        LOG.warning(
            "virt_type is qemu: %s. Guests are emulated, which is slow. Once KVM works, restart "
            "the agent; to be sure of it, set [libvirt] virt_type = kvm.", why,
        )  # fmt: skip
        return "qemu"
