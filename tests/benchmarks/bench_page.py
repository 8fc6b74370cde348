"""The report of 40 backbones in 12 groups: how long it takes to write, how large it is, and how soon it is open in a browser.

    python tests/benchmarks/bench_page.py [--backbones 40] [--groups 12] [--images 4] [--repeat 3]

The records are made up, with 1,000 replicates, 21 classes and a few pictures each. The page is to open in under a second and to
stay under 5 MB. Milliseconds are those of Chromium, from the start of the navigation: until the text is there, until the page has
loaded, and of a search; the least of --repeat. Without Chromium only the size is measured.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from browser import NAMES, SWITCHES, WIDE
from many_records import many

from densebench.results.report import report

TIMES = "performance.getEntriesByType('navigation').map((each) => [each.domContentLoadedEventEnd, each.loadEventEnd])[0]"
SEARCH = """() => {
  const form = document.querySelector('form.tools'), before = performance.now();
  form.elements.search.value = '_7 set-1';
  form.requestSubmit();
  document.body.offsetHeight;
  return performance.now() - before;
}"""


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("backbones", 40), ("groups", 12), ("images", 4), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def opened(path, repeat):
    """The least times until the text is there, until the page has loaded, and of a search, in ms; none without a browser."""
    try:
        from playwright import sync_api
    except ImportError:
        return None
    if (program := next(filter(None, map(shutil.which, NAMES)), None)) is None:
        return None
    times = []
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(SWITCHES))
        for _ in range(repeat):
            page = browser.new_page(viewport={"width": WIDE, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
            times.append([*page.evaluate(TIMES), page.evaluate(SEARCH)])
            page.close()
        browser.close()
    return [min(each) for each in zip(*times, strict=True)]


def main():
    options = parsed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many(folder, backbones=options.backbones, groups=options.groups, images=options.images)
        start = time.perf_counter()
        text = report(folder, beside=folder / "page.html")
        seconds = time.perf_counter() - start
        (folder / "page.html").write_text(text, encoding="utf-8")
        print(f"{options.backbones} backbones, {options.groups} groups, {options.images} pictures a record")
        print(f"written in {seconds:.1f} s, {len(text.encode()) / 1e6:.2f} MB")
        if times := opened(folder / "page.html", options.repeat):
            print("text {:.0f} ms, loaded {:.0f} ms, a search {:.0f} ms".format(*times))


if __name__ == "__main__":
    main()
