"""The status page: it loads nothing from elsewhere, has no script, and escapes all text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from pycolo._printable import brief
from pycolo.supervise._events import PairStatus
from pycolo.supervise.http._health import problem

REFRESH_S: Final = 5
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"Whatever a message may hold, the page loads nothing and runs nothing."

_COMMAND: Final = re.compile("`([^`]+)`")
_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1e21;--soft:#5b6169;--line:#dcdfe3;
--good:#1a7f4b;--bad:#c0322b;--none:#5b6169;--badbg:#fbe9e7}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--card:#1d2024;--ink:#e7e9ec;--soft:#a0a7b0;
--line:#343940;--good:#58c48b;--bad:#ff8178;--none:#a0a7b0;--badbg:#3a1d1b}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:900px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.4rem;margin:0}
h2{font-size:1.1rem;margin:0;overflow-wrap:anywhere}
p{margin:4px 0;overflow-wrap:anywhere}
.soft,dt{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-left:5px solid var(--none);
border-radius:8px;padding:12px 14px;margin:14px 0}
section.good{border-left-color:var(--good)}section.bad{border-left-color:var(--bad)}
.good .sign{color:var(--good)}.bad .sign{color:var(--bad)}.sign{font-weight:600}
.person{background:var(--badbg);padding:8px 10px;border-radius:6px;margin:8px 0}
code{display:inline-block;max-width:100%;font:.9em ui-monospace,monospace}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:8px 0 0}
dd{margin:0;overflow-wrap:anywhere}
"""


def page(statuses: Sequence[PairStatus], when: str) -> str:
    """The status page as HTML, with the pairs first that need attention.

    Args:
        statuses: The status of each pair.
        when: The time at which these were read, as it is shown.
    """
    return "".join(_page(statuses, when))


def _page(statuses: Sequence[PairStatus], when: str) -> Iterator[str]:
    amiss = [status for status in statuses if problem(status)]
    title = f"pycolo: {len(amiss)} of {len(statuses)} pairs need attention"
    if not amiss:
        title = "pycolo: every pair is as it is wanted"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f'<meta http-equiv="refresh" content="{REFRESH_S}">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><main>"
    yield f'<h1>{title}</h1><p class="soft">{escape(when)}; renewed every {REFRESH_S} s</p>'
    amiss.sort(key=lambda status: not status.person)
    for status in (*amiss, *(status for status in statuses if status not in amiss)):
        yield from _pair(status)
    yield "</main></body></html>\n"


def _pair(status: PairStatus) -> Iterator[str]:
    kind, sign = _sign(status)
    yield f'<section class="{kind}"><h2>{_text(status.pair)}</h2>'
    yield f'<p class="sign">{sign}</p>'
    if status.person:
        yield f'<p class="person"><strong>You must act:</strong> {_marked(status.person)}</p>'
    standing, record = status.standing, status.record
    phases = ", ".join(f"{node}: {phase}" for node, phase in status.phases.items())
    facts = [
        ("wanted", status.want),
        ("paused", status.paused or ""),
        ("stands", "not observed yet" if standing is None else standing.text),
        ("nodes", phases),
        ("epoch", "" if record is None else f"{record.epoch}, held by {record.holder}"),
        ("now", "busy" if status.is_busy else "idle"),
    ]
    yield "<dl>"
    yield from (f"<dt>{label}</dt><dd>{_text(words)}</dd>" for label, words in facts if words)
    yield "</dl></section>\n"


def _sign(status: PairStatus) -> tuple[str, str]:
    """The CSS class of a pair's card, and the words of its sign."""
    if status.paused is not None:
        return "none", "‖ supervision is paused"
    if status.person:
        return "bad", "✗ a person is needed"
    if problem(status):
        return "bad", f"✗ not {status.want}"
    return "good", f"✓ {status.want}"


def _marked(text: str) -> str:
    """Text as HTML in which what is between backquotes is shown as something to type."""
    return _COMMAND.sub(r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return escape(brief(text))
