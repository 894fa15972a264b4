"""Declared properties on an lxml tree.

An :class:`Element` wraps one node and owns nothing else: reading a property reads the tree,
setting one edits it, and whatever the class does not declare stays as it was parsed. New children
are placed in the order in which the class declares them, so that output is stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

from lxml import etree

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)


class Kind:
    """How a value is written: ``to_text`` and ``from_text``."""

    def __init__(self, to_text: Callable[[Any], str], from_text: Callable[[str], Any]):
        self.to_text, self.from_text = to_text, from_text


def _switch(true: str, false: str) -> Kind:
    return Kind(lambda value: true if value else false, lambda text: text == true)


STR = Kind(str, str)
INT = Kind(lambda value: str(int(value)), int)
YES_NO = _switch("yes", "no")
ON_OFF = _switch("on", "off")


class Declared:
    """Something that an element class declares; ``path`` is the child that holds it, or ''."""

    path = ""
    owner = ""
    name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner.__name__, name


class Prop(Declared):
    """A value: ``Prop('memory')`` is a child's text, ``Prop('memory@unit')`` an attribute of it,
    ``Prop('@type')`` an attribute of the element, ``Prop('.')`` the element's own text.

    None means that it is absent; setting None removes it.
    """

    def __init__(self, spec: str, kind: Kind = STR):
        path, _, self.attribute = spec.partition("@")
        self.path = "" if path == "." else path
        self.kind = kind

    def __get__(self, element: Element | None, owner: type | None = None) -> Any:
        if element is None:
            return self
        node = element.find(self.path)
        if node is None:
            return None
        text = node.get(self.attribute) if self.attribute else node.text
        return None if text is None else self.kind.from_text(text.strip())

    def __set__(self, element: Element, value: Any) -> None:
        if value is None:
            self._remove(element)
            return
        node, text = element.ensure(self.path), self.kind.to_text(value)
        if self.attribute:
            node.set(self.attribute, text)
        else:
            node.text = text

    def _remove(self, element: Element) -> None:
        node = element.find(self.path)
        if node is None:
            return
        if self.attribute:
            node.attrib.pop(self.attribute, None)
        else:
            node.text = None
        if self.path and not node.attrib and not len(node) and not node.text:
            node.getparent().remove(node)


class Flag(Declared):
    """An empty child whose presence is the value, as ``<acpi/>``."""

    def __init__(self, path: str):
        self.path = path

    def __get__(self, element: Element | None, owner: type | None = None) -> Any:
        return self if element is None else element.find(self.path) is not None

    def __set__(self, element: Element, value: bool) -> None:
        node = element.find(self.path)
        if value:
            element.ensure(self.path)
        elif node is not None:
            node.getparent().remove(node)


class Child(Declared):
    """One child element with a class of its own; None when absent."""

    def __init__(self, cls: type[Element]):
        self.cls, self.path = cls, cls.tag

    def __get__(self, element: Element | None, owner: type | None = None) -> Any:
        if element is None:
            return self
        node = element.node.find(self.path)
        return None if node is None else self.cls(node)

    def __set__(self, element: Element, value: Element | None) -> None:
        for node in element.node.findall(self.path):
            element.node.remove(node)
        if value is not None:
            element.place(value.node)


class Children(Child):
    """Any number of child elements of one class, as a list; setting replaces them all."""

    def __get__(self, element: Element | None, owner: type | None = None) -> Any:
        if element is None:
            return self
        return [self.cls(node) for node in element.node.findall(self.path)]

    def __set__(self, element: Element, value: Iterable[Element]) -> None:  # type: ignore[override]
        for node in element.node.findall(self.path):
            element.node.remove(node)
        for child in value:
            element.place(child.node)


class Element:
    """One XML element. Subclasses set ``tag`` and declare properties, in output order."""

    tag: ClassVar[str] = ""
    nsmap: ClassVar[dict[str, str] | None] = None
    declared: ClassVar[dict[str, Declared]] = {}
    _rank: ClassVar[dict[str, int]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {k: v for k, v in vars(cls).items() if isinstance(v, Declared)}
        cls.declared = {**cls.declared, **own}
        ranks: dict[str, int] = {}
        for item in cls.declared.values():
            path = ""
            for tag in _tags(item.path):
                path += "/" + tag
                ranks.setdefault(path, len(ranks))
        cls._rank = ranks

    def __init__(self, node: etree._Element | None = None, /, **values: Any):
        self.node = etree.Element(self.tag, nsmap=self.nsmap) if node is None else node
        for name, value in values.items():
            if name not in self.declared:
                raise TypeError(f"{type(self).__name__} declares no property {name!r}")
            if value is not None:
                setattr(self, name, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Wrap a document. Raises ValueError if it is no XML or has another root."""
        try:
            node = etree.fromstring(text.encode(), _PARSER)
        except etree.XMLSyntaxError as error:
            raise ValueError(f"This is not XML: {error}") from error
        if node.tag != cls.tag:
            raise ValueError(f"The root element is <{node.tag}>, not <{cls.tag}>")
        return cls(node)

    def to_xml(self) -> str:
        """The document as indented text."""
        return etree.tostring(self.node, pretty_print=True, encoding="unicode")

    def find(self, path: str) -> etree._Element | None:
        """The node at ``path`` below this element (the element itself for '')."""
        return self.node.find(path) if path else self.node

    def ensure(self, path: str) -> etree._Element:
        """The node at ``path``, made with its parents where missing."""
        node, prefix = self.node, ""
        for tag in _tags(path):
            child = node.find(tag)
            if child is None:
                child = etree.Element(tag)
                self._insert(node, child, prefix)
            node, prefix = child, f"{prefix}/{tag}"
        return node

    def place(self, child: etree._Element) -> None:
        """Add a child where the class declares its kind."""
        self._insert(self.node, child, "")

    def add(self, child: Element) -> None:
        """Append to the list of children that is declared for the child's class."""
        if not any(type(d) is Children and d.cls is type(child) for d in self.declared.values()):
            raise TypeError(f"<{self.tag}> declares no list of {type(child).__name__}")
        self.place(child.node)

    def _insert(self, parent: etree._Element, child: etree._Element, prefix: str) -> None:
        rank = self._rank.get(f"{prefix}/{child.tag}", len(self._rank))
        for index, sibling in enumerate(parent):
            if self._rank.get(f"{prefix}/{sibling.tag}", -1) > rank:
                parent.insert(index, child)
                return
        parent.append(child)


def _tags(path: str) -> list[str]:
    """Split a path at its slashes, but not inside ``{namespace}``."""
    if not path:
        return []
    return [path] if path.startswith("{") else path.split("/")
