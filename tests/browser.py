"""A real browser for tests: Debian's Chromium, fetched as the QEMU builds are, without a window."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from pathlib import Path
from typing import Final, final

from tests.debian import closure, loader

_LIMIT_S: Final = 60.0
_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_FONTS: Final = """\
<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>ROOT/usr/share/fonts</dir><cachedir>FOLDER/fonts</cachedir></fontconfig>
"""


@final
class Browser:
    """Loads pages, each in a new process with a new profile.

    Args:
        folder: For its files; must be there.
    """

    def __init__(self, folder: Path) -> None:
        root = closure("chromium")
        home = root / "usr/lib/chromium"
        # It looks for its own files beside the program that runs, and that is the loader.
        own, (_, option, libraries) = home / "loader", loader(root)
        if not own.exists():
            shutil.copy(loader(root)[0], own)
        libraries = f"{libraries}:{libraries}/pulseaudio:{home}"
        self._program = folder / "chromium"
        words = [str(own), option, libraries, str(home / "chromium")]
        self._program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self._program.chmod(0o700)
        fonts = folder / "fonts.conf"
        fonts.write_text(_FONTS.replace("ROOT", str(root)).replace("FOLDER", str(folder)))
        self._environment = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
        self._folder = folder
        self._runs = 0

    async def dom(self, url: str) -> str:
        """The document that it makes of a page, as HTML."""
        return await self._run("--dump-dom", url)

    async def picture(self, url: str, file: Path, *, width: int, is_dark: bool) -> None:
        """Draw a page into a PNG file."""
        scheme = f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"
        await self._run(scheme, f"--window-size={width},1000", f"--screenshot={file}", url)

    async def _run(self, *words: str) -> str:
        self._runs += 1
        process = await asyncio.create_subprocess_exec(
            *(str(self._program), f"--browser-subprocess-path={self._program}", *_OPTIONS),
            *(f"--user-data-dir={self._folder / f'profile{self._runs}'}", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        try:
            async with asyncio.timeout(_LIMIT_S):
                printed, complained = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert 0 == process.returncode, complained.decode(errors="replace")[-2000:]
        return printed.decode()
