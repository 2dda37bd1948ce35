"""Which model versions may serve, who agreed to that, and on what evidence.

    events.py        one step in the life of a version, as it is stored
    machine.py       what steps amount to, and which step may follow; pure
    digests.py       what a version is bound to: digests of its files, card and evidence
    requirements.py  what a risk class asks for, as YAML
    gates.py         whether evidence meets it
    view.py          what the data plane needs to know of all that
    bound.py         what it is bound to, as it lies in the files now
    trail.py         the record of a step in the audit log
    desk.py          one step, from the wish to the store and the audit log

Nothing here imports a database: `governance.store` keeps the steps.
"""
