"""What the pages tell a reader to type works, and prints what they show."""

from __future__ import annotations

import subprocess

import pytest
from doc_blocks import CHECKOUT, PAGES, blocks, differs
from venv_fixture import environment

RUNNABLE = [page for page in PAGES if any(block.mark == "run" for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_commands_of_a_page(demo, page):
    try:
        results = demo.run_page(page)
        wrong = []
        for block, printed in results:
            if block.prints is not None:
                found = differs(block.prints.text, printed, numbers=block.prints.option == "numbers vary")
                if found:
                    wrong.append(f"{block.prints.place}: {found}")
        assert not wrong, "\n\n".join(wrong)
    finally:
        demo.restore()


def test_what_make_serve_prints(demo):
    readme = next(block for block in blocks(CHECKOUT / "README.md") if "==> starting Triton" in block.text)
    shown = readme.text[readme.text.index("==> starting Triton") :]
    started = demo.there(demo.log.read_text())
    started = started[started.index("==> starting Triton") :]
    at = started.index("Ctrl-C stops both")
    assert not differs(shown, started[: started.index("\n", started.index("try:", at))])


@pytest.mark.slow
def test_the_kserve_client(demo):
    found = [block for page in PAGES for block in blocks(page) if block.option == "kserve"]
    assert found
    for block in found:
        python = environment("kserve") / "python"
        command = [python, "-c", demo.here(block.text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
        assert block.prints is None or not differs(block.prints.text, done.stdout)
