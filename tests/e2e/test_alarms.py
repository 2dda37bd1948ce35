"""Alarms of a running gateway: they begin with drift, outlive their process, and stand in page, metrics, log, audit."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
from driving import until

UP = "upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\n"
SETTINGS = UP + (
    "workers: 2\n"
    "routes: {seen: {variants: [{name: v, model: identity_all}], monitor: {profile: seen.profile, "
    "alarms: {budget: 100/day, every: 1s, clear: 1, cooldown: 0}}}}\n"
)
PAGE = "/gateway/v1/monitors/seen"


def profile_of(tmp_path, *options):
    """As an operator makes it."""
    rng = np.random.default_rng(1)
    rows = zip(rng.normal(size=2000), rng.integers(0, 9, 2000), strict=True)
    (tmp_path / "train.csv").write_text(
        "INPUT_FP64,INPUT_INT64\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="ascii"
    )
    command = [sys.executable, "-m", "gateway", "profile", "build", "train.csv", "--output", "made", *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return (tmp_path / "made").read_text()


def send(one, rng, shift=0.0, rows=200):
    tensors = [
        {"name": "INPUT_FP64", "datatype": "FP64", "shape": [rows], "data": rng.normal(shift, 1, rows).tolist()},
        {"name": "INPUT_INT64", "datatype": "INT64", "shape": [rows], "data": rng.integers(0, 9, rows).tolist()},
    ]
    assert one.post("/v2/models/seen/infer", {"inputs": tensors}).status == 200


def alarms(one):
    return one.get(PAGE).json()["alarms"]


def looked(one, rng, shift, until_):
    """Send rows until the page says so."""

    def turn():
        send(one, rng, shift)
        found = alarms(one)
        return found if found is not None and until_(found) else None

    return until(turn, 300)


def said(one, what):
    lines = [line for line in one.log_lines() if line["message"].startswith(f"an alarm of drift {what}")]
    return [(line["route"], line["columns"]) for line in lines]


def test_an_alarm_begins_with_drift_outlives_its_worker_and_ends_with_it(gateway, tmp_path):
    rng = np.random.default_rng(2)
    one = gateway(SETTINGS, files={"seen.profile": profile_of(tmp_path, "--alarms")})
    quiet = looked(one, rng, 0.0, lambda found: found["windows"] >= 1)
    assert (quiet["active"], quiet["past"], quiet["every_s"]) == (None, [], 1)
    assert quiet["per_year"] == 36525
    assert one.metric("tidegate_drift_alarm", route="seen") == 0
    found = looked(one, rng, 1.0, lambda found: found["active"])
    alarm = found["active"]
    assert alarm["ended"] is None
    assert alarm["rows"] >= 100
    cause = alarm["causes"][0]
    assert (cause["column"], cause["what"]) == ("INPUT_FP64", "location")
    assert cause["effect"] > 0.3
    assert cause["bins"][0]["current"] > 2 * cause["bins"][0]["reference"]
    until(lambda: said(one, "began"), 30)
    assert said(one, "began") == [("seen", ["INPUT_FP64"])]
    until(lambda: one.metric("tidegate_drift_alarm", route="seen") == 1, 30)
    assert one.metric("tidegate_drift_alarms_total", route="seen") == 1
    # Both workers die, the one that looked among them; what is on is on.
    pids = [json.loads((one.folder / f"state/run/snapshot-{slot}").read_bytes())["pid"] for slot in (0, 1)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: not {json.loads(p.read_bytes())["pid"] for p in one.folder.glob("state/run/snapshot-*")} & {*pids}, 60
    )
    one.wait_ready()
    assert alarms(one)["active"] == alarm
    windows = alarms(one)["windows"]
    over = looked(one, rng, 0.0, lambda found: found["active"] is None)
    assert over["windows"] > windows
    assert over["past"][0] == alarm | {"ended": over["past"][0]["ended"]}
    until(lambda: said(one, "ended"), 30)
    assert len(said(one, "began")) == 1
    assert one.stop() == 0
    command = [sys.executable, "-m", "gateway", "audit", "show", str(one.folder / "state/audit")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    records = [record for record in map(json.loads, shown.splitlines()) if record["action"] == "alarm"]
    assert [(record["object"], record["status"]) for record in records] == [
        ("route:seen", "began"),
        ("route:seen", "ended"),
    ]
    assert records[0]["details"]["causes"][0]["column"] == "INPUT_FP64"


def test_alarms_that_a_profile_has_no_thresholds_for_are_refused(tmp_path):
    (tmp_path / "seen.profile").write_text(profile_of(tmp_path))
    settings = SETTINGS.replace("$TRITON_HTTP", "127.0.0.1:1").replace("$TRITON_GRPC", "127.0.0.1:2")
    (tmp_path / "tidegate.yaml").write_text(settings)
    command = [sys.executable, "-m", "gateway", "check", "tidegate.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "routes.seen.monitor.alarms" in done.stdout
    assert "the profile has no thresholds: make it with `tidegate profile build --alarms`" in done.stdout
