"""A journal's timeline as one HTML page without scripts, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from pycolo.catalogue import goal_words
from pycolo.render._words import snapshot_words
from pycolo.render.timeline import Call, Moment, StepLine, Timeline, duration, ticks

_LEFT: Final = 110
_WIDTH: Final = 1000
_LANE: Final = 34
_TOP: Final = 26
_MOST_TICKS: Final = 10
_LEAST_BAR: Final = 3.0

_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1e21;--soft:#5b6169;--line:#dcdfe3;
--good:#1a7f4b;--bad:#c0322b;--warn:#9a6200;--none:#8a9099;--call:#2f6fb2;--event:#7a4fa3;
--goodbg:#e5f4ec;--badbg:#fbe9e7;--warnbg:#fdf2dc}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--card:#1d2024;--ink:#e7e9ec;--soft:#a0a7b0;
--line:#343940;--good:#58c48b;--bad:#ff8178;--warn:#e6b450;--none:#767d87;--call:#77b2ee;
--event:#c39be8;--goodbg:#17301f;--badbg:#3a1d1b;--warnbg:#362b12}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.5rem;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:32px 0 8px}
code,pre,.mono{font:13px/1.5 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{white-space:pre-wrap;margin:4px 0;padding:8px 10px;background:var(--bg);
border:1px solid var(--line);border-radius:6px}
.soft{color:var(--soft)}
.verdict{padding:12px 14px;border-radius:8px;margin:14px 0;border-left:5px solid var(--good);
background:var(--goodbg);overflow-wrap:anywhere}
.verdict.failed{border-color:var(--bad);background:var(--badbg)}
.verdict.not-seen{border-color:var(--warn);background:var(--warnbg)}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:12px 0}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;overflow-wrap:anywhere}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:10px;overflow-x:auto}
figure svg{display:block;width:100%;min-width:680px;height:auto}
figcaption{color:var(--soft);font-size:13px;margin-top:6px}
svg text{fill:var(--ink);font:13px system-ui,sans-serif}svg .axis{fill:var(--soft);font-size:12px}
svg .grid{stroke:var(--line)}svg .restored{stroke:var(--good);stroke-width:2;stroke-dasharray:5 4}
svg .restored-word{fill:var(--good);font-weight:600}
.f-done{fill:var(--good)}.f-refused,.f-timed-out{fill:var(--bad)}.f-unknown{fill:var(--warn)}
.f-not-run{fill:var(--none)}.f-returned{fill:var(--call)}.f-event{fill:var(--event)}
details{background:var(--card);border:1px solid var(--line);border-radius:8px;margin:4px 0}
summary{cursor:pointer;padding:5px 10px;display:grid;align-items:center;gap:4px 12px;
grid-template-columns:3.2em 6.4em minmax(0,1fr) 220px 5.5em;list-style:none;border-radius:8px}
summary::-webkit-details-marker{display:none}
summary:hover{background:var(--bg)}
summary:focus-visible,a:focus-visible,figure:focus-visible{outline:3px solid var(--call);
outline-offset:2px}
summary .n{text-align:right;color:var(--soft)}summary .n::before{content:"▸ ";float:left}
details[open] .n::before{content:"▾ "}
summary .took{text-align:right;font-variant-numeric:tabular-nums}
summary svg{width:100%;height:14px;background:var(--bg);border-radius:3px}
.state{font-weight:600}.s-done{color:var(--good)}.s-refused,.s-timed-out{color:var(--bad)}
.s-unknown{color:var(--warn)}.s-not-run{color:var(--none)}
.more{padding:2px 14px 12px 14px;border-top:1px solid var(--line)}
.more p{margin:8px 0}
.known{border-left:4px solid var(--warn);padding-left:10px}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line)}
th,td{text-align:left;vertical-align:top;padding:5px 10px;border-top:1px solid var(--line)}
td.at{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.words{overflow-wrap:anywhere}
@media(max-width:760px){summary{grid-template-columns:3.2em 6.4em minmax(0,1fr) 5.5em}
summary svg{display:none}}
@media print{details{break-inside:avoid}}
"""


def render(timeline: Timeline) -> str:
    """Show a timeline as an HTML page in one file.

    The page has no script and loads nothing, follows the browser's setting of light or dark, and
    can be read with the keyboard alone.

    Args:
        timeline: The timeline of a journal, from `pycolo.render.timeline`.

    Returns:
        The HTML text.
    """
    return "".join(_page(timeline))


def _page(t: Timeline) -> Iterator[str]:
    title = escape(f"{t.plan.procedure}: pair {t.plan.pair.name}")
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    # This policy keeps the page from loading or running anything, whatever text a message holds.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><main>"
    yield f"<h1>{title}</h1>"
    yield from _head(t)
    yield "<h2>Time</h2>"
    yield from _overview(t)
    yield "<h2>Steps</h2>"
    yield from (part for step in t.steps for part in _step(step, t))
    if t.recovery:
        yield "<h2>Recovery: what brought the guest back</h2>"
        yield from (part for step in t.recovery for part in _step(step, t))
    yield from _moments(t)
    yield "</main></body></html>\n"


def _head(t: Timeline) -> Iterator[str]:
    yield f'<p class="verdict {t.end}" role="status">{escape(t.verdict)}</p>'
    done = sum(step.state == "done" for step in t.steps)
    versions = ", ".join(f"{node} {version}" for node, version in t.plan.qemu.items())
    facts = [
        ("began", t.at),
        ("took", duration(t.took_s)),
        ("steps", f"{done} of {len(t.steps)} done"),
        ("guest serves again", "" if t.restored_s is None else f"after {duration(t.restored_s)}"),
        ("QEMU", versions),
        ("from", snapshot_words(t.plan.prior_state)),
        ("to", snapshot_words(t.plan.planned_state)),
    ]
    yield '<dl class="facts">'
    yield from (f"<dt>{label}</dt><dd>{escape(words)}</dd>" for label, words in facts if words)
    yield "</dl>"


# -- the time axis -------------------------------------------------------------------------------


def _x(at_s: float, t: Timeline) -> float:
    """The horizontal place of a moment on the time axis."""
    return _LEFT + (_WIDTH - _LEFT - 20) * at_s / max(t.took_s, 1e-6)


def _overview(t: Timeline) -> Iterator[str]:
    nodes = t.plan.pair.names
    seen = {c.node for s in (*t.steps, *t.recovery) for c in s.calls} | {m.node for m in t.moments}
    lanes = ["steps", *(name for name in nodes if name in seen)]
    height = _TOP + _LANE * len(lanes) + 26
    label = f"Time axis of {duration(t.took_s)}: steps, then the commands and events of each node"
    yield f'<figure tabindex="0" aria-label="{label}">'
    yield f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">'
    yield from _axis(t, height)
    for n, lane in enumerate(lanes):
        y = _TOP + n * _LANE
        yield f'<text x="{_LEFT - 12}" y="{y + 19}" text-anchor="end">{escape(_cut(lane))}</text>'
        yield from _lane(t, None if n == 0 else lane, y)
    yield "</svg><figcaption>Bars: steps, and commands until their answer. Diamonds: events. Point"
    yield " at one to read it; all of it is listed below.</figcaption></figure>"


def _cut(name: str) -> str:
    """A name, cut off if it is too long for a lane's label."""
    most = 14
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _axis(t: Timeline, height: int) -> Iterator[str]:
    for at_s in ticks(t.took_s, _MOST_TICKS):
        x = _x(at_s, t)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height - 24}"/>'
        word = "0" if at_s == 0 else duration(at_s)
        yield f'<text class="axis" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{word}</text>'
    if t.restored_s is not None:
        x = _x(t.restored_s, t)
        yield f'<line class="restored" x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{height - 24}"/>'
        anchor = "end" if x > _WIDTH / 2 else "start"
        yield f'<text class="restored-word" x="{x:.1f}" y="13" text-anchor="{anchor}">'
        yield f"guest serves again, {duration(t.restored_s)}</text>"


def _lane(t: Timeline, node: str | None, y: float) -> Iterator[str]:
    """The bars and events of one lane: of a node, or of the steps if `node` is None."""
    if node is None:
        for step in (*t.steps, *t.recovery):
            if step.from_s is not None:
                to_s = t.took_s if step.to_s is None else step.to_s
                told = f"{step.address}: {step.state}, {duration(to_s - step.from_s)}"
                yield _bar(t, (step.from_s, to_s), (y + 6, 18), step.state, told)
        return
    for call in (call for step in (*t.steps, *t.recovery) for call in step.calls):
        if call.node == node:
            to_s = t.took_s if call.to_s is None else call.to_s
            told = f"{call.words}: {call.answer}, {duration(to_s - call.from_s)}"
            yield _bar(t, (call.from_s, to_s), (y + 4, 12), call.answer, told)
    for moment in t.moments:
        if moment.node == node:
            x, top = _x(moment.at_s, t), y + 18
            told = f"{moment.name} at {duration(moment.at_s)} {moment.words}"
            yield f'<path class="f-event" d="M{x:.1f} {top}l5 6l-5 6l-5 -6z">'
            yield f"<title>{escape(told)}</title></path>"


def _bar(
    t: Timeline, span: tuple[float, float], room: tuple[float, float], state: str, told: str
) -> str:
    """A bar of the time axis, with a tooltip.

    Args:
        t: The timeline.
        span: The moments at which the bar begins and ends, in seconds.
        room: The bar's upper edge and its height.
        state: The state that gives the bar its colour.
        told: The text of the tooltip.
    """
    x, width = _x(span[0], t), max(_x(span[1], t) - _x(span[0], t) - 0.5, _LEAST_BAR)
    shape = f'x="{x:.1f}" y="{room[0]:.1f}" width="{width:.1f}" height="{room[1]}" rx="1.5"'
    return f'<rect class="f-{state}" {shape}><title>{escape(told)}</title></rect>'


# -- one step after the other --------------------------------------------------------------------


def _step(step: StepLine, t: Timeline) -> Iterator[str]:
    is_open = " open" if step.state in ("refused", "unknown", "timed-out") else ""
    yield f"<details{is_open}><summary>"
    yield f'<span class="n">{step.number or ""}</span>'
    sign, word = _SIGNS[step.state], _STATE_WORDS[step.state]
    yield f'<span class="state s-{step.state}">{sign} {word}</span>'
    yield f'<span class="mono">{escape(step.address)}</span>'
    yield _small_bar(step, t)
    took = None if step.from_s is None or step.to_s is None else step.to_s - step.from_s
    yield f'<span class="took">{"" if took is None else duration(took)}</span></summary>'
    yield '<div class="more">'
    yield f"<p>{escape(step.what)}<br><span class=soft>{escape(step.why)}</span></p>"
    if step.words:
        yield f"<p>{escape(step.words)}</p>"
    yield from _explained(step)
    yield from (part for call in step.calls for part in _call(call))
    yield "</div></details>\n"


_SIGNS: Final = {"done": "✓", "refused": "✗", "unknown": "?", "timed-out": "⏱", "not-run": "·"}
_STATE_WORDS: Final = {
    "done": "done",
    "refused": "refused",
    "unknown": "unknown",
    "timed-out": "too late",
    "not-run": "not run",
}


def _small_bar(step: StepLine, t: Timeline) -> str:
    if step.from_s is None:
        return "<span></span>"
    whole = max(t.took_s, 1e-6)
    to_s = t.took_s if step.to_s is None else step.to_s
    x, width = 220 * step.from_s / whole, max(220 * (to_s - step.from_s) / whole, 2.5)
    shape = f'x="{min(x, 217):.1f}" y="2" width="{width:.1f}" height="10"'
    bar = f'<rect class="f-{step.state}" {shape}/>'
    return f'<svg viewBox="0 0 220 14" preserveAspectRatio="none" aria-hidden="true">{bar}</svg>'


def _explained(step: StepLine) -> Iterator[str]:
    if step.explanation is None:
        return
    entry = step.explanation.entry
    yield f'<p class="known"><strong>{escape(entry.name)}</strong>: {escape(entry.meaning)}.'
    yield f" Goal reached: {escape(goal_words(entry))}. Do: {escape(entry.remedy)}."
    yield f' <span class="soft">qemu-behaviour {escape(entry.source)}</span></p>'


def _call(call: Call) -> Iterator[str]:
    oob = ", out of band" if call.oob else ""
    yield f'<p class="soft">to {escape(call.node)}{oob}, at {duration(call.from_s)}</p>'
    yield f"<pre>{escape(call.command)}</pre>"
    if call.to_s is None:
        yield '<p class="s-unknown"><strong>No answer is written: '
        yield "whether it took effect is unknown.</strong></p>"
        return
    yield f'<p class="soft">{call.answer} after {duration(call.to_s - call.from_s)}</p>'
    yield f"<pre>{escape(call.said)}</pre>"


def _moments(t: Timeline) -> Iterator[str]:
    yield "<h2>Events</h2>"
    if not t.moments:
        yield '<p class="soft">none</p>'
        return
    yield '<table><thead><tr><th scope="col">at</th><th scope="col">node</th>'
    yield '<th scope="col">event</th><th scope="col">data</th></tr></thead><tbody>'
    yield from map(_moment, t.moments)
    yield "</tbody></table>"


def _moment(moment: Moment) -> str:
    return (
        f'<tr><td class="at">{duration(moment.at_s)}</td><td>{escape(moment.node)}</td>'
        f"<td>{escape(moment.name)}</td>"
        f'<td class="words mono">{escape(moment.words)}</td></tr>\n'
    )
