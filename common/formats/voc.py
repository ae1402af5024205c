"""One XML file of Pascal VOC (host.robots.ox.ac.uk/pascal/VOC, "Development kit"): the objects in one image.

The reader does without what other tools leave out (``pose``, ``truncated``, ``difficult``, ``size``), and accepts what
differs from VOC (corners between pixels, blanks, encodings) but has only one possible meaning.
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
# Values of <difficult>, in VOC's words and in those of other tools; an object without it is not difficult.
FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "": False, "unspecified": False}

# Conventions differ by a pixel (half-open or closed, from 0 or from 1), which is left as it is.
TOLERANCE = 1.0

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before the next one, which begins with the same bytes
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([^"']*)["']""")
# Programs write the larger character set under the name of the smaller one.
LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}


@dataclass(frozen=True)
class VocObject:
    """An object in an image.

    Attributes:
        name: name of its class, stripped.
        box: xmin, ymin, xmax, ymax as in VOC: pixels are counted from 1, and the last one is included. So the edges,
            in pixels from the upper left corner of the image, are xmin - 1, ymin - 1, xmax and ymax. Corners between
            pixels are read in the same way.
        difficult: the object does not count, found or not.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool = False


@dataclass(frozen=True)
class VocAnnotation:
    """The content of an XML file.

    Attributes:
        objects: the valid objects.
        count: number of objects in the file.
        size: width and height in pixels, from the file or else from the image; None if unknown.
        says_size: the size is from the file.
        filename: name of the image in the file; not reliable, since tools keep it when they rename an image.
        findings: an error for each object that is not among ``objects``; repairs.
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
        size_of_image: called for the size of the image, with its name in the file, if the file has no size.

    Raises:
        FileNotFoundError: there is no such file.
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
            ledger.count("repaired", "", _size_as_written(root), "the size is taken from the image")
    nodes, inside = root.findall("object"), sum(1 for _ in root.iter("object"))
    if inside > len(nodes):
        what = f"has {inside - len(nodes)} <object> that are not directly in <annotation>"
        ledger.error("", what, "move them there, or remove them")
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
        ledger.error("", f"declares the encoding {name[:40]!r}, which is not known", "write it as UTF-8")
    except UnicodeError as error:
        reason = (
            f"is not text in {error.encoding}" if isinstance(error, UnicodeDecodeError) else f"is not text ({error})"
        )
        ledger.error("", reason, "declare its encoding in its first line, or write it as UTF-8")
    except (ElementTree.ParseError, ValueError, OSError, RecursionError) as error:
        ledger.error("", f"is not XML ({error})", "write, fetch or unpack it again")
    else:
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]  # remove the namespace
        if root.tag == "annotation":
            return root
        ledger.error("", f"is XML of <{root.tag[:40]}>, not VOC's <annotation>", "export it as Pascal VOC")
    return None


def _decode(data: bytes, ledger: Ledger) -> str:
    """Decode the text of an XML file: by its byte-order mark, by the encoding that it declares, or as UTF-8.

    Raises:
        LookupError: it declares an encoding that Python does not know.
        UnicodeError: it is not text in its encoding.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding)
    declared = DECLARATION.match(data)
    if declared is None:
        return data.decode("utf-8")
    name = codecs.lookup(declared[1].decode("latin-1")).name
    if name.startswith(("utf-16", "utf-32")):  # its declaration could not have been read as bytes
        text = data.decode("utf-8")
        ledger.count("repaired", "", f"declares {name} and is text in UTF-8", "read as UTF-8")
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
    """Read an object of an image of ``size``; None, with an error, if it is not valid."""
    name = " ".join((node.findtext("name") or "").split())
    if not name:
        ledger.error(number, "has no <name>", "name its class, or remove it")
        return None
    record = f"{number} ({name[:60]})"
    if several := [tag for tag in ("name", "bndbox", "difficult") if len(node.findall(tag)) > 1]:
        ledger.error(record, f"has several <{several[0]}>", "make an object of each")
        return None
    box = _box(node, record, size, ledger)
    flag = (node.findtext("difficult") or "").strip().lower()
    number_of_flag = _number(flag)
    difficult = FLAGS.get(flag if number_of_flag is None else f"{number_of_flag:g}")
    if difficult is None:
        ledger.error(record, f"has <difficult> {flag[:20]!r}", "write 0 or 1")
    return None if box is None or difficult is None else VocObject(name, box, difficult)


def _box(
    node: ElementTree.Element, record: str, size: Size | None, ledger: Ledger
) -> tuple[float, float, float, float] | None:
    written = [node.findtext(f"bndbox/{side}") for side in SIDES]
    corners = [_number(text) for text in written]
    if None in corners:
        ledger.error(
            record, "lacks a <bndbox> with the numbers <xmin>, <ymin>, <xmax> and <ymax>", "write them, or remove it"
        )
        return None
    xmin, ymin, xmax, ymax = (corner or 0.0 for corner in corners)
    box = f"has the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}"
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
        ledger.error(record, f"{box}, which is not finite", "correct or remove it")
        return None
    edges = [xmin - 1, ymin - 1, xmax, ymax]
    if fault := edges_fault(edges):
        ledger.error(record, f"{box}, which is {fault}", "correct or remove it")
        return None
    if size is None or is_inside(edges, size):
        return xmin, ymin, xmax, ymax
    if edges_fault([min(max(edge, 0.0), float(most)) for edge, most in zip(edges, size * 2, strict=True)]):
        ledger.error(record, f"{box}, which is not inside the image, {by(size)}", "correct or remove it")
        return None
    # Evaluation uses the box unchanged, as VOC's does.
    ledger.count("repaired", record, f"reaches out of the image, {by(size)}", "training cuts it at the image's edge")
    return xmin, ymin, xmax, ymax


def edges_fault(edges: list[float]) -> str | None:
    """Say what is wrong with a box of the edges left, top, right, bottom, or return nothing."""
    left, top, right, bottom = edges
    if right < left or bottom < top:
        return "inside out"
    return "empty" if right == left or bottom == top else None


def is_inside(edges: list[float], size: Size) -> bool:
    """Tell whether a box reaches out of an image of ``size`` by at most `TOLERANCE` pixels."""
    left, top, right, bottom = edges
    width, height = size
    return min(left, top) >= -TOLERANCE and right <= width + TOLERANCE and bottom <= height + TOLERANCE


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
