"""Reader for a Pascal VOC XML file (host.robots.ox.ac.uk/pascal/VOC, "Development kit"): the objects in one image.

The reader tolerates elements that other tools omit (``pose``, ``truncated``, ``difficult``, ``size``), and accepts
deviations from VOC (corners between pixels, spaces, encodings, upper-case tags) that have only one possible meaning.
"""

import codecs
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .findings import Finding, Ledger
from .image import Size, by

SIDES = ("xmin", "ymin", "xmax", "ymax")
# Values of <difficult> in VOC and in other tools; an object without this element is not difficult.
FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "": False, "unspecified": False}

# Conventions differ by a pixel (half-open or closed intervals, starting at 0 or 1); such boxes are left unchanged.
TOLERANCE = 1.0

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark begins with the same bytes
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([^"']*)["']""")
# Programs often use the larger character set, but declare the smaller one.
LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}


@dataclass(frozen=True)
class VocObject:
    """An object in an image.

    Attributes:
        name: class name, stripped.
        box: xmin, ymin, xmax, ymax as in VOC, which counts pixels from 1 and includes the last pixel. In pixels from
            the image's upper-left corner, the edges are therefore xmin - 1, ymin - 1, xmax and ymax. Corners between
            pixels are read in the same way.
        difficult: whether evaluation ignores the object, detected or not.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool = False


@dataclass(frozen=True)
class VocAnnotation:
    """The contents of an XML file.

    Attributes:
        objects: valid objects.
        count: number of objects in the file.
        size: width and height in pixels, from the file or otherwise from the image; None if unknown.
        says_size: whether the size is from the file.
        filename: name of the image in the file. It is not reliable, because tools keep it when they rename an image.
        findings: repairs, and an error for each object that is not among ``objects``.
    """

    objects: tuple[VocObject, ...] = ()
    count: int = 0
    size: Size | None = None
    says_size: bool = False
    filename: str = ""
    findings: tuple[Finding, ...] = ()


def read_annotation(path: Path, size_of_image: Callable[[str], Size | None] = lambda filename: None) -> VocAnnotation:
    """Read an XML file.

    Args:
        path: the file.
        size_of_image: function that returns the size of the image with a given name; called if the file specifies no
            size.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    ledger = Ledger(path)
    root = _parse(path, ledger)
    if root is None:
        return VocAnnotation(findings=tuple(ledger.findings()))
    filename = (root.findtext("filename") or "").strip()
    said, size = _size(root), None
    if said is None:
        size = size_of_image(filename)
        if size is not None:
            ledger.count("repaired", "", _size_as_written(root), "the size is read from the image")
    nodes, inside = root.findall("object"), sum(1 for _ in root.iter("object"))
    if inside > len(nodes):
        what = f"has {inside - len(nodes)} <object> elements that are not direct children of <annotation>"
        ledger.error("", what, "move them into <annotation>, or remove them")
    found = [_object(node, f"object {number}", said or size, ledger) for number, node in enumerate(nodes, start=1)]
    return VocAnnotation(
        tuple(one for one in found if one is not None),
        inside,
        said or size,
        said is not None,
        filename,
        tuple(ledger.findings()),
    )


def _parse(path: Path, ledger: Ledger) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(_decode(path.read_bytes(), ledger).lstrip("\ufeff \t\r\n"))
    except FileNotFoundError:
        raise
    except LookupError:
        found = DECLARATION.match(path.read_bytes())
        name = found[1].decode("latin-1") if found else "?"
        ledger.error("", f"declares the encoding {name[:40]!r}, which is unknown", "save the file as UTF-8")
    except UnicodeError as error:
        reason = f"is not {error.encoding} text" if isinstance(error, UnicodeDecodeError) else f"is not text ({error})"
        ledger.error("", reason, "declare the encoding in the first line, or save the file as UTF-8")
    except (ElementTree.ParseError, ValueError, OSError, RecursionError) as error:
        ledger.error("", f"is not XML ({error})", "export, download or unpack it again")
    else:
        for node in root.iter():
            # Remove the namespace. Some tools capitalise the tags.
            node.tag = node.tag.rpartition("}")[2].lower()
        if root.tag == "annotation":
            return root
        ledger.error(
            "",
            f"has the root element <{root.tag[:40]}> instead of VOC's <annotation>",
            "export it in Pascal VOC format",
        )
    return None


def _decode(data: bytes, ledger: Ledger) -> str:
    """Decode the text of an XML file according to its byte-order mark, its declared encoding, or as UTF-8.

    Raises:
        LookupError: the file declares an encoding that Python does not support.
        UnicodeError: the contents are not valid in that encoding.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding)
    declared = DECLARATION.match(data)
    if declared is None:
        return data.decode("utf-8")
    name = codecs.lookup(declared[1].decode("latin-1")).name
    if name.startswith(("utf-16", "utf-32")):  # a declaration that is readable as bytes must be wrong
        text = data.decode("utf-8")
        ledger.count("repaired", "", f"declares {name}, but is UTF-8 text", "read as UTF-8")
        return text
    return data.decode(LARGER.get(name, name))


def _size(root: ElementTree.Element) -> Size | None:
    sides = [_number(root.findtext(f"size/{side}")) for side in ("width", "height")]
    if not all(side is not None and 1 <= side <= 1e9 and side.is_integer() for side in sides):
        return None
    width, height = (int(side or 0) for side in sides)
    return width, height


def _size_as_written(root: ElementTree.Element) -> str:
    if root.find("size") is None:
        return "has no <size>"
    sides = [(root.findtext(f"size/{side}") or "").strip()[:20] for side in ("width", "height")]
    return f"has the <size> {' x '.join(side or 'nothing' for side in sides)}"


def _object(node: ElementTree.Element, number: str, size: Size | None, ledger: Ledger) -> VocObject | None:
    """Parse an object in an image of ``size``; if it is invalid, record an error and return None."""
    name = " ".join((node.findtext("name") or "").split())
    if not name:
        ledger.error(number, "has no <name>", "add the class name, or remove the object")
        return None
    record = f"{number} ({name[:60]})"
    if several := [tag for tag in ("name", "bndbox", "difficult") if len(node.findall(tag)) > 1]:
        ledger.error(record, f"has more than one <{several[0]}>", "create a separate object for each")
        return None
    box = _box(node, record, size, ledger)
    flag = (node.findtext("difficult") or "").strip().lower()
    number_of_flag = _number(flag)
    difficult = FLAGS.get(flag if number_of_flag is None else f"{number_of_flag:g}")
    if difficult is None:
        ledger.error(record, f"has <difficult> {flag[:20]!r}", "set it to 0 or 1")
    return None if box is None or difficult is None else VocObject(name, box, difficult)


def _box(
    node: ElementTree.Element, record: str, size: Size | None, ledger: Ledger
) -> tuple[float, float, float, float] | None:
    written = [node.findtext(f"bndbox/{side}") for side in SIDES]
    corners = [_number(text) for text in written]
    if None in corners:
        ledger.error(
            record, "lacks a <bndbox> with numeric <xmin>, <ymin>, <xmax> and <ymax>", "add them, or remove the object"
        )
        return None
    xmin, ymin, xmax, ymax = (corner or 0.0 for corner in corners)
    box = f"has the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}"
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
        ledger.error(record, f"{box}, which is not finite", "correct or remove the object")
        return None
    edges = [xmin - 1, ymin - 1, xmax, ymax]
    if fault := edges_fault(edges):
        ledger.error(record, f"{box}, which is {fault}", "correct or remove the object")
        return None
    if size is None or is_inside(edges, size):
        return xmin, ymin, xmax, ymax
    if edges_fault([min(max(edge, 0.0), float(most)) for edge, most in zip(edges, size * 2, strict=True)]):
        ledger.error(record, f"{box}, which is outside the image of {by(size)}", "correct or remove the object")
        return None
    # Evaluation uses the box unchanged, as VOC's own evaluation does.
    ledger.count("repaired", record, f"extends beyond the image of {by(size)}", "training clips the box")
    return xmin, ymin, xmax, ymax


def edges_fault(edges: list[float]) -> str | None:
    """Return what is wrong with a box with the given left, top, right and bottom edges, or None if it is valid."""
    left, top, right, bottom = edges
    if right < left or bottom < top:
        return "inside out"
    return "empty" if right == left or bottom == top else None


def is_inside(edges: list[float], size: Size) -> bool:
    """Return whether a box extends beyond an image of ``size`` by at most `TOLERANCE` pixels."""
    left, top, right, bottom = edges
    width, height = size
    return min(left, top) >= -TOLERANCE and right <= width + TOLERANCE and bottom <= height + TOLERANCE


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
