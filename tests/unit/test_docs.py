"""The documentation says what the code does: steps, verdicts, links, commands and imports."""

import ast
import configparser
import pathlib
import re
import shlex
import tomllib

import testtools

from compute.engine.operation import OVERTAKEN
from compute.engine.step import Step
from compute.operations import OPERATIONS
from compute.operations.spawn import HOPELESS, NOT_OURS
from compute.recovery.decide import Act
from control.cli.app import COMMANDS

TOP = pathlib.Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"
RECOVERY = DOCS / "recovery.md"
FINAL = "**point of no return**"


def pages():
    """Every page that people read."""
    return [TOP / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((TOP / "etc").rglob("*.md"))]


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def tables(text):
    """The tables of a page: lists of rows, each a list of cells, the heading row first."""
    found, current = [], []
    for line in [*prose(text).splitlines(), ""]:
        if line.startswith("|"):
            current.append([cell.strip() for cell in line.strip("| ").split("|")])
        elif current:
            found.append([current[0], *current[2:]])
            current = []
    return found


def table(page, *heading):
    """The one table of a page whose heading begins with these cells, without the heading."""
    found = [t for t in tables(page.read_text()) if t[0][: len(heading)] == list(heading)]
    if len(found) != 1:
        raise AssertionError(f"{page.name} has {len(found)} tables with {heading}, wanted is one.")
    return found[0][1:]


def first_name(cell):
    """The word in backticks that a cell begins with."""
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else ""


def overrides(step, part):
    return getattr(type(step), part) is not getattr(Step, part)


class OperationsTest(testtools.TestCase):
    """docs/operations/<verb>.md against compute/operations/<verb>.py."""

    def each(self):
        for verb, operation in OPERATIONS.items():
            yield verb, operation, DOCS / "operations" / f"{verb}.md"

    def steps(self, page):
        return [row + [""] * (5 - len(row)) for row in
                table(page, "step", "effect", "probe", "undo")]

    def test_every_verb_has_its_page_and_no_page_is_left_over(self):
        names = {page.stem for page in (DOCS / "operations").glob("*.md")} - {"README"}
        self.assertEqual(set(OPERATIONS), names)

    def test_the_index_names_every_verb_and_its_point_of_no_return(self):
        rows = table(DOCS / "operations" / "README.md", "verb")
        self.assertEqual([f"[{verb}]({verb}.md)" for verb in OPERATIONS], [r[0] for r in rows])
        for row, operation in zip(rows, OPERATIONS.values(), strict=True):
            self.assertIn(f"`{operation.final}`" if operation.final else "none", row[2])

    def test_steps_are_told_in_their_order(self):
        for verb, operation, page in self.each():
            self.assertEqual([step.name for step in operation.steps],
                             [first_name(row[0]) for row in self.steps(page)],
                             f"docs/operations/{verb}.md does not list the steps of {verb}.")

    def test_the_point_of_no_return_is_where_the_code_has_it(self):
        for verb, operation, page in self.each():
            marked = [first_name(row[0]) for row in self.steps(page) if FINAL in row[0]]
            self.assertEqual([operation.final] if operation.final else [], marked, verb)

    def test_a_probe_is_told_where_there_is_one(self):
        for verb, operation, page in self.each():
            for step, row in zip(operation.steps, self.steps(page), strict=True):
                self.assertEqual(overrides(step, "probe"), row[2] != "—", f"{verb}.{step}: {row}")

    def test_an_undo_is_told_where_there_is_one(self):
        for verb, operation, page in self.each():
            undoable = operation.undoable()
            for step, row in zip(operation.steps, self.steps(page), strict=True):
                told = row[3] and not row[3].startswith("—")
                if step not in undoable:
                    self.assertEqual("", row[3], f"{verb}.{step} is never undone: {row}")
                elif getattr(step, "keep", False):
                    self.assertFalse(told, f"{verb}.{step}: {row}")
                else:
                    self.assertEqual(overrides(step, "undo"), bool(told), f"{verb}.{step}: {row}")

    def test_the_conclusion_is_told_in_its_order(self):
        for verb, operation, page in self.each():
            wanted = [step.name for step in operation.conclusion]
            if not wanted:
                continue
            told = [re.findall(r"`(\w+)`", row[2]) for row in table(page, "code", "told")]
            self.assertIn(wanted, told, f"{verb}: no code has the whole conclusion.")
            for names in told:
                self.assertEqual([name for name in wanted if name in names], names, verb)

    def test_error_codes_with_an_end_of_their_own_are_told(self):
        def codes(verb):
            rows = table(DOCS / "operations" / f"{verb}.md", "code", "told")
            return [set(re.findall(r"`(\w+)`", row[0])) for row in rows]

        self.assertIn(set(HOPELESS), codes("spawn"))
        self.assertIn(set(NOT_OURS), codes("spawn"))
        for verb in ("start", "stop", "reboot"):
            self.assertIn(set(OVERTAKEN), codes(verb), verb)

    def test_events_are_told(self):
        for verb, operation, page in self.each():
            if any(step.name == "event" for step in operation.steps) and verb != "unsupported":
                self.assertIn(f"`{operation.event}`", page.read_text(), verb)


class RecoveryTest(testtools.TestCase):
    """docs/recovery.md against compute/recovery/decide.py."""

    def verdicts(self, functions):
        """{row: act} of every Verdict(Act.X, "row", …) in some functions of decide.py."""
        tree = ast.parse((TOP / "compute/recovery/decide.py").read_text())
        found = {}
        for function in tree.body:
            if not isinstance(function, ast.FunctionDef) or not functions(function.name):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Verdict":
                    act, row = call.args[:2]
                    found[row.value] = Act[act.attr].value
        return found

    def told(self, number):
        found = [t for t in tables(RECOVERY.read_text()) if t[0][:2] == ["row", "facts"]]
        return {first_name(row[0]): row[2] for row in found[number][1:]}

    def test_rows_about_operations(self):
        wanted = self.verdicts(lambda name: name in ("of_operation", "_blind"))
        self.assertEqual(wanted, self.told(0))

    def test_rows_about_guests(self):
        wanted = self.verdicts(lambda name: name != "of_operation")
        self.assertEqual(wanted, self.told(1))

    def test_every_verdict_is_explained(self):
        rows = table(RECOVERY, "verdict", "done")
        self.assertEqual({act.value for act in Act}, {row[0] for row in rows})


    def test_the_tests_of_partial_failures_exist(self):
        rows = table(RECOVERY, "row", "when")
        known = {node.name for path in (TOP / "tests").rglob("test_*.py")
                 for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.FunctionDef)}
        numbers = [int(row[0]) for row in rows]
        self.assertEqual(sorted(set(numbers)), numbers)
        for row in rows:
            named = re.findall(r"`(test_\w+)`", row[-1])
            self.assertTrue(named, f"row {row[0]} names no test")
            self.assertEqual(set(), set(named) - known, f"row {row[0]}")


class LinksTest(testtools.TestCase):
    def test_links_lead_somewhere(self):
        for page in pages():
            for target in re.findall(r"\]\(([^)]+)\)", prose(page.read_text())):
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                path = (page.parent / name).resolve() if name else page
                self.assertTrue(path.exists(), f"{page.relative_to(TOP)} links to {target}")
                if anchor and path.suffix == ".md":
                    self.assertIn(anchor, anchors(path), f"{page.relative_to(TOP)}: {target}")

    def test_files_of_the_project_that_are_named_exist(self):
        for page in pages():
            for name in re.findall(r"`((?:compute|virt|db|control|tools|docs|etc)/[\w./-]+)`",
                                   page.read_text()):
                self.assertTrue((TOP / name).exists(), f"{page.relative_to(TOP)} names {name}")


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text()), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


class CommandsTest(testtools.TestCase):
    """Every command that a page tells people to run exists."""

    def commands(self, text):
        """The words after each "magnetar" that stands where a command does."""
        lines = re.findall(r"`((?:tools/)?magnetar [^`\n]+)`", text)
        for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S):
            lines += [line.strip() for line in block.splitlines()
                      if re.match(r"\s*(?:tools/)?magnetar [a-z]", line)]
        return [shlex.split(line, comments=True)[1:] for line in lines]

    def test_they_exist(self):
        seen = 0
        for page in pages():
            for words in self.commands(page.read_text()):
                names = {" ".join(words[:count]) for count in (1, 2, 3, 4)}
                self.assertTrue(
                    names & set(COMMANDS),
                    f"{page.relative_to(TOP)}: there is no command {' '.join(words[:4])}")
                seen += 1
        self.assertGreater(seen, 15)

    def test_programs_in_tools_exist(self):
        for page in pages():
            for name in re.findall(r"\btools/([\w-]+)", page.read_text()):
                self.assertTrue((TOP / "tools" / name).exists(),
                                f"{page.relative_to(TOP)} names tools/{name}")

    def test_installed_programs_exist(self):
        setup = configparser.RawConfigParser()
        setup.read(TOP / "setup.cfg")
        scripts = setup["options.entry_points"]["console_scripts"]
        for page in pages():
            for name in re.findall(r"`(magnetar-[a-z-]+) ", page.read_text()):
                self.assertIn(f"{name} =", scripts, page.relative_to(TOP))


class ImportsTest(testtools.TestCase):
    """The direction of imports: every package is in it, and the architecture tells the same."""

    def layers(self):
        settings = tomllib.loads((TOP / "pyproject.toml").read_text())
        contracts = settings["tool"]["importlinter"]["contracts"]
        (layers,) = [c["layers"] for c in contracts if c["type"] == "layers"]
        return [re.split(r" [:|] ", layer) for layer in layers]

    def test_every_package_has_its_place(self):
        placed = {name for layer in self.layers() for name in layer}
        for top in ("compute", "control", "db", "virt"):
            children = [path for path in (TOP / top).iterdir()
                        if path.suffix == ".py" or (path / "__init__.py").exists()]
            for path in children:
                name = f"{top}.{path.stem}"
                if path.stem != "__init__" and top not in placed:
                    self.assertTrue(any(p == name or p.startswith(name + ".") for p in placed),
                                    f"{name} is in no layer of [tool.importlinter].")

    def test_the_architecture_tells_the_same_order(self):
        order = {name: level for level, layer in enumerate(self.layers()) for name in layer}
        text = (DOCS / "architecture.md").read_text().split("## Directions of imports")[1]
        sentence = text.split("\n## ")[0].split(". Checked by")[0]
        told = [[order[name] for name in re.findall(r"`([\w.]+)`", part)]
                for part in sentence.split("→")]
        self.assertGreater(len(told), 5)
        for above, below in zip(told, told[1:], strict=False):
            self.assertLess(max(above), min(below), sentence)

    def test_tests_and_tools_do_not_use_eventlet_themselves(self):
        for top in ("tests", "tools"):
            for path in (TOP / top).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_text())):
                    names = [alias.name for alias in node.names] \
                        if isinstance(node, ast.Import) else \
                        [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                    self.assertNotIn("eventlet", {name.split(".")[0] for name in names}, path)
