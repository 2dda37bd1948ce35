"""What a settings file may say, and that it is read as it is meant."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from gateway.errors import SettingsError
from gateway.settings import Anonymous, Settings
from gateway.settings.file import load, load_or_raise

LEAST = "upstreams: {triton: {http: 127.0.0.1:8000}}\n"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

WHOLE = f"""\
listen:
  http: 127.0.0.1:8080
  grpc: 127.0.0.1:8081
state_dir: state
workers: 2
upstreams:
  triton: {{http: 127.0.0.1:8000, grpc: "[::1]:8001"}}
  other: {{http: model-server.example:80, binary: never}}
routes:
  credit:
    variants:
      - {{name: champion, model: income, version: "1", weight: 90}}
      - {{name: challenger, model: income, version: "2", weight: 0.5, upstream: other}}
    assign_by: header:x-user
    salt: credit
    match:
      - {{headers: {{x-variant: challenger}}, variant: challenger}}
    shadows:
      - {{name: candidate, model: income, version: "3", sample: 0.5, compare: {{rtol: 1.0e-4, atol: 1.0e-6}}}}
    fallback: [champion]
    timeout: 250ms
    idempotent: true
passthrough: false
identity:
  api_keys:
    - {{sha256: {DIGEST}, user: alice, tenant: acme}}
  anonymous: {{user: anonymous, tenant: public}}
limits:
  body: 64MiB
  header_timeout: 1m
  body_timeout: 1h
  tenants: {{acme: {{rate: 1000/s, burst: 2000, concurrent: 64, bytes: 10GiB/day}}, "*": {{rate: 60/m}}}}
audit: {{mode: off}}
metrics: {{enabled: true}}
telemetry:
  traces: {{endpoint: "http://127.0.0.1:4318", protocol: http/protobuf, sample_ratio: 0.01}}
log: {{level: warning, format: text, access: true}}
"""


def read(tmp_path: Path, text: str | bytes, env: dict[str, str] | None = None):
    file = tmp_path / "tidegate.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, env or {})


def good(tmp_path: Path, text: str | bytes, env: dict[str, str] | None = None) -> Settings:
    settings, findings = read(tmp_path, text, env)
    assert [str(finding) for finding in findings if finding.severity == "error"] == []
    assert settings is not None
    return settings


def test_the_documented_file_is_read_whole(tmp_path):
    settings = good(tmp_path, WHOLE)
    route = settings.routes["credit"]
    assert [variant.weight for variant in route.variants] == [90.0, 0.5]
    assert route.timeout == 0.25
    assert route.shadows[0].compare.rtol == 1e-4
    assert route.match[0].headers == {"x-variant": "challenger"}
    assert settings.limits.body == 64 << 20
    assert (settings.limits.header_timeout, settings.limits.body_timeout) == (60.0, 3600.0)
    assert settings.limits.tenants["acme"].bytes == 10 << 30
    assert settings.limits.tenants["*"].rate == 1.0
    assert settings.identity.api_keys[0].user == "alice"
    assert settings.upstreams["triton"].grpc == "[::1]:8001"
    assert settings.log.access is True
    assert settings.audit.mode == "off"


def test_what_is_left_out_has_its_default(tmp_path):
    settings = good(tmp_path, LEAST)
    assert settings.listen.http == "127.0.0.1:8080"
    assert settings.routes == {}
    assert settings.identity is None
    # relative to the file, though nobody wrote it
    assert settings.state_dir == tmp_path / "state"


def test_paths_are_relative_to_the_file_and_not_to_where_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "policy.csv").write_text("p, user:a, public, model:m, infer, allow\n")
    file = tmp_path / "conf" / "tidegate.yaml"
    file.write_text(LEAST + "policy: {file: policy.csv}\nstate_dir: /var/lib/tidegate\n")
    monkeypatch.chdir(tmp_path)
    settings, findings = load(Path("conf/tidegate.yaml"))
    assert settings is not None, findings
    assert settings.policy.file == tmp_path / "conf" / "policy.csv"
    assert settings.state_dir == Path("/var/lib/tidegate")


def test_yaml_1_2_leaves_words_alone(tmp_path):
    settings = good(tmp_path, LEAST + "routes: {on: {salt: no}, yes: {salt: off}, off: {salt: 0o}}\n")
    assert list(settings.routes) == ["on", "yes", "off"]
    assert settings.routes["on"].salt == "no"


@pytest.mark.parametrize(("text", "value"), [("0x10", 16), ("0o20", 16), ("+16", 16), ("16", 16), ("010", 10)])
def test_yaml_1_2_whole_numbers(tmp_path, text, value):
    assert good(tmp_path, LEAST + f"workers: {text}\n").workers == value


def test_an_empty_section_written_out_takes_its_defaults(tmp_path):
    settings = good(tmp_path, LEAST + "identity: {anonymous: {}}\nroutes: {}\n")
    assert settings.identity.anonymous == Anonymous()


def test_null_turns_grpc_off(tmp_path):
    assert good(tmp_path, LEAST + "listen: {grpc: null}\n").listen.grpc is None
    assert good(tmp_path, LEAST + "listen: {grpc: ~}\n").listen.grpc is None


def test_anchors_and_aliases_repeat_what_was_written(tmp_path):
    text = LEAST + "routes:\n  a: &route {timeout: 2s}\n  b: *route\n"
    settings = good(tmp_path, text)
    assert settings.routes["a"] == settings.routes["b"]


def test_a_utf_8_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    good(tmp_path, b"\xef\xbb\xbf" + LEAST.encode())


def test_windows_line_ends_and_names_beyond_ascii(tmp_path):
    settings = good(tmp_path, (LEAST + "routes: {größe: {}}\n").replace("\n", "\r\n"))
    assert list(settings.routes) == ["größe"]


def test_variables_fill_any_scalar(tmp_path):
    text = (
        "upstreams: {triton: {http: '127.0.0.1:${PORT}', grpc: 127.0.0.1:${GRPC}}}\n"
        "workers: ${N}\n"
        "passthrough: ${YES}\n"
        "routes: {'${NAME}': {salt: a-${NAME}-$${NAME}-$5}}\n"
    )
    settings = good(tmp_path, text, {"PORT": "8000", "GRPC": "8001", "N": "3", "YES": "true", "NAME": "123"})
    assert settings.upstreams["triton"].http == "127.0.0.1:8000"
    assert settings.workers == 3
    assert settings.passthrough is True
    # a variable's text is text, whatever it looks like
    assert settings.routes["123"].salt == "a-123-${NAME}-$5"


def test_a_variable_adds_no_structure(tmp_path):
    settings = good(tmp_path, LEAST + "routes: {m: {salt: ${X}}}\n", {"X": "a}, evil: {salt: b\nworkers: 9"})
    assert settings.routes["m"].salt == "a}, evil: {salt: b\nworkers: 9"
    assert settings.workers == 1


def test_a_variable_in_a_comment_is_not_looked_up(tmp_path):
    good(tmp_path, LEAST + "# ${NOBODY_SET_THIS}\n")


def test_the_process_environment_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEGATE_TEST_WORKERS", "4")
    file = tmp_path / "tidegate.yaml"
    file.write_text(LEAST + "workers: ${TIDEGATE_TEST_WORKERS}\n")
    assert "TIDEGATE_TEST_WORKERS" in os.environ
    assert load(file)[0].workers == 4


def test_load_or_raise_names_every_finding(tmp_path):
    file = tmp_path / "tidegate.yaml"
    file.write_text("upstream: {}\nworkers: 0\n")
    with pytest.raises(SettingsError) as caught:
        load_or_raise(file, {})
    assert [finding.line for finding in caught.value.findings] == [1, 1, 2]
    assert str(file) in caught.value.detail
    assert str(file) not in caught.value.message


def test_settings_survive_a_round_trip_through_the_structs(tmp_path):
    settings = good(tmp_path, WHOLE)
    built = msgspec.convert(
        msgspec.to_builtins(settings, enc_hook=str), Settings, dec_hook=lambda kind, value: kind(value)
    )
    assert built == settings
