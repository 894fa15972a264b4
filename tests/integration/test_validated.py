"""That the definitions of the other tests here are really held against libvirt's schema."""

from __future__ import annotations

import libvirt
import testtools

from compute.errors import MagnetarError
from tests.integration import test_libvirt_driver as driver_tests


class TestValidated(driver_tests.LibvirtCase):
    def test_the_drivers_own_are_valid_and_others_are_refused(self):
        driver = self.driver()
        guest, disk = self.guest()
        self.define(driver, guest, disk)
        self.assertEqual(1, self.validated.count)
        handle = driver.domains.required(guest.uuid)
        text = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        wrong = text.replace("<devices>", "<devices><misspelt/>")
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        with testtools.ExpectedException(libvirt.libvirtError, "(?s).*misspelt|.*XML document.*"):
            connection.defineXML(wrong)
        self.assertRaises(MagnetarError, driver.connection.ask, "define",
                          libvirt.virConnect.defineXML, wrong)
        self.assertEqual(3, self.validated.count)
        driver.undefine(guest.uuid)
