"""Alembic's scripts. `database.py` runs them; `alembic` on the command line is not needed."""
