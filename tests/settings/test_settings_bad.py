"""Every way to get a settings file wrong that we could think of: where it says so, and what it says to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway.settings.file import load
from governance.registry.view import Known, View, encode

UP = "upstreams: {triton: {http: 127.0.0.1:8000}}\n"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = f"{{sha256: {DIGEST}, user: alice, tenant: acme}}"
ROUTE = UP + "routes:\n  credit:\n"  # line 4 is the route's first key
LOG_KEY = "bank.example/two+bf7a15da+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
COSIGNER = "bank.example/two/witness+09d3d9be+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
VARIANTS = ROUTE + "    variants: [{name: a, model: m}, {name: b, model: m}]\n"  # line 5 follows

FAIR = (
    ROUTE + "    fairness:\n      attributes:\n        - {name: sex, parameter: s, values: [F, M]}\n"
    "      decision: {output: p, at_least: 0.5}\n"
)

# (text, line, column or None, code, what the message must say)
CASES = [
    # syntax
    ("", 1, 1, "empty", "upstreams: {triton:"),
    ("# nothing\n", 1, 1, "empty", "empty"),
    (UP + "a:\n\tb: 1\n", 3, 1, "yaml", "indent with spaces"),
    (UP + "limits: {tenants: {*: {rate: 1/s}}}\n", 2, None, "yaml", '"*"'),
    (UP + "---\n" + UP, 2, 1, "yaml", "one document"),
    (UP + "listen: [\n", 2, 9, "yaml", "flow"),
    (UP + "salt: 'open\n", 2, 7, "yaml", "quoted scalar"),
    (UP + "a: b: c\n", 2, 5, "yaml", "`: `"),
    (UP + "a: *nobody\n", 2, 4, "yaml", "undefined alias"),
    (UP + "a: @x\n", 2, 4, "yaml", "quotes"),
    ("a: " + "[" * 100 + "]" * 100, 1, None, "yaml", "nested deeper"),
    (UP + "a: \x07\n", 2, 4, "yaml", "U+0007"),
    (b"upstreams: {}\na: \xff\n", 2, 4, "encoding", "0xff"),
    ("upstreams: {}\n".encode("utf-16"), 1, 1, "encoding", "UTF-8"),
    (UP + "workers: !!python/name:os.system 1\n", 2, 10, "tag", "remove it"),
    ("- a\n", 1, 1, "wrong-type", "must be a mapping"),
    ("hello\n", 1, 1, "wrong-type", "must be a mapping"),
    (UP + "x: &x [*x]\n", 2, 1, "unknown-key", "`x`"),
    # fairness
    (FAIR.replace("parameter: s", "parameter: s, header: s"), 6, None, "attribute-source", "one of `parameter`"),
    (FAIR.replace(", parameter: s", ""), 6, None, "attribute-source", "one of `parameter`"),
    (FAIR.replace("[F, M]", "[F]") + "      alert: {}\n", 8, None, "one-group", "name another value"),
    (FAIR + "      alert: {below: 1.2}\n", 8, None, "wrong-value", "1"),
    (FAIR + "      join: {}\n", 8, None, "none-joined", "`joined: true`"),
    (FAIR + "      join: {minutes: 1441}\n", 8, None, "wrong-value", "1440"),
    (FAIR + "      join: {capacity: 100}\n", 8, None, "wrong-value", "at least 1024"),
    (FAIR + "      join: {window: 1h}\n", 8, None, "unknown-key", "unknown key `window`"),
    (FAIR.replace("parameter: s", "header: 'a b'"), 6, None, "wrong-header", "cannot be a header's name"),
    (FAIR.replace("[F, M]", "[]"), 6, None, "no-values", "name the values"),
    (FAIR.replace("[F, M]", "[F, F]"), 6, None, "duplicate-name", "value `F` is on line 6 already"),
    (FAIR.replace("[F, M]", "[1, 2]"), 6, None, "wrong-type", 'write "1" in quotes'),
    (FAIR.replace("[F, M]", str([f"v{n}" for n in range(257)])), 6, None, "too-many-groups", "257 groups are more than 256"),
    (FAIR.replace(", at_least: 0.5", ""), 7, None, "decision-rule", "either `positive`"),
    (FAIR.replace("at_least: 0.5", "at_least: 0.5, positive: [a]"), 7, None, "decision-rule", "either `positive`"),
    (FAIR.replace("at_least: 0.5", "at_least: 0.5, index: -1"), 7, None, "wrong-value", "at least 0"),
    (FAIR.replace("output", "ouput"), 7, None, "unknown-key", "did you mean `output`?"),
    (FAIR.replace("        - {name: sex, parameter: s, values: [F, M]}\n", "").replace("attributes:", "attributes: []"), 5, None, "no-attributes", "remove `fairness`"),
    # keys
    (UP + "worker: 1\n", 2, 1, "unknown-key", "did you mean `workers`?"),
    (UP + "listen:\n  htpp: 127.0.0.1:1\n", 3, 3, "unknown-key", "did you mean `http`?"),
    (UP + "state-dir: x\n", 2, 1, "unknown-key", "did you mean `state_dir`?"),
    (UP + "qqq: 1\n", 2, 1, "unknown-key", "keys here: `listen`"),
    (UP + "<<: {workers: 2}\n", 2, 1, "unknown-key", "merge keys"),
    (UP + "workers: 1\nworkers: 2\n", 3, 1, "duplicate-key", "line 2"),
    (UP + "routes: {a: {}, 'a': {}}\n", 2, 17, "duplicate-key", "`a`"),
    ("workers: 1\n", 1, 1, "missing-key", "`upstreams`"),
    ("upstreams: {triton: {grpc: 127.0.0.1:1}}\n", 1, 13, "no-address", "HOST:PORT"),
    ("upstreams: {fleet: {replicas: []}}\n", 1, 13, "no-address", "HOST:PORT"),
    (ROUTE + "    variants:\n      - {name: a}\n", 5, 9, "missing-key", "`model`"),
    (UP + "routes: {1: {}}\n", 2, 10, "wrong-key", 'write "1" in quotes'),
    (UP + "routes: {[a]: {}}\n", 2, 10, "wrong-key", "one word"),
    (UP + "? {a: b}\n: 1\n", 2, 3, "wrong-key", "one word"),
    # values
    (UP + "workers: many\n", 2, 10, "wrong-type", "whole number"),
    (UP + "workers: 1.5\n", 2, 10, "wrong-type", "whole number"),
    (UP + "workers: '1'\n", 2, 10, "wrong-type", "whole number"),
    (UP + "workers: [1]\n", 2, 10, "wrong-type", "not a list"),
    (UP + "workers: 0\n", 2, 10, "wrong-value", "at least 1"),
    (UP + "workers: 257\n", 2, 10, "wrong-value", "at most 256"),
    (UP + "workers: " + "9" * 5000 + "\n", 2, 10, "wrong-type", "whole number"),
    (UP + "passthrough: yes\n", 2, 14, "wrong-type", "write true"),
    (UP + "passthrough: off\n", 2, 14, "wrong-type", "write false"),
    (UP + "passthrough: 1\n", 2, 14, "wrong-type", "true or false"),
    (UP + "log: {level: warn}\n", 2, 14, "wrong-value", "did you mean `warning`?"),
    (UP + "log: {format: xml}\n", 2, 15, "wrong-value", "`json`, `text`"),
    (UP + "listen: nowhere\n", 2, 9, "wrong-type", "mapping"),
    (UP + "routes: [a]\n", 2, 9, "wrong-type", "not a list"),
    (UP + "identity:\n", 2, 10, "missing-value", "empty"),
    (UP + "routes:\n", 2, 8, "missing-value", "leave the key out"),
    (UP + "workers:\n", 2, 9, "missing-value", "whole number"),
    (UP + "workers: null\n", 2, 10, "missing-value", "whole number"),
    (ROUTE + "    variants: {name: a}\n", 4, 15, "wrong-type", "list"),
    (ROUTE + "    variants: [{name: a, model: m, version: 1}]\n", 4, 45, "wrong-type", 'write "1" in quotes'),
    (ROUTE + "    variants: [{name: a, model: m, weight: -1}]\n", 4, 44, "wrong-value", "at least 0"),
    (ROUTE + "    variants: [{name: a, model: m, weight: .inf}]\n", 4, 44, "wrong-value", "finite"),
    (ROUTE + "    variants: [{name: a, model: m, weight: .nan}]\n", 4, 44, "wrong-value", "finite"),
    (ROUTE + f"    variants: [{{name: a, model: m, weight: {'9' * 350}}}]\n", 4, 44, "wrong-value", "finite"),
    (ROUTE + "    shadows: [{name: a, model: m, sample: 1.5}]\n", 4, 43, "wrong-value", "at most 1"),
    # forms
    (ROUTE + "    timeout: 2\n", 4, 14, "wrong-value", "write 2s"),
    (ROUTE + "    timeout: 2sec\n", 4, 14, "wrong-value", "write 2s"),
    (ROUTE + "    timeout: 2 s\n", 4, 14, "wrong-value", "write 2s"),
    (ROUTE + "    timeout: -2s\n", 4, 14, "wrong-value", "negative"),
    (ROUTE + "    timeout: 0s\n", 4, 14, "wrong-value", "more than 0"),
    (ROUTE + "    timeout: soon\n", 4, 14, "wrong-value", "250ms"),
    (ROUTE + "    timeout: [2s]\n", 4, 14, "wrong-type", "one value"),
    (UP + "limits: {backend_tls: {}}\n", 2, 10, "contradiction", "rediss://"),
    (UP + "limits: {body: 64MB}\n", 2, 16, "wrong-value", "write 64MiB"),
    (UP + "limits: {body: 1.5B}\n", 2, 16, "wrong-value", "whole number of bytes"),
    (UP + "limits: {body: 0}\n", 2, 16, "wrong-value", "at least 1"),
    (UP + "limits: {tenants: {public: {rate: 1000}}}\n", 2, 35, "wrong-value", "write 1000/s"),
    (UP + "limits: {tenants: {public: {rate: 10/min}}}\n", 2, 35, "wrong-value", "write 10/m"),
    (UP + "limits: {tenants: {public: {rate: 0/s}}}\n", 2, 35, "wrong-value", "more than 0"),
    (UP + "limits: {tenants: {public: {bytes: 10GiB}}}\n", 2, 36, "wrong-value", "write 10GiB/day"),
    (UP + "limits: {tenants: {public: {bytes: 10GB/day}}}\n", 2, 36, "wrong-value", "write 10GiB/day"),
    ("upstreams: {t: {http: 'http://127.0.0.1:8000'}}\n", 1, 23, "wrong-value", "write 127.0.0.1:8000"),
    ("upstreams: {t: {http: 8000}}\n", 1, 23, "wrong-value", "write 127.0.0.1:8000"),
    ("upstreams: {t: {http: ':8000'}}\n", 1, 23, "wrong-value", "127.0.0.1:8000"),
    ("upstreams: {t: {http: 'h:70000'}}\n", 1, 23, "wrong-value", "0 to 65535"),
    ("upstreams: {t: {http: '::1:8000'}}\n", 1, 23, "wrong-value", "write [::1]:8000"),
    ("upstreams: {t: {http: 'a b:1'}}\n", 1, 23, "wrong-value", "host name"),
    ("upstreams: {t: {http: '300.0.0.1:1'}}\n", 1, 23, "wrong-value", "IPv4"),
    ("upstreams: {t: {http: '127.0.0.1:0'}}\n", 1, 23, "wrong-port", "port 0"),
    (UP + "state_dir: ''\n", 2, 12, "wrong-value", "must not be empty"),
    (UP + 'state_dir: "a\\0b"\n', 2, 12, "wrong-value", "NUL"),
    (UP + f"state_dir: {'x' * 5000}\n", 2, 12, "not-a-folder", "cannot be used"),
    (UP + "state_dir: tidegate.yaml\n", 2, 12, "not-a-folder", "name a folder"),
    # variables
    (UP + "workers: 1\nstate_dir: x${NOT_SET}\n", 3, 13, "unset-variable", "NOT_SET is not set"),
    (UP + "state_dir: ${a-b}\n", 2, 12, "variable", "$${"),
    (UP + "state_dir: ${X\n", 2, 12, "variable", "${NAME}"),
    # names that lead nowhere
    ("upstreams: {}\n", 1, 12, "no-upstreams", "127.0.0.1:8000"),
    (VARIANTS + "    fallback: [c]\n", 5, 16, "unknown-name", "variants: `a`, `b`"),
    (VARIANTS + "    fallback: [a, a]\n", 5, 19, "duplicate-name", "line 5"),
    (VARIANTS + "    match: [{headers: {x: y}, variant: bb}]\n", 5, 40, "unknown-name", "did you mean `b`?"),
    (VARIANTS + "    match: [{headers: {}, variant: a}]\n", 5, 23, "empty-match", "every request"),
    (VARIANTS + "    match: [{headers: {x y: z}, variant: a}]\n", 5, None, "wrong-header", "`x y`"),
    (VARIANTS + "    match: [{headers: {X-A: z, x-a: z}, variant: a}]\n", 5, 32, "duplicate-name", "same header"),
    (ROUTE + "    variants: [{name: a, model: m, upstream: tritn}]\n", 4, 46, "unknown-name", "`triton`"),
    (ROUTE + "    shadows: [{name: a, model: m, upstream: x}]\n", 4, 45, "unknown-name", "`triton`"),
    (ROUTE + "    variants: [{name: a, model: m}, {name: a, model: n}]\n", 4, 44, "duplicate-name", "`a`"),
    (ROUTE + "    variants: [{name: a, model: m, weight: 0}]\n", 4, 15, "no-weight", "above 0"),
    (ROUTE + "    variants: []\n", 4, 15, "no-variants", "leave the key out"),
    (
        ROUTE + "    variants: [{name: a, model: m, weight: 1e308}, {name: b, model: m, weight: 1e308}]\n",
        4, 15, "wrong-weight", "smaller",
    ),
    (ROUTE + "    variants: [{name: '', model: m}]\n", 4, 23, "empty-name", "empty"),
    (ROUTE + "    variants: [{name: a, model: ' '}]\n", 4, 33, "empty-name", "empty"),
    (ROUTE + "    variants: [{name: ' a', model: m}]\n", 4, 23, "wrong-name", "blanks"),
    (ROUTE + "    variants: [{name: modèle, model: m}]\n", 4, 23, "wrong-name", "ASCII"),  # it travels in a header
    (UP + "routes: {'': {}}\n", 2, 10, "empty-name", "empty"),
    (ROUTE + "    assign_by: user\n", 4, 16, "wrong-value", "assign_by"),
    (ROUTE + "    assign_by: reqeust\n", 4, 16, "wrong-value", "did you mean `request`?"),
    (ROUTE + "    assign_by: 'header:'\n", 4, 16, "wrong-value", "header's name"),
    (ROUTE + "    assign_by: header:a b\n", 4, 16, "wrong-header", "`a b`"),
    (ROUTE + "    assign_by: 'parameter:'\n", 4, 16, "wrong-value", "parameter's name"),
    ("upstreams: {t: {http: 'h:1', forward_headers: [Authorization]}}\n", 1, 48, "wrong-header", "credential"),
    ("upstreams: {t: {http: 'h:1', forward_headers: ['x:y']}}\n", 1, 48, "wrong-header", "`x:y`"),
    ("upstreams: {t: {http: 'h:1', grpc: 'h:1'}}\n", 1, 36, "same-port", "8001"),
    ("upstreams: {t: {http: 'h:1', unary: grpc}}\n", 1, 37, "no-grpc", "needs `grpc`"),
    # contradictions
    (UP + "listen: {http: 0.0.0.0:8080}\n", 2, 16, "open-listen", "identity"),
    (UP + "listen: {grpc: 'gateway.example:8081'}\n", 2, 16, "open-listen", "127.0.0.1:8081"),
    (UP + "metrics: {listen: 0.0.0.0:9000}\n", 2, 19, "open-listen", "identity"),
    (UP + "listen: {http: 127.0.0.1:9, grpc: 127.0.0.1:9}\n", 2, 35, "same-port", "another port"),
    (UP + "metrics: {listen: localhost:8080}\n", 2, 19, "same-port", "another port"),
    ("upstreams: {t: {http: 127.0.0.1:8080}}\n", 1, 23, "same-port", "call itself"),
    (UP + "identity: {}\n", 2, 1, "nobody", "lets nobody in"),
    (UP + "identity: {api_keys: []}\n", 2, 1, "nobody", "tidegate keys new"),
    (UP + f"identity:\n  api_keys:\n    - {KEY}\n    - {KEY}\n", 5, 16, "duplicate-key", "line 4"),
    (UP + "identity: {api_keys: [{sha256: abc, user: a, tenant: t}]}\n", 2, 32, "wrong-value", "64 hexadecimal"),
    (UP + f"identity: {{api_keys: [{KEY.replace('alice', 'user:alice')}]}}\n", 2, None, "wrong-name", "`alice`"),
    (UP + "identity: {anonymous: {tenant: '*'}}\n", 2, 32, "wrong-name", "name a tenant"),
    (UP + "limits: {tenants: {public: {}}}\n", 2, 20, "no-limit", "limits nothing"),
    ("upstreams: {t: {http: '127.0.0.1:8000', concurrency: {min: 9, max: 8}}}\n", 1, 60, "wrong-value", "`max` (8)"),
    ("upstreams: {t: {http: '127.0.0.1:8000', concurrency: {queue: 0s}}}\n", 1, 62, "wrong-value", "more than 0"),
    ("upstreams: {t: {http: '127.0.0.1:8000', health: {interval: 0s}}}\n", 1, 60, "wrong-value", "more than 0"),
    ("upstreams: {t: {http: '127.0.0.1:8000', breaker: {open: 0s}}}\n", 1, 57, "wrong-value", "more than 0"),
    (UP + "limits: {tenants: {public: {burst: 5}}}\n", 2, 29, "no-limit", "`rate`"),
    (UP + "metrics: {enabled: false, listen: 127.0.0.1:9}\n", 2, 27, "contradiction", "metrics.enabled"),
    (UP + "metrics: {credentials: true}\n", 2, 11, "contradiction", "identity"),
    (UP + "telemetry: {traces: {endpoint: 'host:4318'}}\n", 2, 32, "wrong-value", "http://"),
    (UP + "policy: {file: nowhere.csv}\n", 2, 16, "unreadable-policy", "nowhere.csv cannot be read"),
    (UP + "policy: {file: tidegate.yaml, tests: nowhere.yaml}\n", 2, 38, "unreadable-policy", "nowhere.yaml"),
    (UP + "identity: {jwt: [{issuer: i, audience: a, jwks: 'ftp://h/k'}]}\n", 2, 49, "wrong-value", "https://"),
    (UP + "identity: {jwt: [{issuer: i, audience: a, jwks: 'https://h/k', leeway: 6m}]}\n", 2, 72, "wrong-value", "5m"),
    (UP + "identity: {mtls: {}, anonymous: {}}\n", 2, 18, "missing-key", "tenant"),
    ("upstreams: {fleet: {http: a:1, replicas: [{http: b:1}]}}\n", 1, 32, "two-addresses", "replicas"),
    ("upstreams: {fleet: {replicas: [{http: b:1}, {http: b:1}]}}\n", 1, 52, "duplicate-name", "b:1"),
    ("upstreams: {fleet: {http: 'dns://127.0.0.1:8000'}}\n", 1, 27, "wrong-value", "without dns://"),
    ("upstreams: {t: {http: 'dns://a:8000', grpc: 'dns://b:8001'}}\n", 1, 45, "wrong-address", "`dns://a:8001`"),
    ("upstreams: {t: {http: 'dns://a:8000', grpc: '10.0.0.1:8001'}}\n", 1, 45, "wrong-address", "`dns://a:8001`"),
    ("upstreams: {t: {http: '[::1]:8000', grpc: 'dns://b:8001'}}\n", 1, 43, "wrong-address", "`[::1]:8001`"),
    (ROUTE + "    monitor: {}\n", 4, 14, "missing-key", "`profile`"),
    (ROUTE + "    monitor: {profil: x}\n", 4, None, "unknown-key", "did you mean `profile`?"),
    (ROUTE + "    monitor: {profile: x, outputs: y}\n", 4, 36, "wrong-type", "must be a list"),
    (ROUTE + "    monitor: {profile: x}\n", 4, 24, "profile", "cannot be read (No such file"),
    (UP + "audit: {mode: strict, on_failure: serve}\n", 2, 35, "contradiction", "`audit.mode: strict`"),
    (UP + "audit: {mode: off, witness: {}}\n", 2, 15, "contradiction", "cosign"),
    (UP + f"audit: {{witnesses: [{{url: 'host:1', key: {COSIGNER}}}]}}\n", 2, 27, "wrong-value", "http:// or https://"),
    (UP + f"audit: {{witnesses: [{{url: 'http://a:1', key: {LOG_KEY}}}]}}\n", 2, 46, "wrong-value", "witness.vkey"),
    (UP + f"audit: {{witness: {{logs: [{COSIGNER}]}}}}\n", 2, 26, "wrong-value", "log.vkey"),
    (UP + f"audit: {{witness: {{logs: [{LOG_KEY[:-1]}A]}}}}\n", 2, 26, "wrong-value", "mistyped"),
    (UP + "audit: {retention: {policy: p, days: 183}}\n", 2, 38, "below-floor", "184 days of `ai-act-19`"),
    (UP + "audit: {retention: {policy: p, days: 999, duty: ai-act-18}}\n", 2, 38, "below-floor", "3653"),
    (UP + "audit: {retention: {policy: ' ', days: 999}}\n", 2, 29, "wrong-value", "1 to 256 bytes"),
    (UP + "audit: {retention: {days: 999}}\n", 2, 20, "missing-key", "policy"),
    (UP + "audit: {retention: {policy: p, days: 999, classes: [{name: c, days: 1, kinds: [approval]}]}}\n", 2, 69, "below-floor", "classes[0].days"),
    (UP + "audit: {retention: {policy: p, days: 999, classes: [{name: c, days: 999}]}}\n", 2, 53, "missing-key", "kinds or models"),
    (UP + "audit: {retention: {policy: p, days: 999, classes: [{name: rest, days: 999, models: [m]}]}}\n", 2, 60, "wrong-name", "all the rest"),
    (UP + "audit: {retention: {policy: p, days: 999, classes: [{name: c, days: 999, kinds: [inferenc]}]}}\n", 2, None, "wrong-value", "inference"),
    (UP + "audit: {retention: {policy: p, days: 999, duty: sox}}\n", 2, 49, "wrong-value", "ai-act-19"),
    (ROUTE + "    features: nowhere.yaml\n", 4, 15, "unreadable-plan", "nowhere.yaml"),
    (ROUTE + "    features: {plann: x}\n", 4, 16, "unknown-key", "`plan`"),
    (ROUTE + "    features: {accept: [rows]}\n", 4, 15, "missing-key", "`plan`"),
    (ROUTE + "    features: {plan: x, accept: [row]}\n", 4, 34, "wrong-value", "`rows`"),
    (UP + "audit: {mode: offf}\n", 2, 15, "wrong-value", "`off`"),
    (UP + "audit: {erasure: maybe}\n", 2, 18, "wrong-type", "true or false"),
]  # fmt: skip


def findings_of(tmp_path: Path, text: str | bytes, env: dict[str, str] | None = None):
    file = tmp_path / "tidegate.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    settings, findings = load(file, env or {})
    assert (settings is None) == any(finding.severity == "error" for finding in findings)
    assert all("Traceback" not in finding.message for finding in findings)
    return findings


@pytest.mark.parametrize(("text", "line", "column", "code", "says"), CASES)
def test_bad_input_is_an_error_with_its_place_and_remedy(tmp_path, text, line, column, code, says):
    findings = findings_of(tmp_path, text)
    errors = [one for one in findings if one.severity == "error" and one.code == code and one.line == line]
    assert errors, [str(one) for one in findings]
    assert column in (None, errors[0].column), str(errors[0])
    assert says in errors[0].message
    assert errors[0].file == str(tmp_path / "tidegate.yaml")


def test_every_error_of_a_file_is_reported_at_once(tmp_path):
    findings = findings_of(
        tmp_path, "workers: x\nlisten: {http: 1}\nupstreams: {t: {htp: 1}}\nroutes: {a: {timeout: 2}}\n"
    )
    assert [(one.line, one.code) for one in findings] == [
        (1, "wrong-type"), (2, "wrong-value"), (3, "unknown-key"), (4, "wrong-value"),
    ]  # fmt: skip


WARNINGS = [
    (ROUTE + "    assign_by: subject\n", 4, "one-unit", "identity"),
    (
        UP + f"identity: {{api_keys: [{KEY}]}}\nlimits: {{tenants: {{acmee: {{rate: 1/s}}}}}}\n",
        3, "unknown-tenant", "`acme`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "code", "says"), WARNINGS)
def test_what_is_likely_wrong_is_a_warning_and_serves(tmp_path, text, line, code, says):
    (finding,) = findings_of(tmp_path, text)
    assert (finding.severity, finding.line, finding.code) == ("warning", line, code)
    assert says in finding.message


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "nowhere.yaml", tmp_path, Path("a\0b")):
        settings, findings = load(path)
        assert settings is None
        assert [one.code for one in findings] == ["unreadable"]
    if os.geteuid() != 0:
        locked = tmp_path / "locked.yaml"
        locked.write_text(UP)
        locked.chmod(0)
        assert load(locked)[1][0].code == "unreadable"


def test_a_variable_that_may_be_a_secret_is_never_repeated(tmp_path):
    secret = "hunter2-hunter2"
    text = (
        UP
        + "workers: ${S}\nlog: {level: '${S}'}\nlimits: {body: '${S}'}\n"
        + "identity: {api_keys: [{sha256: '${S}', user: a, tenant: b}]}\n"
    )
    findings = findings_of(tmp_path, text, {"S": secret})
    assert len(findings) == 4
    assert all(secret not in str(finding) for finding in findings)


def test_a_key_pasted_in_place_of_its_digest_is_not_repeated(tmp_path):
    text = UP + "identity: {api_keys: [{sha256: tg_verysecret, user: a, tenant: b}]}\n"
    assert all("verysecret" not in str(finding) for finding in findings_of(tmp_path, text))


def test_an_alias_bomb_is_refused_in_time(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    began = time.process_time()  # the machine may be busy with others
    findings_of(tmp_path, UP + "\n".join(lines) + "\nroutes: {m: {fallback: *a11}}\n")
    wide = (
        UP
        + "x: &x ["
        + ", ".join(["a"] * 2000)
        + "]\nroutes:\n"
        + "".join(f"  r{n}: {{fallback: *x}}\n" for n in range(500))
    )
    assert any(finding.code == "too-large" for finding in findings_of(tmp_path, wide))
    assert time.process_time() - began < 20


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    assert findings_of(tmp_path, b"#" * (9 << 20))[0].code == "too-large"


def test_policy_findings_stand_in_the_policy(tmp_path):
    (tmp_path / "policy.csv").write_text(
        "p, role:a, acme, model:credit, infer, allow\np, role:a, acme, model:x, infr, allow\n"
    )
    findings = findings_of(tmp_path, UP + "policy: {file: policy.csv}\n")
    assert [(one.file, one.line, one.code) for one in findings if one.severity == "error"] == [
        (str(tmp_path / "policy.csv"), 2, "action")
    ]


def test_a_policy_that_fails_its_tests_does_not_load(tmp_path):
    (tmp_path / "policy.csv").write_text("p, user:a, acme, model:credit, infer, allow\n")
    (tmp_path / "tests.yaml").write_text(
        "tests:\n  - {name: one, request: ['user:b', acme, 'model:credit', infer], allow: true}\n"
    )
    findings = findings_of(tmp_path, UP + "policy: {file: policy.csv, tests: tests.yaml}\n")
    assert [(one.file, one.line, one.code) for one in findings if one.severity == "error"] == [
        (str(tmp_path / "tests.yaml"), 2, "test-failed")
    ]


def test_models_and_tenants_of_the_policy_that_the_settings_do_not_know_are_warnings(tmp_path):
    (tmp_path / "policy.csv").write_text(
        "p, user:alice, acme, model:credt, infer, allow\n"
        "p, user:alice, acmee, model:credit, infer, allow\n"
        "p, user:alice, acme, model:other, load, allow\n"
    )
    text = UP + f"routes: {{credit: {{}}}}\nidentity: {{api_keys: [{KEY}]}}\npolicy: {{file: policy.csv}}\n"
    findings = findings_of(tmp_path, text)
    assert [(one.line, one.code, one.severity) for one in findings] == [
        (1, "unknown-model", "warning"),
        (2, "unknown-tenant", "warning"),
    ]
    assert "did you mean `credit`?" in findings[0].message
    assert "did you mean `acme`?" in findings[1].message


def test_users_routes_and_registered_models_that_nothing_else_names_are_warnings(tmp_path):
    (tmp_path / "policy.csv").write_text(
        "p, user:alise, acme, model:cred*, infer, allow\n"
        "p, user:alice, *, route:crdit, read, allow\n"
        "p, role:owner, *, registry:incme, read, allow\n"
        "p, role:owner, *, registry:new, read, allow\n"
        "p, role:scorer, acme, model:loan*, infer, allow\n"
        "g, user:alice, role:scorer, acmee\n"
        "g, user:bob, role:owner, *\n"
    )
    text = (
        UP
        + "routes: {credit: {variants: [{name: a, model: income}]}}\n"
        + f"identity: {{api_keys: [{{sha256: {'a' * 64}, user: alice, tenant: acme}}]}}\n"
        + "policy: {file: policy.csv}\nregistry: {enforce: 'false'}\n"
    )
    (tmp_path / "state/registry").mkdir(parents=True)
    (tmp_path / "state/registry/view.json").write_bytes(encode(View((Known("new", "1", "draft"),))))

    def found(text):
        codes = [(one.line, one.code) for one in findings_of(tmp_path, text) if one.code.startswith("unknown-")]
        return [one for one in codes if one[1] != "unknown-role"]

    assert found(text) == [
        (1, "unknown-user"),
        (2, "unknown-route"),
        (3, "unknown-model"),
        (5, "unknown-model"),
        (6, "unknown-tenant"),
        (7, "unknown-user"),
    ]
    # Certificates bring users of any name, passthrough models of any name.
    mtls = text.replace("identity: {", "identity: {mtls: {tenant: acme}, ").replace(
        "routes:", "passthrough: true\nroutes:"
    )
    assert found(mtls) == [(2, "unknown-route"), (3, "unknown-model"), (6, "unknown-tenant")]
