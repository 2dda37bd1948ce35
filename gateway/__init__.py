"""The gateway: protocols, sockets, routing, upstreams, wiring.

The files in the order in which a request meets them: 1 `doors/`, 2 `wire/`, 3 `identity.py`,
4 `governance.policy`, 5 `admission.py`, 6 `routing/`, 7 `wire/validate.py`, 8 `upstream/`, 9 `observe.py`,
11 `wire/`. `pipeline.py` is the request as one function, `app.py` the wiring.
"""
