"""Options, the generated sample, and the other files of etc/."""

import configparser
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import testtools
from oslo_config import cfg
from oslo_messaging._drivers import impl_rabbit
from oslo_messaging.rpc import client as rpc_client
from testtools import matchers

from compute import conf as configuration
from virt.libvirt.call import MAX_GIVEN_UP

TOP = pathlib.Path(__file__).resolve().parents[2]
ETC = TOP / "etc"
GENERATOR = "etc/magnetar/config-generator.conf"
SAMPLE = ETC / "magnetar/magnetar.conf.sample"
REGENERATE = f"oslo-config-generator --config-file {GENERATOR}"
SOURCES = ("compute", "virt", "control", "db")
# A unit, or a word that says that there is none to give.
UNIT = re.compile(
    r"\b(seconds?|minutes?|days?|[MG]iB|packets|ports|threads?|queues?|hosts?|servers?|"
    r"operations|calls|questions|vCPUs|CPUs|version|weight|strongly|how (much|many))\b", re.I)


def options():
    """(group, option) of every option of ours."""
    return [(group, opt) for group, opts in configuration.list_opts() for opt in opts]


def load(*files):
    """A configuration of our options, from files."""
    conf = cfg.ConfigOpts()
    configuration.register(conf)
    conf([arg for file in files for arg in ("--config-file", str(file))], project="magnetar",
         default_config_files=[])
    return conf


def value(conf, group, opt):
    return conf[group][opt.dest] if group else conf[opt.dest]


class SampleTest(testtools.TestCase):
    def generate(self):
        with tempfile.TemporaryDirectory() as scratch:
            made = pathlib.Path(scratch) / "sample"
            subprocess.run(
                [pathlib.Path(sys.executable).parent / "oslo-config-generator",
                 "--config-file", GENERATOR, "--output-file", str(made)],
                cwd=TOP, check=True, capture_output=True)
            return made.read_text()

    def test_is_up_to_date(self):
        self.assertEqual(
            SAMPLE.read_text().splitlines(), self.generate().splitlines(),
            f"An option changed and the sample did not. Run: {REGENERATE}")

    def test_tells_nothing_of_the_machine_that_made_it(self):
        text = SAMPLE.read_text()
        for word in (str(TOP), str(pathlib.Path.home()) + "/", socket.gethostname()):
            self.assertNotRegex(text, rf"(?<![\w-]){re.escape(word)}(?![\w-])")

    def test_every_default_can_be_written_as_it_stands(self):
        lines = [re.sub(r"^#(\w+ = )", r"\1", line) for line in SAMPLE.read_text().splitlines()
                 if not line.endswith("= <None>")]
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("\n".join(lines))
            file.flush()
            written, untouched = load(file.name), load()
        for group, opt in options():
            if opt.dest != "host":
                self.assertEqual(value(untouched, group, opt), value(written, group, opt),
                                 f"[{group or 'DEFAULT'}] {opt.name}")


class OptionsTest(testtools.TestCase):
    def test_each_is_explained(self):
        for group, opt in options():
            name = f"[{group or 'DEFAULT'}] {opt.name}"
            self.assertThat(len(opt.help or ""), matchers.GreaterThan(40), name)
            self.assertTrue(opt.help.endswith("."), name)

    def test_each_number_has_a_unit(self):
        for group, opt in options():
            if isinstance(opt, cfg.IntOpt | cfg.FloatOpt):
                self.assertRegex(opt.help, UNIT, f"[{group or 'DEFAULT'}] {opt.name}")
            if group == "timeouts" or opt.name.endswith(("_interval", "_timeout", "_seconds")):
                self.assertTrue(opt.help.startswith("Seconds"), f"{opt.name}: {opt.help}")

    def test_each_is_read_by_something(self):
        text = "\n".join(
            path.read_text() for top in SOURCES for path in (TOP / top).rglob("*.py")
            if "compute/conf" not in str(path))
        for group, opt in options():
            self.assertRegex(text, rf"(\.|['\"]){opt.dest}\b",
                             f"Nothing reads [{group or 'DEFAULT'}] {opt.name}; remove it.")

    def test_registering_twice_is_harmless(self):
        conf = cfg.ConfigOpts()
        configuration.register(conf)
        configuration.register(conf)
        conf([])
        self.assertEqual("eventlet", conf.concurrency)

    def test_limits_are_enforced(self):
        for group, line in (("timeouts", "build = 1"), ("libvirt", "num_pcie_ports = 29"),
                            ("disk", "images_type = zfs"), ("DEFAULT", "concurrency = fork")):
            with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
                file.write(f"[{group}]\n{line}\n")
                file.flush()
                name = line.split()[0]
                self.assertRaisesRegex(
                    (cfg.ConfigFileValueError, ValueError), "",
                    lambda path=file.name, g=group, n=name: value(
                        load(path), None if g == "DEFAULT" else g, _named(g, n)))


def _named(group, name):
    return next(opt for g, opt in options() if (g or "DEFAULT") == group and opt.name == name)


class UnitsTest(testtools.TestCase):
    """The systemd units fit the options that they depend on."""

    def units(self):
        for path in sorted((ETC / "systemd").glob("*.service")):
            unit = configparser.RawConfigParser(strict=False)
            unit.optionxform = str
            unit.read_string(path.read_text())
            yield path.name, unit

    def test_they_differ_only_in_what_they_run(self):
        (_, first), (_, second) = self.units()
        differ = {(section, key) for section in first.sections() for key in first[section]
                  if first[section][key] != second.get(section, key, fallback=None)}
        self.assertEqual({("Unit", "Description"), ("Unit", "Conflicts"),
                          ("Service", "ExecStart")}, differ)

    def test_they_leave_time_to_rest_and_spare_guests(self):
        conf = load()
        for name, unit in self.units():
            service = unit["Service"]
            self.assertGreater(int(service["TimeoutStopSec"]), conf.timeouts.stop, name)
            self.assertIn(service["KillMode"], ("mixed", "process"), name)

    def test_the_state_can_be_written(self):
        conf = load()
        for name, unit in self.units():
            self.assertIn(conf.state_path, unit["Service"]["ReadWritePaths"].split(), name)
            self.assertEqual("/var/lib/" + unit["Service"]["StateDirectory"], conf.state_path)

    def test_the_commands_exist(self):
        setup = configparser.RawConfigParser()
        setup.read(TOP / "setup.cfg")
        commands = re.findall(r"^(\S+) =", setup["options.entry_points"]["console_scripts"], re.M)
        for name, unit in self.units():
            self.assertIn(unit["Service"]["ExecStart"].split()[0].rsplit("/", 1)[1], commands, name)


class SnippetsTest(testtools.TestCase):
    """Other programs' options that we recommend exist there and fit ours."""

    def test_rabbitmq(self):
        conf = cfg.ConfigOpts()
        conf.register_opts(impl_rabbit.rabbit_opts, "oslo_messaging_rabbit")
        conf.register_opts(rpc_client._client_opts)
        path = ETC / "magnetar/rabbitmq.conf.snippet"
        conf(["--config-file", str(path)], default_config_files=[])
        names = {opt.name for opt in impl_rabbit.rabbit_opts}
        parser = configparser.RawConfigParser(default_section="")
        parser.read(path)
        for name in parser["oslo_messaging_rabbit"]:
            self.assertIn(name, names)
            self.assertIsNotNone(conf.oslo_messaging_rabbit[name])
        rabbit = conf.oslo_messaging_rabbit
        self.assertTrue(rabbit.rabbit_quorum_queue)
        # What the driver itself demands of named reply queues, and of streams.
        self.assertTrue(parser["oslo_concurrency"]["lock_path"].startswith(
            load().state_path + "/"))
        self.assertTrue(rabbit.rabbit_transient_quorum_queue)
        self.assertGreater(rabbit.rabbit_qos_prefetch_count, 0)

    def libvirt(self, name):
        parser = configparser.RawConfigParser()
        parser.read_string("[x]\n" + (ETC / "libvirt" / name).read_text())
        return parser["x"]

    def test_libvirtd_takes_more_calls_than_the_agent_makes(self):
        calls = load().libvirt.call_workers
        daemon = self.libvirt("libvirtd.conf.snippet")
        self.assertGreater(int(daemon["max_client_requests"]), calls + MAX_GIVEN_UP)
        self.assertGreaterEqual(int(daemon["max_workers"]), int(daemon["max_client_requests"]))

    def test_consoles_are_limited(self):
        self.assertGreater(int(self.libvirt("virtlogd.conf.snippet")["max_size"]), 0)
        self.assertEqual('"logd"', self.libvirt("qemu.conf.snippet")["stdio_handler"])

    def test_the_lock_manager_is_on(self):
        self.assertEqual('"lockd"', self.libvirt("qemu.conf.snippet")["lock_manager"])
        self.assertEqual("1", self.libvirt("qemu-lockd.conf.snippet")["auto_disk_leases"])

    def test_every_file_is_in_the_readme(self):
        told = (ETC / "README.md").read_text()
        for path in ETC.rglob("*"):
            if path.is_file() and path.name != "README.md":
                self.assertIn(str(path.relative_to(ETC)), told)
