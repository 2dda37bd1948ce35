"""Casbin model files: what is refused, where, and in which words; what cannot be refused is compared elsewhere."""

from __future__ import annotations

import warnings

import casbin
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from policy_models import KINDS

from governance.errors import PolicyError
from governance.policy import PolicySnapshot
from governance.policy.definition import builtin, define
from governance.policy.engine import Engine
from governance.policy.expression import MATCHING
from governance.policy.functions import PatternError, Unjudged, compiled
from governance.policy.model import BUILTIN_MODEL
from governance.policy.parse import parse

GOOD = """\
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act
"""


def matcher(text: str) -> str:
    return GOOD.replace("g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act", text)


# (model, line, column, code, what the message must say)
BAD = [
    ("\ufeff" + GOOD, 1, 1, "bom", "byte order mark"),
    (GOOD.replace("[policy_definition]", "[policy_definition"), 3, 1, "section", "never closed"),
    (GOOD.replace("[policy_definition]", "[policy_definitions]"), 3, 1, "unknown-section", "did you mean `policy_definition`?"),
    (GOOD.replace("[matchers]", "[Matchers]"), 9, 1, "unknown-section", "did you mean `matchers`?"),
    (GOOD + "[matchers]\n", 11, 1, "duplicate-section", "line 9"),
    (GOOD + '[constraint_definition]\nc = sod("a", "b")\n', 11, 1, "unsupported", "Go Casbin"),
    ("r = sub\n" + GOOD, 1, 1, "section", "before the first section"),
    (GOOD.replace("r = sub, obj, act\n", "r sub, obj, act\n"), 2, 1, "syntax", "no `=`"),
    (GOOD.replace("r = sub", "R = sub"), 2, 1, "unknown-key", "write `r`"),
    (GOOD.replace("r = sub", "r1 = sub"), 2, 1, "unknown-key", "`r1`"),
    (GOOD.replace("g = _, _", "h = _, _"), 6, 1, "unknown-key", "`g`"),
    (GOOD.replace("p = sub", "p = sub, x\np2 = sub"), 5, 1, "unsupported", "`p2`"),
    (GOOD + "m2 = r.sub == p.sub\n", 11, 1, "unsupported", "`m2`"),
    (GOOD + "m = r.sub == p.sub\n", 11, 1, "duplicate-key", "line 10"),
    (GOOD.replace("e = some(where (p.eft == allow))", "e ="), 8, 1, "empty", "`e`"),
    (GOOD.replace("[policy_effect]\ne = some(where (p.eft == allow))\n", ""), 1, 1, "missing", "[policy_effect]"),
    (GOOD.replace("r = sub, obj", "r = sub, sub"), 2, 10, "field", "already"),
    (GOOD.replace("r = sub, obj", "r = sub, ob-j"), 2, 10, "field", "`ob-j`"),
    (GOOD.replace("r = sub, obj, act", "r = sub, obj,"), 2, 14, "field", "nothing"),
    (GOOD.replace("r = sub, obj, act", "r = sub, obj, act # who"), 2, 15, "field", "`act # who`"),
    (GOOD.replace("g = _, _", "g = _, _, (_, _)"), 6, 11, "unsupported", "conditional roles"),
    (GOOD.replace("g = _, _", "g = _"), 6, 5, "role", "_, _"),
    (GOOD.replace("g = _, _", "g = _, _, _, _"), 6, 5, "role", "by domain"),
    (GOOD.replace("g = _, _", "g = user, role"), 6, 5, "role", "_, _"),
    (GOOD.replace("g = _, _", "g = _, _\ng3 = _, _"), 7, 6, "role", "without `g2`"),
    (GOOD.replace("e = some(where (p.eft == allow))", "e = some(where(p.eft == allow))"), 8, 5, "effect", "did you mean"),
    (GOOD.replace("e = some(where (p.eft == allow))", "e = max(p.eft)"), 8, 5, "effect", "unknown effect"),
    (GOOD.replace("[role_definition]\ng = _, _\n", "").replace("e = some(where (p.eft == allow))", "e = subjectPriority(p.eft) || deny").replace("g(r.sub, p.sub)", "r.sub == p.sub"), 6, 5, "effect", "role_definition"),
    (GOOD.replace("m = g", "m = g\u200b"), 10, 6, "character", "U+200B"),
    (GOOD.replace("r = sub, obj, act", "r = sub, \\\n# note\nobj"), 3, 1, "continued", "go on here"),
    (GOOD.removesuffix("\n") + " \\", 10, 1, "continued", "last line"),
    # matchers
    (matcher("eval(p.sub)"), 10, 5, "unsupported", "`eval`"),
    (matcher('r.sub == p.sub && timeMatch(p.obj, "_")'), 10, 23, "unsupported", "`timeMatch`"),
    (matcher("r.sub.Age == p.sub"), 10, 5, "unsupported", "attribute"),
    (matcher("r2.sub == p.sub"), 10, 5, "unsupported", "`r2.sub`"),
    (matcher("keyMatchMine(r.sub, p.sub)"), 10, 5, "unsupported", "did you mean `keyMatch`?"),
    (matcher("__import__('os')"), 10, 5, "unsupported", "unknown function"),
    (matcher("keyMatch2(p.obj, r.obj)"), 10, 5, "unsupported", "from the request"),
    (matcher("g2(r.sub, p.sub)"), 10, 5, "matcher", "add `g2 = _, _`"),
    (matcher("g(r.sub, p.sub, r.obj)"), 10, 5, "matcher", "takes 2 arguments"),
    (matcher("keyMatch(r.sub)"), 10, 5, "matcher", "a text and a pattern"),
    (matcher("r.sub == p.subject"), 10, 14, "matcher", "did you mean `p.sub`?"),
    (matcher("r.sub"), 10, 5, "matcher", "no condition"),
    (matcher("r.sub && r.obj == p.obj"), 10, 5, "matcher", "no condition"),
    (matcher("g(r.sub, p.sub) == True"), 10, 21, "matcher", "join conditions"),
    (matcher("r.sub == 1"), 10, 14, "matcher", "number"),
    (matcher("r.sub == p.sub == r.obj"), 10, 20, "matcher", "chain"),
    (matcher("r.sub == p.sub&&r.obj == p.obj"), 10, 19, "matcher", "blanks around `&&`"),
    (matcher("r.sub == p.sub & r.obj == p.obj"), 10, 20, "matcher", "`&`"),
    (matcher("r.sub = p.sub"), 10, 11, "matcher", "`=`"),
    (matcher("r.sub == p.sub + p.obj"), 10, 20, "matcher", "`+`"),
    (matcher('r.sub == "a!b"'), 10, 16, "matcher", "Casbin would change `!`"),
    (matcher('r.sub == "p.x"'), 10, 15, "matcher", "Casbin would change `p.`"),
    (matcher('r.sub == "a\\nb"'), 10, 16, "matcher", "Casbin would change"),
    (matcher('r.sub == "a#b"'), 10, 14, "matcher", "never closed"),
    (matcher('r.sub == "a'), 10, 14, "matcher", "never closed"),
    (matcher("(r.sub == p.sub"), 10, 20, "matcher", "`)` is expected"),
    (matcher("r.sub == p.sub ||"), 10, 22, "matcher", "expected"),
    (matcher("true && r.sub == p.sub"), 10, 5, "matcher", "write `True`"),
    (matcher("lambda: 1"), 10, 11, "matcher", "`:`"),
    (matcher('regexMatch(r.sub, "(")'), 10, 5, "pattern", "no pattern"),
    (matcher('keyMatch4(r.sub, "/(a)/{b}")'), 10, 5, "pattern", "round brackets"),
    (matcher("(" * 60 + "r.sub == p.sub" + ")" * 60), 10, 55, "matcher", "50 deep"),
    (matcher("r.sub == p.sub && \\\n  r.obj == p.object"), 11, 12, "matcher", "did you mean `p.obj`?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "code", "says"), BAD)
def test_a_model_is_refused_where_it_is_wrong(text, line, column, code, says):
    definition, findings = define(text.encode(), "model.conf")
    assert definition is None
    (first, *_) = findings
    assert (first.line, first.column, first.code) == (line, column, code), str(first)
    assert says in first.message
    assert first.file == "model.conf"
    with pytest.raises(PolicyError):
        PolicySnapshot.compile("", "p", model=(text.encode(), "model.conf"))


def test_what_may_stand_in_a_model():
    text = "# a note\r\n; another\n" + GOOD.replace("\n", "\r\n").replace(
        "m = g(r.sub, p.sub) && ", "m = g(r.sub, p.sub) && \\\r\n   "
    )
    definition, findings = define(text.encode(), "m")
    assert findings == []
    assert definition is not None
    assert definition.request == ("sub", "obj", "act")
    assert definition.roles == (("g", 2),)
    assert definition.effect_at == 3
    plain, _ = define(GOOD.encode(), "m")
    assert plain is not None
    assert definition.matcher == plain.matcher


def test_the_built_in_model_is_read_like_any_other():
    assert define(BUILTIN_MODEL.encode(), "built-in model")[0] == builtin()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_one_that_pycasbin_loads(name):
    model = casbin.Model()
    model.load_model_from_text(KINDS[name].text)
    assert model["m"]["m"].value


@pytest.mark.parametrize(
    ("model", "line", "code"),
    [
        (GOOD, "p, a, b, c, d, allow", "arity"),
        (GOOD, "p, a, b, c, Allow", "effect"),
        (GOOD, "g, a", "arity"),
        (GOOD, "g, a, b, c", "arity"),
        (GOOD, "g2, a, b", "unknown-line"),
        (GOOD.replace("eft\n", "priority\n"), "p, a, b, c, high", "priority"),
        (GOOD.replace("eft\n", "priority\n"), "p, a, b, c, -1", "priority"),
    ],
)
def test_a_policy_is_judged_by_its_model(model, line, code):
    definition, _ = define(model.encode(), "m")
    policy = parse(f"# first\n{line}\n", "p", definition)
    assert [(one.line, one.code) for one in policy.findings] == [(2, code)]


def test_a_pattern_that_can_never_be_judged_refuses_the_policy():
    model = matcher("regexMatch(r.obj, p.obj)").encode()
    with pytest.raises(PolicyError) as caught:
        PolicySnapshot.compile("p, a, x, c, allow\np, a, *b, c, allow\n", "p", model=(model, "m"))
    assert [(one.line, one.column, one.code) for one in caught.value.findings] == [(2, 7, "pattern")]


def test_a_circle_under_subject_priority_refuses_the_policy():
    model = GOOD.replace("some(where (p.eft == allow))", "subjectPriority(p.eft) || deny").encode()
    definition, _ = define(model, "m")
    with pytest.raises(PolicyError, match="needs an order"):
        Engine(parse("p, a, x, c, allow\ng, a, b\ng, b, a\n", "p", definition))


_TEXTS = st.text("ab/:{}.*?\n(|)[]1", max_size=10)


@given(st.sampled_from(MATCHING[:6]), _TEXTS, _TEXTS)
@example("keyMatch2", "/a\n", "/:x")
@example("keyMatch4", "/a/b/a", "/{x}/b/{x}")
@example("regexMatch", "GETX", "GET")
def test_functions_are_casbins(function, key, pattern):
    theirs = getattr(casbin.util, function.replace("Match", "_match").lower())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            expected = theirs(key, pattern)
    except Exception:  # noqa: BLE001 - whatever it raises
        with pytest.raises(PatternError):
            compiled(function, pattern)
        return
    try:
        assert compiled(function, pattern)(key) is bool(expected)
    except PatternError:
        assert function == "keyMatch4"
        assert "(" in pattern


@given(st.text("ab/*{},!?[]-.", max_size=8), st.text("ab/*{},!?[]-.", max_size=8))
@example("/a", "/a/**")
@example("/x/1", "*/1")
def test_glob_match_is_casbins(key, pattern):
    assert compiled("globMatch", pattern)(key) is bool(casbin.util.glob_match(key, pattern))


@given(
    st.one_of(st.ip_addresses().map(str), st.text("0123456789.:", max_size=9)),
    st.one_of(st.ip_addresses().map(str), st.sampled_from(["10.0.0.0/8", "10.0.0.1/8", "::/0", "x", "1.2.3.4/33"])),
)
def test_ip_match_is_casbins(key, pattern):
    try:
        expected = casbin.util.ip_match(key, pattern)
    except ValueError:
        with pytest.raises(Unjudged):
            compiled("ipMatch", pattern)(key)
    else:
        assert compiled("ipMatch", pattern)(key) is expected


@given(st.binary(max_size=60), st.integers(0, 300))
def test_broken_bytes_are_findings_and_nothing_else(noise, at):
    data = GOOD.encode()
    definition, findings = define(data[:at] + noise + data[at + len(noise) :], "m")
    assert (definition is None) == bool(findings)
    for one in findings:
        assert one.line >= 1
        assert one.column >= 1
        assert one.message


@given(st.text("rpg.subobjact_ ()[]\"'!=&|<>,in not and or", max_size=60))
def test_no_matcher_is_more_than_refused(text):
    definition, findings = define(matcher("r.sub == p.sub && " + text).encode(), "m")
    assert (definition is None) == bool(findings)
