"""Point 5j: the page in real headless Chromium, and its pictures for the docs.

The tests marked `browser` run first: mouse, keyboard, narrow screen, both colour schemes, without
its script, and titles that try to be markup. Then the page of a KSER model of the embedded world is
photographed, wide and narrow, into `docs/`.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked
from lorecast.config import load_config
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.lifecycle.bundle import write_bundle
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app
from tests.chromium import chromium, visited

BAR = "every test of the page passes in Chromium, keyboard and narrow screen too; screenshots"
_ROOT = Path(__file__).parents[1]
_SIZES = {"wide": (1180, 900), "narrow": (390, 844)}
_COLOURS = 48
"""Of a picture: the page has few, and small files suit a repository."""
_MOST_BYTES = 300_000


def measure() -> Outcome:
    os.environ["LORECAST_REQUIRE_BROWSER"] = "1"
    tests = run_marked("browser", "tests/serve/test_page_browser.py")
    with TemporaryDirectory(prefix="lorecast-page-") as name:
        folder = Path(name) / "bundle"
        write_world_bundle(folder)
        taken = photograph(folder, _ROOT / "docs")
    sizes = {path.name: path.stat().st_size for path in taken}
    return Outcome(
        figure=f"{tests.figure}; " + ", ".join(f"{k} {v / 1000:.0f} kB" for k, v in sizes.items()),
        passed=tests.passed and sum(sizes.values()) < _MOST_BYTES,
        details={**tests.details, "screenshots_bytes": sizes},
    )


def write_world_bundle(folder: Path) -> None:
    """The bundle of a KSER model of the world, trained unless that was done before."""
    overrides = [
        "training.strategies=[all_parameters]",
        f"compute.workspace={_ROOT / 'workspace'}",
        "compute.threads=1",
    ]
    pipeline = Pipeline(load_config(_ROOT / "configs" / "world.yaml", overrides), Console())
    write_bundle(
        folder,
        pipeline.best().artifact,
        pipeline.dataset,
        VectorsTable.open(pipeline.encode().path),
        prestore=True,
        knowledge=pipeline.generate().path,
    )


def photograph(bundle: Path, into: Path) -> list[Path]:
    """Pictures of the page of this model, one a size."""
    app = create_app(Scorer.load(bundle), model_version="lorecast-world/1", max_items=10_000)
    taken = []
    with visited(app) as address, chromium() as browser:
        for name, (width, height) in _SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"{address}/?user=u0790")
            path = into / f"page-{name}.png"
            page.screenshot(path=path, full_page=True)
            with Image.open(path) as picture:
                small = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
            small.save(path, optimize=True)
            taken.append(path)
    return taken
