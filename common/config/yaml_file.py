"""YAML files, read within limits; every error is one line, with the file and the line number."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # with aliases expanded, by which a short file can make billions

# The parser's messages, and what to do about each.
REMEDIES = (
    (r"found character '\\t'", "indent with blanks, not with tabs"),
    (r"mapping values are not allowed", "put KEY: VALUE on a separate line, or quote a text that contains ': '"),
    (r"could not find expected ':'", "write KEY: VALUE, with a blank after the colon"),
    (r"expected ',' or", "close the bracket, and separate its items by commas"),
    (r"quoted scalar", "close the quotes"),
    (r"undefined alias", "quote a text that begins with *"),
    (r"could not determine a constructor", "a config holds plain values: leave the tag out"),
    (r"is set already|cannot be read as|leave out aliases", ""),  # our own messages, which say what to do
)
OTHERWISE = "expected KEY: VALUE, the keys of a section indented alike"
MERGE = "tag:yaml.org,2002:merge"  # of the key <<


class _Loader(yaml.SafeLoader):
    """Reads ``1e-4``, which is text in YAML 1.1, as a number, and names a value that it cannot read."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # a month 13, for example
            told = f"{node.value!r:.60} cannot be read as {node.tag.rpartition(':')[2]}; put a text in quotes"
            raise ConstructorError(None, None, told, node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> tuple[Any, dict[str, int]]:
    """Read a YAML file of plain values.

    Returns:
        the content, None if empty; and the line of each key of nested mappings, such as ``SOLVER.STEPS``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML, or not text; it is too large, perhaps only with its aliases expanded; a mapping has
            a key twice. The message has the name of the file and the number of the line.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; expected a YAML file of at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: is not text in UTF-8; save it as UTF-8") from error
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
        raise ValueError(f"{path}: its brackets or sections are nested too deeply to be read") from error


def _told(error: yaml.MarkedYAMLError) -> str:
    """Format an error of the parser in one line: where, what, and what to do."""
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    problem = " ".join(str(error.problem or error.context).split())
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, problem)), OTHERWISE)
    if begun and mark and error.context and begun.line != mark.line:
        problem += f", {' '.join(error.context.split())} that begins on line {begun.line + 1}"
    return f"{f', line {mark.line + 1}' if mark else ''}: {problem}{remedy and '; '}{remedy}"


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many values a node holds, with aliases expanded; 0 marks a node that is being counted.

    Raises:
        ConstructorError: it holds too many, or itself, or a key twice.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
    else:
        sizes[id(node)] = 0
        size = 1 + sum(_check(child, sizes) for child in _children(node))
        sizes[id(node)] = size
    if not 0 < size <= MAX_NODES:
        what = f"holds more than {MAX_NODES:,} values with aliases expanded" if size else "contains itself by an alias"
        raise ConstructorError(None, None, f"{what}; leave out aliases", node.start_mark)
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        known: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in known:
                    told = f"{key.value} is set already, on line {known[key.value]}; leave out one of the two"
                    raise ConstructorError(None, None, told, key.start_mark)
                known[key.value] = key.start_mark.line + 1
            yield key
            yield value


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{prefix}{key.value}.")
