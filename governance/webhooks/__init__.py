"""Who is told of steps of the registry and of the policy: webhooks as Standard Webhooks 1.0.0 has them.

    messages.py   what is told, and to whom
    signing.py    secrets, and signatures by them
    sending.py    one POST, to an address that it may go to

Nothing here imports a database: `governance.store.outbox` keeps what has to be told.
"""
