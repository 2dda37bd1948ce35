"""Makes or migrates the database and ends: run by gateways, whose processes do without SQLAlchemy.

Standard input is `{"url", "state_dir"}`; what is wrong is one line of standard error, and status 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from governance.errors import StoreError
from governance.store.database import open_database

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    try:
        open_database(asked["url"], Path(asked["state_dir"])).dispose()
    except StoreError as error:
        sys.exit(f"{error}")
