"""What `packaging` has for Prometheus and Grafana, as tests read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parents[2] / "packaging"
RULES: Final = _FOLDER / "pycolo.rules.yml"
DASHBOARD: Final = _FOLDER / "pycolo-dashboard.json"
_VARIABLES: Final = {"$pair": ".+", "$__rate_interval": "1m", "$__range": "1h"}


def queries() -> list[str]:
    """Each query of the dashboard, with what Grafana puts in place of its variables."""
    return list(_expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))))


def _expressions(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _expressions(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "expr":
                yield _filled(str(item))
            else:
                yield from _expressions(item)


def _filled(query: str) -> str:
    for name, words in _VARIABLES.items():
        query = query.replace(name, words)
    return query
