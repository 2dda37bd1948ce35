"""What the pages tell a reader to type works, and prints what they show."""

from __future__ import annotations

import pytest
from doc_blocks import CHECKOUT, PAGES, blocks, differs

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
