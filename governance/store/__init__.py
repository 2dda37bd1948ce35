"""The database of the control side: SQLite in the state directory, or PostgreSQL.

    tables.py     the tables, as SQLModel classes
    database.py   opening one: engine, migrations
    steps.py      the registry's steps, written and read
    outbox.py     what webhooks have to tell, and the log of their deliveries
    reading.py    the same read without SQLModel, for workers
    tiles.py      what monitors counted, written and read without SQLModel: by workers
    plain.py      transactions for that
    migrate.py    a process that makes or migrates the database, for a gateway
    migrations/   Alembic's

Nothing is imported here: SQLModel costs a second of CPU and 30 MiB, and workers do without.
"""
