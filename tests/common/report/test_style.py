"""The style sheet's colours, by the contrast that WCAG 2.2 defines (success criterion 1.4.3)."""

import re
from pathlib import Path

import pytest

import mocodet.common.report.page as module

STYLE = Path(module.__file__).with_name("templates") / "style.css"
SCHEMES = dict(
    zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL), strict=True)
)


def luminance(colour):
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast__of_known_colours():
    assert contrast("fff", "000000") == pytest.approx(21)
    assert contrast("777777", "ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_style__text_can_be_read_on_its_background(scheme):
    colours = dict(re.findall(r"--([\w-]+): #(\w+);", SCHEMES[scheme]))
    text = ["ink", "muted", "link", "alarm", *(name for name in colours if name.startswith("tone-"))]
    assert len(text) == 11
    low = {name: round(ratio, 2) for name in text if (ratio := contrast(colours[name], colours["paper"])) < 4.5}
    assert not low
    assert contrast(colours["ink"], colours["faint"]) >= 4.5
