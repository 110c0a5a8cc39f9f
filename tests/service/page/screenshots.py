"""The README's pictures of the page, of a real run: `python -m tests.service.page.screenshots RUN_DIR`.

The run's last round awaits labels, and its pool's labels are known: some are given on a copy of the run.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from dm2at_ray.pool import Manifest
from dm2at_ray.store import RunDirectory

from ..http.process import ServerProcess
from .visitor import Visitor

LABELED = 14
SETTLE_MS = 1500
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 760}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def take(browser: Any, url: str, name: str, name_of: Callable[[int], str], folder: Path) -> None:
    """Label some pictures, and take the page's."""
    light = Visitor(browser, url, color_scheme="light", **DESKTOP)
    light.label_run(name)
    light.label(LABELED, name_of)
    _shoot(light, "figure.picture[data-sample-id]", folder / "label.png")
    dark = Visitor(browser, url, color_scheme="dark", **DESKTOP)
    dark.open(f"/#/runs/{name}")
    _shoot(dark, "#accuracy .chart svg", folder / "run-dark.png")
    phone = Visitor(browser, url, color_scheme="dark", **PHONE)
    phone.label_run(name)
    _shoot(phone, "figure.picture[data-sample-id]", folder / "label-phone.png")


def _shoot(visitor: Visitor, awaited: str, path: Path) -> None:
    visitor.page.locator(awaited).wait_for()
    # Small pictures come after it.
    visitor.page.wait_for_timeout(SETTLE_MS)
    visitor.page.screenshot(path=path)
    visitor.leave()


def main() -> None:
    """Serve a copy of the run, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("folder", nargs="?", default=".github/images", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs, sync_playwright() as driver:
        copy = Path(runs) / arguments.run_dir.name
        shutil.copytree(arguments.run_dir, copy)
        run = RunDirectory(str(copy))
        manifest = Manifest.open(run.files.filesystem, run.manifest_files("pool").root)
        classes, path = run.class_names(), run.config().data.path
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with ServerProcess("--runs", runs, *(("--data", path) if path else ())) as server:
            take(
                browser,
                server.url,
                copy.name,
                lambda sample: classes[manifest.rows(np.array([sample]))["label"][0].as_py()],
                arguments.folder,
            )
        browser.close()


if __name__ == "__main__":
    main()
