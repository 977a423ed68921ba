"""The status page in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.browser import Browser
from tests.supervise.three_pairs import three_pairs

pytestmark = [pytest.mark.heavy, pytest.mark.nightly, pytest.mark.timeout(900)]


async def test_a_browser_shows_each_pair(tmp_path: Path) -> None:
    """Those that need a person are above the one that is protected; each has what to do."""
    browser = Browser(tmp_path)
    async with three_pairs(tmp_path / "store") as page:
        shown = await browser.dom(page)
    assert "<title>pycolo: 2 of 3 pairs need attention</title>" in shown
    rows = re.findall(r'<section class="(\w+)"><h2>([\w-]+)</h2>', shown)
    assert ("good", "shop-db") == rows.pop()
    assert [("bad", "shop-mail"), ("bad", "shop-web")] == sorted(rows)
    assert "<code>pycolo fenced PAIRFILE rack5 --how TEXT</code>" in shown
    assert "rack4: alone" in shown
