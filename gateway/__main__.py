"""`python -m gateway` is the `tidegate` command."""

import sys

from gateway.cli import main

sys.exit(main())
