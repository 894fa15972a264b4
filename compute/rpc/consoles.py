"""Handlers of the compute RPC methods by which Nova's proxies reach guests' screens and serial
consoles."""

from __future__ import annotations

import urllib.parse
from typing import Any

from compute.engine.world import World
from compute.errors import Refused
from compute.model import states, wire

NOVNC, SPICE, SERIAL = "novnc", "spice-html5", "serial"  # Nova's words
DRIVERS = {NOVNC: "vnc", SPICE: "spice", SERIAL: "serial"}
WORDS = {NOVNC: "screen", SPICE: "SPICE screen", SERIAL: "serial console"}
OPTIONS = {NOVNC: "[libvirt] vnc_listen", SPICE: "[spice] enabled",
           SERIAL: "[serial_console] enabled"}


class ConsoleHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    world: World

    def get_vnc_console(self, context, args) -> dict[str, Any]:
        """Where a guest's screen is, and a token for it; the proxy finds both by the token."""
        conf = self.world.conf
        told = self._authorized(context, args, NOVNC, conf.vnc.server_proxyclient_address,
                                conf.vnc.novncproxy_base_url)
        query = urllib.parse.urlencode({"path": f"?token={told['token']}"})
        return {**told, "access_url": f"{conf.vnc.novncproxy_base_url}?{query}"}

    def get_spice_console(self, context, args) -> dict[str, Any]:
        """The same for its screen over SPICE."""
        conf = self.world.conf.spice
        told = self._authorized(context, args, SPICE, conf.server_proxyclient_address,
                                conf.html5proxy_base_url)
        return {**told, "access_url": f"{conf.html5proxy_base_url}?token={told['token']}"}

    def get_serial_console(self, context, args) -> dict[str, Any]:
        """The same for its serial console."""
        conf = self.world.conf.serial_console
        told = self._authorized(context, args, SERIAL, conf.proxyclient_address, conf.base_url)
        return {**told, "access_url": f"{conf.base_url}?token={told['token']}"}

    def _authorized(self, context, args, offered: str, host: str, base: str) -> dict[str, Any]:
        """A token for a console. Raises Refused when there is none."""
        kind, guest = args["console_type"], wire.instance_of(args)["uuid"]
        if kind != offered:
            raise Refused(f"There is no console of type {kind!r}.", now="No token was given.",
                          next=f"The only one that is asked for so is {offered}.",
                          code="console_type_unknown")
        port = self._port(guest, offered)
        if port is None:
            raise Refused(
                f"The {WORDS[offered]} of guest {guest} is on no address that a proxy could reach.",
                now="No token was given.",
                next=f"Set {OPTIONS[offered]} on the host, and reboot the guest hard; or use its "
                     "serial console, 'magnetar console attach'.",
                code="console_unavailable")
        token = self.world.conductor.authorize_console(context, {
            "console_type": kind, "host": host, "port": port, "internal_access_path": None,
            "instance_uuid": guest, "access_url_base": base}, self.world.conf.consoleauth.token_ttl)
        return {"token": token, "host": host, "port": port, "internal_access_path": None}

    def validate_console_port(self, context, args) -> bool:
        """Whether a guest's console still is where a token says: asked by a proxy before it lets
        somebody in."""
        if args["console_type"] not in DRIVERS:
            return False
        try:
            port = self._port(wire.instance_of(args)["uuid"], args["console_type"])
        except Refused:
            return False
        return port is not None and str(port) == str(args["port"])

    def _port(self, guest: str, kind: str) -> int | None:
        """The port of a guest's console. Raises Refused when it does not run here."""
        found = self.world.driver.state(guest)
        if found is None or found.power_state not in (states.RUNNING, states.POWER_PAUSED):
            raise Refused(f"Guest {guest} does not run here, so it has no console.",
                          now="No token was given.", next="Start it first.",
                          code="console_not_ready")
        return self.world.driver.console_port(guest, DRIVERS[kind])
