"""Casbin models of every accepted kind, each with words that make rules and requests meet often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

ALLOW = "some(where (p.eft == allow))"
NOT_DENY = "!some(where (p.eft == deny))"
BOTH = f"{ALLOW} && {NOT_DENY}"
PRIORITY = "priority(p.eft) || deny"
SUBJECT = "subjectPriority(p.eft) || deny"

SUBS = ["ann", "bob", "cleo", "staff", "boss", "root", "*"]
DOMS = ["north", "south", "*"]
OBJS = ["data1", "data2", "group", "/a/1", "/a/1/b/2", "*", "b"]
ACTS = ["read", "write", "own", "GET"]
PATHS = ["/a/*", "/a/:id", "/a/{id}", "/a/{id}/b/{id}", "/a/1", "/a/*/b", "*", "/*", "a.c", "/a/1?x=1", "/a/**", "*/1"]
URLS = ["/a/1", "/a/2", "/a/1/b/1", "/a/1/b/2", "/a/1/b", "/a", "/", "abc", "/a/1?x=1", "a.c", "/a/1\n", ""]
REGEXES = ["read|write", "^r.*", "GET", "(own|GET)$", ".*", "[a-z]+", "w"]
ADDRESSES = ["10.0.0.1", "10.0.1.7", "192.168.2.123", "::1", "fe80::1"]
NETWORKS = ["10.0.0.0/24", "10.0.0.1", "192.168.2.0/23", "::1/128", "nonsense", "0.0.0.0/0"]


@dataclass(frozen=True)
class Kind:
    """A model and its vocabulary: the values that each field of rules and requests takes."""

    r: str
    p: str
    m: str
    e: str = ALLOW
    g: tuple[str, ...] = ()
    rules: dict[str, list[str]] = field(default_factory=dict)
    requests: dict[str, list[str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        roles = "".join(f"{name} = {'_, ' * (arity - 1)}_\n" for name, arity in self.arities)
        section = f"[role_definition]\n{roles}" if roles else ""
        return (
            f"[request_definition]\nr = {self.r}\n[policy_definition]\np = {self.p}\n{section}"
            f"[policy_effect]\ne = {self.e}\n[matchers]\nm = {self.m}\n"
        )

    @property
    def arities(self) -> list[tuple[str, int]]:
        return [(one.partition("/")[0], int(one.partition("/")[2])) for one in self.g]

    def policy(self, rng: random.Random, most: int = 14) -> str:
        words = {"eft": ["allow", "allow", "deny"], "priority": ["1", "2", "10", "02"], **_words(), **self.rules}
        lines = []
        for _ in range(rng.randrange(most)):
            if self.g and rng.random() < 0.45:
                name, arity = rng.choice(self.arities)
                ends = words[f"{name}:members"] if f"{name}:members" in words else words["sub"]
                line = [name, rng.choice(ends), rng.choice(ends), *([rng.choice(words["dom"])] if arity == 3 else [])]
            else:
                line = ["p", *(rng.choice(words[one.strip()]) for one in self.p.split(","))]
            lines.append(", ".join(line))
        return "".join(line + "\n" for line in lines)

    def request(self, rng: random.Random) -> list[str]:
        words = {**_words(), **self.requests}
        return [rng.choice(words[one.strip()]) for one in self.r.split(",")]


def _words() -> dict[str, list[str]]:
    return {"sub": SUBS, "dom": DOMS, "obj": OBJS, "act": ACTS, "role": SUBS}


_PATHS = {"rules": {"obj": PATHS, "act": REGEXES}, "requests": {"obj": URLS}}
# What begins with "*" or holds "**" is no regular expression, which most of the functions make of it.
_REGEX = {**_PATHS, "rules": {"obj": [one for one in PATHS if one[0] != "*" and "**" not in one], "act": REGEXES}}
_STAR = {**_REGEX, "rules": {**_REGEX["rules"], "obj": [*_REGEX["rules"]["obj"], "*"]}}
_RBAC = "g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act"
_DOM = "g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act"

KINDS: dict[str, Kind] = {
    "acl": Kind("sub, obj, act", "sub, obj, act", "r.sub == p.sub && r.obj == p.obj && r.act == p.act"),
    "acl without blanks": Kind("sub,obj,act", "sub,obj,act", "r.sub==p.sub && r.obj==p.obj && r.act==p.act"),
    "superuser": Kind(
        "sub, obj, act", "sub, obj, act", 'r.sub == p.sub && r.obj == p.obj && r.act == p.act || r.sub == "root"'
    ),
    "no objects": Kind("sub, act", "sub, act", "r.sub == p.sub && r.act == p.act"),
    "no users": Kind("obj, act", "obj, act, eft", "r.obj == p.obj && r.act == p.act", e=NOT_DENY),
    "rbac": Kind("sub, obj, act", "sub, obj, act", _RBAC, g=("g/2",)),
    "rbac with deny": Kind("sub, obj, act", "sub, obj, act, eft", _RBAC, e=BOTH, g=("g/2",)),
    "rbac not deny": Kind("sub, obj, act", "sub, obj, act, eft", _RBAC, e="!some(where (p_eft == deny))", g=("g/2",)),
    "rbac allow, effect in front": Kind("sub, obj, act", "eft, sub, obj, act", _RBAC, g=("g/2",)),
    "resource roles": Kind(
        "sub, obj, act",
        "sub, obj, act",
        "g(r.sub, p.sub) && g2(r.obj, p.obj) && r.act == p.act",
        g=("g/2", "g2/2"),
        rules={"g2:members": OBJS},
    ),
    "roles of actions": Kind(
        "sub, obj, act",
        "sub, obj, role",
        "g2(r.act, p.role) && (g(r.sub, p.sub) || p.sub=='*') && keyMatch(r.obj, p.obj)",
        g=("g/2", "g2/2"),
        rules={"g2:members": ["read", "write", "own"], "role": ["read", "own", "write"], "obj": PATHS},
        requests={"obj": URLS},
    ),
    "domains": Kind("sub, dom, obj, act", "sub, dom, obj, act", _DOM, g=("g/3",)),
    "domains of rules": Kind(
        "sub, dom, obj, act",
        "sub, dom, obj, act, eft",
        "g(r.sub, p.sub, p.dom) && r.obj == p.obj && r.act == p.act",
        e=BOTH,
        g=("g/3",),
    ),
    "domains without a rule's": Kind(
        "sub, dom, obj, act", "sub, obj, act", "g(r.sub, p.sub, r.dom) && r.obj == p.obj && r.act == p.act", g=("g/3",)
    ),
    "objects with roles by domain": Kind(
        "sub, dom, obj, act",
        "sub, dom, obj, act",
        "r.sub == p.sub && g(r.obj, p.obj, r.dom) && r.dom == p.dom && r.act == p.act",
        g=("g/3",),
        rules={"g:members": OBJS},
    ),
    "built-in": Kind(
        "sub, dom, obj, act",
        "sub, dom, obj, act, eft",
        'g(r.sub, p.sub, r.dom) && (r.dom == p.dom || p.dom == "*") && keyMatch(r.obj, p.obj)'
        ' && (r.act == p.act || p.act == "*")',
        e=BOTH,
        g=("g/3",),
        rules={"obj": [*OBJS, "/a*", "da*"], "act": [*ACTS, "*"]},
    ),
    "priority in file order": Kind("sub, obj, act", "sub, obj, act, eft", _RBAC, e=PRIORITY, g=("g/2",)),
    "priority": Kind("sub, obj, act", "priority, sub, obj, act, eft", _RBAC, e=PRIORITY, g=("g/2",)),
    "priority behind": Kind("sub, obj, act", "sub, obj, act, eft, priority", _RBAC, e=BOTH, g=("g/2",)),
    "subject priority": Kind("sub, obj, act", "sub, obj, act, eft", _RBAC, e=SUBJECT, g=("g/2",)),
    "subject priority by domain": Kind(
        "sub, obj, dom, act", "sub, obj, dom, act, eft", _DOM, e=SUBJECT, g=("g/3",), rules={"dom": DOMS[:2]}
    ),
    "keyMatch": Kind("sub, obj, act", "sub, obj, act", "r.sub == p.sub && keyMatch(r.obj, p.obj) && regexMatch(r.act, p.act)", **_PATHS),
    "keyMatch2": Kind("sub, obj, act", "sub, obj, act", "g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) && regexMatch(r.act, p.act)", g=("g/2",), **_STAR),
    "keyMatch3": Kind("sub, obj, act", "sub, obj, act", "keyMatch3(r.obj, p.obj) && regexMatch(r.act, p.act)", **_REGEX),
    "keyMatch4": Kind("sub, obj, act", "sub, obj, act, eft", "keyMatch4(r.obj, p.obj)", e=BOTH, **_REGEX),
    "keyMatch5": Kind("sub, obj, act", "sub, obj, act", "keyMatch5(r.obj, p.obj) || p.obj == r.obj", **_REGEX),
    "globMatch": Kind("sub, obj, act", "sub, obj, act", "r.sub == p.sub && globMatch(r.obj, p.obj)", **_PATHS),
    "ipMatch": Kind(
        "sub, obj, act",
        "sub, obj, act, eft",
        "ipMatch(r.sub, p.sub) && r.obj == p.obj && r.act == p.act",
        e=BOTH,
        rules={"sub": NETWORKS},
        requests={"sub": [*ADDRESSES, "no address"]},
    ),
    "ipMatch last": Kind(
        "sub, obj, act",
        "sub, obj, act",
        "r.act == p.act && (r.obj == p.obj || ipMatch(r.sub, p.sub))",
        rules={"sub": NETWORKS},
        requests={"sub": [*ADDRESSES, "no address"]},
    ),
    "in a list": Kind(
        "sub, obj, act", "sub, obj, act", _RBAC + " || r.obj in ['data2', 'data3']", g=("g/2",)
    ),
    "words and brackets": Kind(
        "sub, obj, act",
        "sub, obj, act, eft",
        "(r.sub == p.sub or p.sub in ('*', 'staff')) and not (r.obj != p.obj and p.obj != '*') and r.act in [p.act, \"own\"]",
        e=BOTH,
    ),
    "negation binds loosely": Kind("sub, obj, act", "sub, obj, act", "!r.sub == p.sub && !(r.obj == p.obj) && r.act == p.act"),
    "parts and order of text": Kind("sub, obj, act", "sub, obj, act", "p.sub in r.sub && r.obj <= p.obj && r.act not in p.act"),
    "guarded": Kind(
        "sub, dom, obj, act",
        "sub, obj, act, eft",
        'r.dom == "north" && (g(r.sub, p.sub) || r.sub == p.obj) && (r.act == p.act || r.obj == p.obj)',
        e=BOTH,
        g=("g/2",),
    ),
    "constant": Kind("sub, obj, act", "sub, obj, act, eft", "True && r.act == p.act", e=NOT_DENY),
    "reversed roles": Kind("sub, obj, act", "sub, obj, act", "g(p.sub, r.sub) && keyMatch(p.obj, r.obj)", g=("g/2",)),
}  # fmt: skip
