"""The settings and the file of requirements: what is refused, where, and without a password; and what `view` gives."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.approvals import Approvals, load_approvals, pulse, view_file
from gateway.errors import Forbidden
from gateway.routing import RouteTable
from gateway.settings.file import load
from governance.registry.requirements import parse
from governance.registry.view import Known, View, decode, encode

HEAD = "upstreams: {triton: {http: 127.0.0.1:9}}\n"
CLASS = "schema_version: tidegate.requirements/1\nclasses:\n  high:\n    approvals: [{role: role:v}]\n"


def settings(tmp_path, text: str):
    (tmp_path / "tidegate.yaml").write_text(HEAD + text)
    return load(tmp_path / "tidegate.yaml")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("store: {url: mysql://a:s3cret@b/c}", 2, "no postgresql:// URL"),
        ("store: {url: 'postgresql://a:s3cret@b'}", 2, "names no database"),
        ("store: {url: 'postgresql://a:s3cret@b/c d'}", 2, "names no database"),
        ("registry: {enforce: maybe}", 2, "`true`"),
        ("registry: {enforced: true}", 2, "did you mean `enforce`"),
        ("registry: {requirements: none.yaml}", 2, "cannot be read"),
    ],
)
def test_settings_that_are_refused(tmp_path, text, line, says):
    found, findings = settings(tmp_path, text)
    assert found is None
    assert (findings[0].line, "s3cret" in str(findings[0])) == (line, False)
    assert says in findings[0].message


def test_a_url_is_never_shown(tmp_path):
    found, findings = settings(tmp_path, "store: {url: 'postgresql://a:s3cret@b/c?sslmode=verify-full'}")
    assert findings == []
    assert "s3cret" not in repr(found)


def test_the_requirements_are_judged_at_their_own_lines(tmp_path):
    (tmp_path / "r.yaml").write_text(CLASS + "    metrics: [{type: auc}]\n")
    found, findings = settings(tmp_path, "registry: {requirements: r.yaml}")
    assert found is None
    assert (findings[0].file, findings[0].line) == (str(tmp_path / "r.yaml"), 5)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("    metrics: [{type: auc}]\n", "bounds nothing"),
        ("    metrics: [{type: auc, min: 1, max: 0}]\n", "nothing could hold"),
        ("    metrics: [{type: auc, least: 1}]\n", "unknown key `least`"),
        ("    fairness: [{measure: ratio, metric: equal_opportunity, min: 1}]\n", "use `difference`"),
        ("    valid_days: 0\n", "at least 1"),
        ("    scan: {fails_on: all}\n", "cannot be that"),
        ("    lineage: {min_datasets: 0}\n", "at least 1"),
        ("    lineage: {datasets: 2}\n", "unknown key `datasets`"),
        ("  highest:\n    approvals: []\n", "no rating of model cards"),
        ("  low:\n    approvals: [{role: role:a}, {role: role:a}]\n", "listed twice"),
        ("  low:\n    approvals: [{role: bob}]\n", "must be text like"),
        ("  low: {}\n", "approvals"),
    ],
)
def test_requirements_that_are_refused(more, says):
    found, findings = parse((CLASS + more).encode(), "r.yaml")
    assert found is None
    assert any(says in finding.message for finding in findings), findings
    assert all(finding.line > 4 for finding in findings)


@given(st.binary(max_size=200))
def test_requirements_of_any_bytes_are_read_or_refused(data):
    found, findings = parse(data, "r.yaml")
    assert (found is None) == bool(findings)


def known(version: str, state: str, **more) -> Known:
    return Known("m", version, state, **more)


ROUTES = """\
registry: {enforce: true}
routes:
  fixed: {variants: [{name: a, model: m, version: "1"}]}
  open: {variants: [{name: a, model: m}]}
  both:
    variants: [{name: a, model: m, version: "1", weight: 1}, {name: b, model: m, version: "9", weight: 0}]
    fallback: [b]
"""


def test_what_the_registry_says_is_compiled_into_the_routes(tmp_path):
    found, _ = settings(tmp_path, ROUTES)
    now = dt.datetime.now(dt.UTC).timestamp()
    view = View(
        (
            known("1", "live", promoted=1.0),
            known("2", "live", promoted=2.0),
            known("3", "approved", expires=now - 1),
            known("4", "deprecated", deprecated=1688169599.0, sunset=1719791999.0),
            known("5", "in review"),
        )
    )
    assert decode(encode(view)) == view
    approvals = Approvals(view, "true")
    table = RouteTable.compile(found, approvals=approvals)
    assert table.routes["open"].variants[0].version == "2"  # promoted last
    assert table.routes["open"].any_version
    assert table.routes["open"].versions() is None  # the model server knows
    assert table.routes["both"]._fallback == ()
    assert table.lookup("nobody") is None
    for version, why in (("1", ""), ("3", "its approval has ended"), ("5", "it is in review"), ("6", "not registered")):
        assert why in approvals.why_not("m", version)
        assert bool(why) == bool(approvals.why_not("m", version))
    # The examples of RFC 9745, section 2, and RFC 8594, section 3.
    assert approvals.notices("m", "4") == (("deprecation", "@1688169599"), ("sunset", "Sun, 30 Jun 2024 23:59:59 GMT"))
    approvals.admit(table.routes["open"], "")
    with pytest.raises(Forbidden, match="'open' to serve: it is in review"):
        approvals.admit(table.routes["open"], "5")
    plain = RouteTable.compile(found, approvals=Approvals(view, "warn"))
    assert plain.routes["open"].variants[0].version == ""
    assert [one.name for one in plain.routes["both"]._fallback] == ["b"]
    Approvals(View(), "warn").admit(plain.routes["open"], "5")


def test_the_file_of_the_view(tmp_path):
    off, _ = settings(tmp_path, "registry: {enforce: false}\n")
    assert load_approvals(off) is None
    assert pulse(off) == ()
    found, _ = settings(tmp_path, ROUTES)
    assert load_approvals(found).view == View()
    path = view_file(found.state_dir)
    path.parent.mkdir(parents=True)
    before = pulse(found)
    path.write_bytes(encode(View((known("1", "live"),))))
    assert load_approvals(found).live("m") == "1"
    assert pulse(found) != before
    path.write_bytes(b"{")
    with pytest.raises(ValueError, match="damaged"):
        load_approvals(found)
