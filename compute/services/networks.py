"""Adapters of the network port: nobody, or the embedded control plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from compute.errors import Failed, from_dict
from compute.model.guest import NetworkRequest, Nic


class NoNetworks:
    """For a cloud without a network service: guests have no NICs."""

    def allocate(self, context: Mapping[str, Any], guest: str,
                 requests: tuple[NetworkRequest, ...]) -> tuple[Nic, ...]:
        """No NICs. Raises Failed(code='network_missing') when one was asked for."""
        wanted = [r for r in requests if r.port_id or r.network_id not in (None, "none", "auto")]
        if wanted:
            raise Failed(
                f"Guest {guest} asks for network {wanted[0].network_id or wanted[0].port_id}, and "
                "this host has no network service.",
                next="Set [DEFAULT] network_service on the host, or create the guest with no "
                     "network.", code="network_missing")
        return ()

    def attach(self, context: Mapping[str, Any], guest: str, port: str,
               request: NetworkRequest) -> Nic:
        """Raises Failed(code='network_missing')."""
        self.allocate(context, guest, (request,))
        raise Failed(f"Guest {guest} cannot get a port by itself.", code="network_missing")

    def detach(self, context: Mapping[str, Any], guest: str, port: str) -> None:
        """Nothing to give back."""

    def deallocate(self, context: Mapping[str, Any], guest: str) -> None:
        """Nothing to give back."""

    def bind(self, context: Mapping[str, Any], guest: str, host: str) -> tuple[Nic, ...]:
        """No NICs go along."""
        return ()


class _Caller(Protocol):
    def magnetar(self, context: Mapping[str, Any], method: str, **args: Any) -> Any: ...


class EmbeddedNetworks:
    """Asks the embedded control plane, which keeps networks, ports and addresses."""

    def __init__(self, conductor: _Caller, host: str):
        self.conductor, self.host = conductor, host

    def allocate(self, context: Mapping[str, Any], guest: str,
                 requests: tuple[NetworkRequest, ...]) -> tuple[Nic, ...]:
        """Ports for a guest; asked again it gives the same."""
        wanted = [asdict(r) for r in requests if r.network_id != "none"]
        if not wanted:
            return ()
        found = self.conductor.magnetar(context, "network_allocate", instance_uuid=guest,
                                        requests=wanted, host=self.host)
        return tuple(Nic.from_plain(plain) for plain in found)

    def attach(self, context: Mapping[str, Any], guest: str, port: str,
               request: NetworkRequest) -> Nic:
        """One more port for a guest, of this id; asked again it gives the same."""
        found = self.conductor.magnetar(
            context, "network_attach", instance_uuid=guest, port=port, request=asdict(request),
            host=self.host)
        if "error" in found:
            raise from_dict(found["error"])
        return Nic.from_plain(found["nic"])

    def detach(self, context: Mapping[str, Any], guest: str, port: str) -> None:
        """Give one port of a guest back. Quiet if it is gone."""
        self.conductor.magnetar(context, "network_detach", instance_uuid=guest, port=port)

    def deallocate(self, context: Mapping[str, Any], guest: str) -> None:
        """Give the guest's ports back. Quiet if there are none."""
        self.conductor.magnetar(context, "network_deallocate", instance_uuid=guest)

    def bind(self, context: Mapping[str, Any], guest: str, host: str) -> tuple[Nic, ...]:
        """The guest's ports on a host that it moves to, with the networks as that host has them."""
        found = self.conductor.magnetar(context, "network_bind", instance_uuid=guest, host=host)
        return tuple(Nic.from_plain(plain) for plain in found)
