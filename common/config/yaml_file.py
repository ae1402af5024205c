"""Reading of YAML files within size limits; every error is one line with the file name and the line number."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # with aliases expanded, which can turn a short file into billions of nodes

# Patterns in the parser's messages -> what to do.
REMEDIES = (
    (r"found character '\\t'", "indent with spaces, not with tabs"),
    (r"mapping values are not allowed", "put KEY: VALUE on a separate line, or quote text that contains ': '"),
    (r"could not find expected ':'", "write KEY: VALUE, with a space after the colon"),
    (r"expected ',' or", "close the bracket, and separate its items with commas"),
    (r"quoted scalar", "close the quotes"),
    (r"undefined alias", "quote text that begins with *"),
    (r"could not determine a constructor", "a config contains only plain values; remove the tag"),
    (r"is already set|cannot be read as|remove aliases", ""),  # our own messages, which state what to do
)
OTHERWISE = "expected KEY: VALUE, with equal indentation for the keys in a section"
PARENTHESES = "inside braces, YAML ends a value at a comma, so use brackets, [ and ], instead of ( and )"
MERGE = "tag:yaml.org,2002:merge"  # tag of the key <<


class _Loader(yaml.SafeLoader):
    """Loader that reads ``1e-4``, which is text in YAML 1.1, as a number, and reports values that it cannot read."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # for example, a month 13
            told = f"{node.value!r:.60} cannot be read as {node.tag.rpartition(':')[2]}; put text in quotes"
            raise ConstructorError(None, None, told, node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> tuple[Any, dict[str, int]]:
    """Read a YAML file of plain values.

    Returns:
        the content, or None if the file is empty; and the line number of each key in nested mappings, such as
        ``SOLVER.STEPS``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not YAML or not text, is too large, possibly only after aliases are expanded, or sets a
            key twice in a mapping. The message contains the file name and the line number.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; expected a YAML file of at most {MAX_BYTES:,} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: invalid UTF-8 text; save the file as UTF-8") from error
    try:
        loader = _Loader(text)
        try:
            if (node := loader.get_single_node()) is None:
                return None, {}
            _check(node, {})
            return loader.construct_document(node), dict(_lines(node))
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        told = f"the character #x{error.character:04x} is not allowed in YAML; remove it"
        raise ValueError(f"{path}, line {line}: {told}") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{path}{_told(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: brackets or sections are nested too deeply; reduce the nesting") from error


def _told(error: yaml.MarkedYAMLError) -> str:
    """Format a parser error as one line: where it occurred, what it is, and what to do."""
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    problem = " ".join(str(error.problem or error.context).split())
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, problem)), OTHERWISE)
    if begun and mark and error.context and begun.line != mark.line:
        problem += f", {' '.join(error.context.split())} that begins on line {begun.line + 1}"
    return f"{f', line {mark.line + 1}' if mark else ''}: {problem}{remedy and '; '}{remedy}"


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values in a node, with aliases expanded; 0 marks a node that is still being counted.

    Raises:
        ConstructorError: the node contains too many values, itself, or a repeated key.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
    else:
        sizes[id(node)] = 0
        size = 1 + sum(_check(child, sizes) for child in _children(node))
        sizes[id(node)] = size
    if not 0 < size <= MAX_NODES:
        what = (
            f"contains more than {MAX_NODES:,} values with aliases expanded"
            if size
            else "contains itself through an alias"
        )
        raise ConstructorError(None, None, f"{what}; remove aliases", node.start_mark)
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        known: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in known:
                    told = f"{key.value} is already set on line {known[key.value]}; remove one of the two"
                    if key.value == ")":  # what is left of the second tuple in {A: (1,), B: (2,)}
                        told = PARENTHESES
                    raise ConstructorError(None, None, told, key.start_mark)
                known[key.value] = key.start_mark.line + 1
            yield key
            yield value


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{prefix}{key.value}.")
