"""The demo deployment that the documentation talks about, once for all pages."""

from __future__ import annotations

import demo_deployment
import pytest


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory):
    """`make serve`, running; pages leave its settings as they found them."""
    running = demo_deployment.start(tmp_path_factory.mktemp("demo"))
    try:
        yield running
    finally:
        demo_deployment.stop(running)
