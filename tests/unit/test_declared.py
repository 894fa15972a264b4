"""What is declared is used and tested: RPC methods, options, error codes, rows of verdicts.

Each looks into the source, so that whoever declares something new is told here what is missing.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

import testtools

from compute import conf
from compute.errors import KINDS
from compute.operations import OPERATIONS
from compute.rpc.contract import METHODS
from compute.rpc.exceptions import FROM_NOVA, TO_NOVA
from tests.unit import test_recovery_decide, test_rpc_contract

TOP = pathlib.Path(__file__).resolve().parents[2]
PRODUCT = ("compute", "virt", "control", "db")
# Options that are read before oslo.config is there.
READ_BY_HAND = {"concurrency": "compute/concurrency.py"}


@functools.cache
def trees(*folders: str) -> tuple[tuple[pathlib.Path, ast.AST], ...]:
    """The syntax trees of all modules in these folders."""
    return tuple((path, ast.parse(path.read_text())) for folder in folders
                 for path in sorted((TOP / folder).rglob("*.py")))


def nodes(*folders: str, without: str = "") -> Iterator[ast.AST]:
    for path, tree in trees(*folders):
        if not without or without not in path.as_posix():
            yield from ast.walk(tree)


def names_read() -> set[str]:
    """Attributes that the product reads, and strings that it reads attributes by."""
    found = set()
    for node in nodes(*PRODUCT, without="compute/conf/"):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def strings(*folders: str, without: str = "") -> set[str]:
    return {node.value for node in nodes(*folders, without=without)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def codes() -> set[str]:
    """Every code that the product gives an error."""
    found = set()
    for node in nodes(*PRODUCT):
        if isinstance(node, ast.keyword) and node.arg == "code":
            found |= {n.value for n in ast.walk(node.value)
                      if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        elif isinstance(node, ast.FunctionDef):
            defaults = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found |= {d.value for a, d in defaults
                      if a.arg == "code" and isinstance(d, ast.Constant) and d.value}
    return found


def positional_strings() -> set[str]:
    """Strings that are given to calls by position, as helpers that build errors take codes."""
    return {n.value for node in nodes(*PRODUCT) if isinstance(node, ast.Call)
            for n in node.args if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@functools.cache
def words_of_tests() -> set[str]:
    """Words that a test's code names: of strings other than docstrings, keywords of calls (of
    ``group__option`` the last part), attributes."""
    found: set[str] = set()
    told = {id(node.value) for node in nodes("tests") if isinstance(node, ast.Expr)}
    for node in nodes("tests"):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            found.update(re.findall(r"\w+", node.value))
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg.rpartition("__")[2])
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


class OptionTest(testtools.TestCase):
    def test_every_option_is_named_by_a_test(self):
        """This proves only that somebody thought of the option: not that its value makes the
        difference that is tested, and a common word is found by accident. It fails for an option
        that was declared and forgotten."""
        named = words_of_tests()
        forgotten = [f"[{module.GROUP or 'DEFAULT'}] {option.name}" for module in conf.MODULES
                     for option in module.OPTS if option.dest not in named]
        self.assertEqual([], forgotten, "no test sets or names these options")

    def test_a_word_of_a_docstring_names_nothing(self):
        """As unheard_of_option is here."""
        self.assertNotIn("unheard_of" + "_option", words_of_tests())

    def test_every_option_is_read_somewhere(self):
        read, unread = names_read(), []
        for module in conf.MODULES:
            for option in module.OPTS:
                by_hand = READ_BY_HAND.get(option.name)
                if by_hand and f'"{option.name}"' in (TOP / by_hand).read_text():
                    continue
                if option.dest not in read:
                    unread.append(f"[{module.GROUP or 'DEFAULT'}] {option.name}")
        self.assertEqual([], unread, "no code reads these options")

    def test_every_option_says_what_it_is_for_and_has_one_name(self):
        for module in conf.MODULES:
            names = [option.name for option in module.OPTS]
            self.assertEqual(sorted(set(names)), sorted(names))
            for option in module.OPTS:
                self.assertGreater(len(option.help or ""), 20, option.name)

    def test_every_option_is_in_the_sample(self):
        sample = (TOP / "etc" / "magnetar" / "magnetar.conf.sample").read_text()
        missing = [o.name for m in conf.MODULES for o in m.OPTS
                   if f"\n#{o.name} =" not in sample and f"\n#{o.dest} =" not in sample]
        self.assertEqual([], missing, "run 'tox -e genconfig'")


class MethodTest(testtools.TestCase):
    def test_every_method_that_is_carried_out_is_called_by_a_functional_test(self):
        called = strings("tests/functional")
        self.assertEqual([], sorted(test_rpc_contract.CARRIED_OUT - called))

    def test_every_other_method_is_a_cast_or_a_call_that_the_table_test_makes(self):
        for name in set(METHODS) - test_rpc_contract.CARRIED_OUT:
            self.assertIn(METHODS[name].kind, ("cast", "call"), name)
            if METHODS[name].kind == "cast":
                self.assertIn("instance", METHODS[name].args, f"{name} could clear no task")


class ErrorTest(testtools.TestCase):
    def test_every_code_that_is_translated_is_given_by_something(self):
        passed_on = {code for _, code in FROM_NOVA.values()}
        given = codes() | positional_strings() | passed_on
        self.assertEqual([], sorted(set(TO_NOVA) - given))

    def test_every_translation_is_in_the_tables_of_the_test(self):
        self.assertEqual(set(test_rpc_contract.EXPECTED_TO_NOVA), set(TO_NOVA))
        self.assertEqual(set(test_rpc_contract.EXPECTED_FROM_NOVA), set(FROM_NOVA))

    def test_every_kind_is_raised_in_a_test(self):
        raised = {node.func.id for node in nodes("tests")
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        self.assertEqual([], sorted({cls.__name__ for cls in KINDS.values()} - raised))


class VerdictTest(testtools.TestCase):
    def test_every_row_is_in_the_table_of_the_test(self):
        self.assertEqual(test_recovery_decide.declared_rows(), set(test_recovery_decide.ROWS))

    def test_rows_are_found(self):
        self.assertGreater(len(test_recovery_decide.declared_rows()), 15)


class OperationTest(testtools.TestCase):
    def test_steps_have_names_of_their_own_and_an_end(self):
        for operation in OPERATIONS.values():
            for steps in (operation.steps, operation.conclusion):
                names = [step.name for step in steps]
                self.assertEqual(len(set(names)), len(names), operation.verb)
                self.assertNotIn("", names)
            if operation.final:
                self.assertIn(operation.final, [step.name for step in operation.steps])

    def test_every_verb_is_described_for_operators(self):
        described = {path.stem for path in (TOP / "docs" / "operations").glob("*")}
        self.assertEqual([], sorted(set(OPERATIONS) - described - {"unsupported"}))
