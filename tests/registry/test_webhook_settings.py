"""The `webhooks` section: what is refused, where, and without repeating what may be a secret."""

from __future__ import annotations

import pytest

from gateway.settings.file import load

HEAD = "upstreams: {triton: {http: 127.0.0.1:8000}}\nwebhooks:\n  private_hosts: [inside]\n  endpoints:\n"
GOOD = "url: https://a.example/x, secret_env: PAGER"


def settings(tmp_path, text: str):
    (tmp_path / "tidegate.yaml").write_text(HEAD + text)
    return load(tmp_path / "tidegate.yaml")


def test_a_section_that_holds(tmp_path):
    found, findings = settings(
        tmp_path, f"    a: {{{GOOD}}}\n    b: {{url: 'http://inside:9/', secret_file: b, events: [registry.*]}}\n"
    )
    assert findings == []
    assert found.webhooks.endpoints["a"].events == ("*",)
    assert found.webhooks.endpoints["b"].secret_file == tmp_path / "b"


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("secret_env: PAGER", "url"),
        ("url: http://a.example/, secret_env: PAGER", "needs https://"),
        ("url: https://u:p@a.example/, secret_env: PAGER", "user or a fragment"),
        ("url: https://a.example/", "needs `secret_file` or `secret_env`"),
        (f"{GOOD}, secret_file: x", "and not both"),
        ("url: https://a.example/, secret_env: whsec_c2VjcmV0c2VjcmV0=", "name of an environment variable"),
        ("url: https://a.example/, secret: whsec_c2VjcmV0c2VjcmV0=", "unknown key `secret`"),
        (f"{GOOD}, events: []", "empty list"),
        (f"{GOOD}, events: [registry.promote]", "did you mean `registry.promoted`"),
        (f"{GOOD}, events: [webhook.test]", "unknown event"),
        (f"{GOOD}, method: PUT", "unknown key `method`"),
    ],
)
def test_endpoints_that_are_refused(tmp_path, endpoint, says):
    found, findings = settings(
        tmp_path, f"    inside: {{url: 'https://inside/', secret_env: A}}\n    a: {{{endpoint}}}\n"
    )
    assert found is None
    assert {finding.line for finding in findings} == {6}
    said = "; ".join(finding.message for finding in findings)
    assert says in said
    assert "c2VjcmV0" not in said


def test_a_listed_host_that_nobody_is_at_is_a_warning(tmp_path):
    found, findings = settings(tmp_path, f"    a: {{{GOOD}}}\n")
    assert found is not None
    assert [(finding.severity, finding.line) for finding in findings] == [("warning", 3)]
    assert "no endpoint is at `inside`" in findings[0].message
