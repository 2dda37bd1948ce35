"""What may happen, what happened, and whether it was right: runs without a web server.

`documents` reads files that people write, `policy` decides, `audit` records; `types`, `ports` and `errors` are what
crosses the border to the gateway.
"""
