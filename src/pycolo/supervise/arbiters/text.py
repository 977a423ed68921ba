"""What an arbiter stores, as text: the record of a pair, and evidence of QEMUs that have ended.

An arbiter that you write stores the same texts, so that `pycolo` can read them.
"""

from __future__ import annotations

import functools
import json
from typing import Final

from pycolo import _decode
from pycolo._forms import Document, Forms
from pycolo.errors import ParseError
from pycolo.evidence import Evidence
from pycolo.supervise.shared import SharedRecord

SIZE_MAX_BYTES: Final = 65536
"Far more than any record takes."


@functools.cache
def shared_document() -> Document:
    """Reads and checks the JSON of a shared record."""
    return Document("shared record", Forms(omits="nothing").record(SharedRecord))


@functools.cache
def end_document() -> Document:
    """Make the form that writes, reads and checks the JSON of evidence that a QEMU has ended."""
    return Document("end", Forms(omits="nothing").record(Evidence))


def dump_shared(shared: SharedRecord) -> str:
    """The text of a shared record: one line of JSON with its keys in a fixed order."""
    return _dumps(shared_document(), shared)


def load_shared(text: str, pair: str) -> SharedRecord:
    """Parse the text of a shared record.

    Args:
        text: The text, as `dump_shared` writes it.
        pair: The name of the pair whose record it must be.

    Raises:
        ParseError: The record is that of another pair, or not exactly what `dump_shared` writes.
    """
    shared = _loads(shared_document(), text, "")
    assert isinstance(shared, SharedRecord)  # noqa: S101 - what the document's form makes
    if shared.record.pair != pair:
        raise ParseError("record.pair", f"be {pair}", shared.record.pair)
    return shared


def dump_end(end: Evidence) -> str:
    """The text of evidence: one line of JSON with its keys in a fixed order."""
    return _dumps(end_document(), end)


def load_end(text: str, node: str) -> Evidence:
    """Parse the text of evidence that a QEMU has ended.

    Args:
        text: The text, as `dump_end` writes it.
        node: The name of the node on which that QEMU ran.

    Raises:
        ParseError: The evidence names another node, or is not exactly what `dump_end` writes.
    """
    end = _loads(end_document(), text, f"ends.{node}")
    assert isinstance(end, Evidence)  # noqa: S101 - what the document's form makes
    if end.node != node:
        raise ParseError(f"ends.{node}.node", f"be {node}", end.node)
    return end


def _dumps(document: Document, value: object) -> str:
    return json.dumps(document.write(value), ensure_ascii=False)


def _loads(document: Document, text: str, path: str) -> object:
    size_bytes = len(text.encode(errors="surrogatepass"))
    if size_bytes > SIZE_MAX_BYTES:
        raise ParseError(path, f"have at most {SIZE_MAX_BYTES} bytes", size_bytes)
    value = document.read(_decode.json_value(text), path)
    if _dumps(document, value) != text:
        # Otherwise a missing key would get its default, and of a repeated key the last would count.
        raise ParseError(path, "be as pycolo writes it, with every key once", text)
    return value
