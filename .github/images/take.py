"""The README's pictures of a chapter and of the claims page, taken of a website that `rimkit book DIR` built,
and the one in chapter 10: the claims page of smollm2-rim, made of its shipped rows.

python .github/images/take.py DIR

What they show goes into shown.txt, which a test holds against what the pages say now.
"""

import sys
from io import BytesIO
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import sync_playwright

from rimkit.data import results
from rimkit.runs import page as claims_page

HERE, SITE = Path(__file__).parent, Path(sys.argv[1]).resolve()
PICTURES = {"chapter": ("01_observing_rim.html", "figure"), "claims": ("claims-page.html", "h1")}
ALT, STRONG = "e => [e.querySelector('img').alt]", "e => [...e.querySelectorAll('strong')].map(e => e.innerText)"
SAID = {"chapter": ("figure", ALT), "claims": (".answers", STRONG)}
CHROMIUM = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))))

shown = []
with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    for name, (page, first) in PICTURES.items():
        tab = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        tab.goto((SITE / page).as_uri())
        tab.locator(first).first.evaluate("found => window.scrollTo(0, found.getBoundingClientRect().top - 330)")
        place, texts = SAID[name]
        shown += [" ".join(text.split()) for text in tab.locator(place).first.evaluate(texts)]
        tab.wait_for_timeout(500)
        Image.open(BytesIO(tab.screenshot())).convert("RGB").save(HERE / f"{name}.webp", quality=80)
    with TemporaryDirectory() as folder:
        rows = results("bridge").query("model == 'smollm2-rim'")
        tab = browser.new_page(viewport={"width": 1000, "height": 880}, color_scheme="light")
        tab.goto(claims_page.write_page(rows, Path(folder, claims_page.NAME)).as_uri())
        shown.insert(1, " ".join(tab.locator(".short").inner_text().split()))
        Image.open(BytesIO(tab.screenshot())).convert("RGB").save(claims_page.PICTURE, quality=70)
    browser.close()
(HERE / "shown.txt").write_text("\n".join([*shown, ""]), encoding="utf-8")
