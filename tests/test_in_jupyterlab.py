"""What a learner sees in JupyterLab: figures with their sentence, tables, and explorers that answer."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CELLS = (
    """import pandas as pd
import rimkit as rk
rk.start(0)
table = pd.DataFrame({"mode": ["think", "no-think"], "metric": "misaligned", "value": [0.3, 0.1],
                      "ci_low": [0.2, 0.05], "ci_high": [0.4, 0.2], "n": 92})""",
    """rk.show(rk.plot.points(table, "mode", title="Both modes"))""",
    """pd.DataFrame({"what was said": ["a long text of some words " * 4], "effect": ["+12 [+4, +20]"],
              "verdict": ["misread"]}, index=pd.Index(["think"], name="mode"))""",
    """from time import sleep

def look(request, mode):
    sleep(1)
    return rk.widgets.beside({mode: f"<p>said to {request}</p>", "other": "<p>nothing</p>"})

rk.widgets.explorer(look, own="request", request=["polish the clock", "nick the bike"], mode=["think", "no-think"])""",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a running JupyterLab with one notebook."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "one.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"root_dir": folder, "token": "", "password": "", "port_retries": 0, "allow_root": True}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}"]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                break
            except (URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/one.ipynb?reset"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def tab(browser, lab):
    """The notebook in a tab, after all its cells have run."""
    from playwright.sync_api import TimeoutError

    tab = browser.new_page(viewport={"width": 1024, "height": 1600})
    tab.set_default_timeout(60_000)
    for attempt in range(4):  # a click can come before JupyterLab listens
        try:
            tab.goto(lab)
            tab.wait_for_selector(".jp-Notebook .jp-CodeCell")
            tab.wait_for_selector(".jp-NotebookPanel-toolbar >> text=Python 3")
            tab.click(".lm-MenuBar-item >> text=Run")
            tab.click(".lm-Menu-item >> text=Run All Cells")
            tab.wait_for_selector(".jupyter-widgets select")
            break
        except TimeoutError:
            if attempt == 3:
                raise
    yield tab
    tab.close()


def panel(tab) -> str:
    return " ".join(tab.inner_text(".widget-html-content >> nth=0").split())


def test_a_figure_has_its_sentence_and_its_table_behind_a_fold(tab):
    (figure,) = tab.evaluate("[...document.querySelectorAll('.jp-OutputArea img')].map(i => [i.alt, i.naturalWidth])")
    assert figure[0] == "Both modes: misalignment rate 30% [20, 40] (think); 10% [5, 20] (no-think)."
    assert figure[1] > 500
    assert not tab.is_visible("text=misalignment rate")
    tab.click("text=The numbers of this figure")
    assert tab.is_visible("th:has-text('misalignment rate')")


def test_prose_is_left_numbers_are_right_and_intervals_stay_on_one_line(tab):
    sides = tab.evaluate(
        "[...document.querySelectorAll('td')].map(c => [c.innerText, getComputedStyle(c).textAlign, c.scrollHeight])"
    )
    sides = {text.replace("\u00a0", " "): (side, height) for text, side, height in sides}
    assert next(side for text, (side, _) in sides.items() if text.startswith("a long text")) == "left"
    assert sides["+12 [+4, +20]"][0] == "right"
    assert sides["≠ misread"][0] == "left"
    line = tab.evaluate("document.querySelectorAll('td')[1].getClientRects()[0].height")
    assert line < 200


def test_an_explorer_answers_a_choice_and_a_text(tab):
    assert panel(tab) == "request: polish the clock · mode: think think said to polish the clock other nothing"
    assert tab.evaluate("getComputedStyle(document.querySelector('[class^=static-]')).display") == "none"
    tab.select_option(".jupyter-widgets select >> nth=0", "nick the bike")
    tab.wait_for_function("document.querySelector('.widget-html-content').innerText.includes('computing')")
    tab.wait_for_function("document.querySelector('.widget-html-content').innerText.includes('nick the bike')")
    tab.fill(".widget-text input", "mop the shed")
    tab.press(".widget-text input", "Enter")
    tab.wait_for_function("document.querySelector('.widget-html-content').innerText.includes('mop the shed')")
