"""The store of what is wanted: one read for all pairs, and a new one only after a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycolo.errors import StoreError
from pycolo.supervise import Store
from pycolo.supervise.store import Wish


def traced(store: Store) -> list[str]:
    """The statements that a store executes from now on."""
    found = list[str]()
    store._database.set_trace_callback(found.append)  # noqa: SLF001 - a look inside
    return found


def reads(statements: list[str]) -> int:
    """How often the table was read."""
    return sum(one.startswith("SELECT") for one in statements)


def test_all_pairs_are_read_at_once(tmp_path: Path) -> None:
    """A thousand pairs take one read, and no other one while nothing changes."""
    with Store(tmp_path) as store:
        store.want("pair7", "stopped")
        statements = traced(store)
        for _ in range(3):
            wishes = {name: store.read(name) for name in (f"pair{n}" for n in range(1000))}
        assert 1 == reads(statements)
        assert {"pair7": Wish(want="stopped")} == {n: w for n, w in wishes.items() if w != Wish()}


def test_change_is_read_whoever_made_it(tmp_path: Path) -> None:
    """A change by another process, or by the store itself, is seen by the next read."""
    with Store(tmp_path) as store, Store(tmp_path) as other:
        assert Wish() == store.read("shop")
        before = store.version
        other.want("shop", "stopped")
        assert before != store.version
        assert Wish(want="stopped") == store.read("shop")
        store.pause("shop", "by jo")
        assert Wish(want="stopped", paused="by jo") == store.read("shop")
        other.pause("shop", None)
        assert Wish(want="stopped") == store.read("shop")
        assert store.version == store.version


def test_wish_that_nobody_knows_is_an_error_of_its_pair(tmp_path: Path) -> None:
    """A line that cannot be read says so whenever it is read, and leaves other pairs alone."""
    with Store(tmp_path) as store:
        line = "INSERT INTO pairs VALUES ('shop', 'fast', NULL)"
        store._database.execute(line)  # noqa: SLF001 - no other way writes such a line
        for _ in range(2):
            with pytest.raises(StoreError, match="'fast' is nothing that can be wanted"):
                store.read("shop")
        assert Wish() == store.read("other")


def test_error_of_the_file_says_what_to_do(tmp_path: Path) -> None:
    """It names the folder, the file and a remedy, and not SQLite's words or a number."""
    path = tmp_path / "supervisor.db"
    path.write_text("no database, though it is long enough to be one" * 100)
    with pytest.raises(StoreError, match=r"supervisor\.db is no SQLite .*: move it away, or give"):
        Store(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=r"supervisor\.db cannot be opened and written"):
        Store(tmp_path)
    with pytest.raises(StoreError, match=r"^/proc/nope: the folder .*No such file") as raised:
        Store(Path("/proc/nope"))
    assert "Errno" not in str(raised.value)


def test_change_of_a_file_that_is_read_only_says_so(tmp_path: Path) -> None:
    """Nothing was changed, and the reason is the file's permissions."""
    with Store(tmp_path) as store:
        store.want("shop", "stopped")
        # Whoever runs the tests may write to any file, unlike whoever meets this error.
        store._database.execute("PRAGMA query_only=ON")  # noqa: SLF001
        with pytest.raises(StoreError, match=r"cannot be opened and written: .*permissions"):
            store.want("shop", "protected")
        assert Wish(want="stopped") == store.read("shop")
