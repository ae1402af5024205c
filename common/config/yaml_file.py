"""YAML files, read within bounds; whatever is wrong with one is told in a line, with the file and the line in it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # with aliases written out, of which a short file can make billions

# What the parser finds, and what to do about it.
REMEDIES = (
    (r"found character '\\t'", "indent by blanks, not by tabs"),
    (r"mapping values are not allowed", "put KEY: VALUE on a line of its own, or a text that holds ': ' in quotes"),
    (r"could not find expected ':'", "write KEY: VALUE, with a blank after the colon"),
    (r"expected ',' or", "close the bracket, and put commas between what is in it"),
    (r"quoted scalar", "close the quotes"),
    (r"undefined alias", "put a text that begins with * in quotes"),
    (r"could not determine a constructor", "a config holds plain values: leave the tag out"),
    (r"stands there already|cannot be read as|leave aliases out", ""),  # ours, which say so themselves
)
OTHERWISE = "expected KEY: VALUE, the keys of a section indented alike"
MERGE = "tag:yaml.org,2002:merge"  # of the key <<


class _Loader(yaml.SafeLoader):
    """Reads ``1e-4`` as a number, which is text to YAML 1.1, and says of which value it can make nothing."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # of a month 13, say
            told = f"{node.value!r:.60} cannot be read as {node.tag.rpartition(':')[2]}; put a text in quotes"
            raise ConstructorError(None, None, told, node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> tuple[Any, dict[str, int]]:
    """Read a YAML file of plain values.

    Returns:
        what it holds, None if that is nothing; and of each key of nested mappings, such as ``SOLVER.STEPS``, its line.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, or no text; it is too large, or would be with its aliases written out; a mapping has
            a key twice. The message has the file's name and the number of the line.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; expected a YAML file of at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: is no text in UTF-8; save it as that") from error
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
    """Write what the parser says on a line: where, what, and what to do."""
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    problem = " ".join(str(error.problem or error.context).split())
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, problem)), OTHERWISE)
    if begun and mark and error.context and begun.line != mark.line:
        problem += f", {' '.join(error.context.split())} that begins in line {begun.line + 1}"
    return f"{f', line {mark.line + 1}' if mark else ''}: {problem}{remedy and '; '}{remedy}"


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many values a node holds, aliases written out; 0 stands for one that is looked at just now.

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
        what = f"holds more than {MAX_NODES:,} values, aliases written out" if size else "an alias makes it hold itself"
        raise ConstructorError(None, None, f"{what}; leave aliases out", node.start_mark)
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        known: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in known:
                    told = f"{key.value} stands there already, in line {known[key.value]}; leave one of the two out"
                    raise ConstructorError(None, None, told, key.start_mark)
                known[key.value] = key.start_mark.line + 1
            yield key
            yield value


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{prefix}{key.value}.")
