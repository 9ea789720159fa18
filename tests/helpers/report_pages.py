"""What is in the page of a report."""

import base64
import re


def text_of(page):
    """Return what a reader sees of a page, without its scripts and styles."""
    bare = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare))


def pictures_of(page):
    """Return the PNGs in a page, in their order."""
    return [base64.b64decode(part) for part in re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)]
