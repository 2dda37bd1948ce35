"""Logs whose first records are old enough to go."""

import time

from audit_fixture import a_log, a_record

from governance.audit.layout import Layout
from governance.audit.people import Named
from governance.audit.prune import prune
from governance.audit.record import encode, timestamp
from governance.audit.retention import REST, Class, Retention
from governance.audit.secrets import secret_key

DAY_NS = 86_400 * 10**9
POLICY = "records schedule 7"
RETENTION = Retention(POLICY, Class(REST, 184, "ai-act-19"))


def aged(number, days, **more):
    """An entry of so many days ago."""
    return encode(a_record(number, time=timestamp(time.time_ns() - days * DAY_NS), **more), lambda raw: raw.hex()[:64])


def an_old_log(state_dir, old=600, new=300, steps=2):
    """A log of records of 400 days ago, and of yesterday."""
    return a_log(state_dir, [aged(n, 400) for n in range(old)] + [aged(n, 1) for n in range(old, old + new)], steps)


def pruned(state_dir, retention=RETENTION, people=None, **options):
    """The log with what may go gone."""
    people = people or Named(secret_key(Layout(state_dir).digest_key))
    return prune(state_dir, retention, people, **{"do": True, **options})
