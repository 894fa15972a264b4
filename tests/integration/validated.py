"""What the driver defines has to be valid by libvirt's own schema, domain.rng.

libvirt only says so when it is asked to, and then takes 10 to 20 ms more for each definition, so
that the tests ask and the product does not.
"""

from __future__ import annotations

import fixtures
import libvirt


class Validated(fixtures.Fixture):
    """Each definition that this process makes is validated; ``count`` tells of how many."""

    def _setUp(self) -> None:
        self.count = 0

        def define(connection: libvirt.virConnect, xml: str) -> libvirt.virDomain:
            self.count += 1
            return connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

        self.useFixture(fixtures.MonkeyPatch("libvirt.virConnect.defineXML", define))
