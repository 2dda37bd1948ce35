"""Webhooks from the step to the receiver: what is told, retries, several gateways, kills, and the commands."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from gateway_fixture import start_gateway
from hook_receiver import SECRET, Receiver
from registry_site import KEYS, Site

from gateway import cli
from gateway.courier import Courier
from gateway.edits import took_force
from gateway.settings.file import load
from governance.registry.machine import Standing
from governance.store.database import open_database
from governance.store.outbox import LEASE_S, Outbox
from governance.store.steps import Steps
from governance.webhooks.messages import TIMED, Subscriber, due
from governance.webhooks.messages import test_message as hook_message

WHSEC = f"whsec_{SECRET}"


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.close()


def section(receiver: Receiver, events: str = '["*"]', path: str = "") -> str:
    return (
        f"webhooks:\n  private_hosts: [127.0.0.1]\n  endpoints:\n"
        f"    pager: {{url: 'http://127.0.0.1:{receiver.port}/{path}', secret_env: PAGER, events: {events}}}\n"
    )


@pytest.fixture
def site(tmp_path, monkeypatch, capsys, receiver) -> Site:
    monkeypatch.setenv("PAGER", WHSEC)
    return Site(tmp_path, monkeypatch, capsys, extra=section(receiver))


def courier(site: Site, **more) -> Courier:
    settings, findings = load(site.config)
    assert settings is not None, findings
    return Courier(site.config, settings, **more)


def webhooks(site: Site, *words: str) -> tuple[int, dict, str]:
    site._capsys.readouterr()
    name, *rest = words
    status = cli.main(["webhooks", name, "--config", str(site.config), "--format", "json", *rest])
    out, err = site._capsys.readouterr()
    assert "Traceback" not in err
    assert SECRET not in out + err
    return status, json.loads(out) if out else {}, err


def test_a_life_is_told_on_both_databases(tmp_path, monkeypatch, capsys, receiver, store_url):
    monkeypatch.setenv("PAGER", WHSEC)
    site = Site(tmp_path, monkeypatch, capsys, store_url, section(receiver))
    site.to_live()
    one = courier(site)
    one.look()
    kinds = ["registered", "submitted", "approved", "approved", "promoted"]
    assert receiver.types == [f"registry.{kind}" for kind in kinds]
    assert [got.data["state"] for got in receiver.got] == ["draft", "in review", "in review", "approved", "live"]
    assert [got.data["by"] for got in receiver.got][1:] == ["user:ann", "user:bob", "user:cem", "user:dee"]
    assert receiver.got[2].data["missing_approvals"] == ["role:officer"]
    assert all(got.signed(WHSEC) for got in receiver.got)
    records = [record for record in site.records() if record["kind"] in ("registry", "approval")]
    assert [got.id for got in receiver.got] == [record["id"] for record in records]
    one.look()
    assert len(receiver.got) == 5
    status, found, _ = webhooks(site, "list")
    assert (status, {one["state"] for one in found["deliveries"]}) == (0, {"delivered"})
    assert found["deliveries"][0]["type"] == "registry.promoted"
    assert found["deliveries"][0]["status"] == "answered 204"
    one.close()


def test_what_is_not_taken_is_tried_again_and_the_same(site, receiver):
    answers = iter([500, (429, {"retry-after": "1"}), 204])
    receiver.reply = lambda _got: next(answers)
    site.register()
    one = courier(site, waits=(0.01, 0.01))
    until = time.monotonic() + 30
    while len(receiver.got) < 3 and time.monotonic() < until:
        one.look()
        time.sleep(0.02)
    one.look()
    assert len({(got.id, got.body) for got in receiver.got}) == 1
    assert len(receiver.got) == 3
    times = [int(got.headers["webhook-timestamp"]) for got in receiver.got]
    assert times == sorted(times)
    assert times[2] > times[1]  # `retry-after` was heard
    assert all(got.signed(WHSEC) for got in receiver.got)
    (row,) = webhooks(site, "list")[1]["deliveries"]
    assert (row["state"], row["attempts"]) == ("delivered", 3)
    one.close()


@pytest.mark.parametrize(("status", "tries"), [(410, 1), (400, 3), (500, 3), (302, 3), (100, 3)])
def test_what_is_never_taken_fails_in_the_end(site, receiver, status, tries, caplog):
    receiver.reply = lambda _got: status
    site.register()
    one = courier(site, waits=(0.01, 0.01))
    until = time.monotonic() + 30
    with caplog.at_level(logging.WARNING, "tidegate.webhooks"):
        while webhooks(site, "list", "--state", "failed")[1]["deliveries"] == [] and time.monotonic() < until:
            one.look()
    assert len(receiver.got) == tries
    assert SECRET not in caplog.text
    assert "given up" in caplog.text
    assert webhooks(site, "retry", "--endpoint", "another")[0] == 1
    receiver.reply = lambda _got: 200
    assert webhooks(site, "retry", "--endpoint", "pager")[:2] == (0, {"due": 1})
    while len(receiver.got) == tries and time.monotonic() < until:
        one.look()
    assert webhooks(site, "list", "--state", "delivered")[1]["deliveries"] != []
    one.close()


def test_endpoints_do_not_wait_for_each_other(site, receiver):
    """One that does not answer holds up nobody, and hears nothing else for a while."""
    slow = Receiver()
    over = threading.Event()
    slow.reply = lambda _got: over.wait(30) and 204
    text = site.config.read_text()
    site.config.write_text(
        f"{text}    slow: {{url: 'http://127.0.0.1:{slow.port}/', secret_env: PAGER, events: [registry.submitted]}}\n"
    )
    site.to_review()
    one = courier(site)
    thread = threading.Thread(target=one.look)
    thread.start()
    until = time.monotonic() + 30
    while len(receiver.got) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert receiver.types == ["registry.registered", "registry.submitted"]
    assert thread.is_alive()
    one.close()  # as when the gateway stops: nobody waits for it
    thread.join(20)
    assert not thread.is_alive()
    over.set()
    slow.close()
    (row,) = webhooks(site, "list", "--endpoint", "slow")[1]["deliveries"]
    assert row["state"] == "waiting"  # and due again when the claim ends


def test_what_waits_for_one_does_not_keep_out_anothers(site, receiver, monkeypatch):
    """However much it is: each has its turn in each look."""
    monkeypatch.setattr("gateway.courier._AT_ONCE", 3)
    monkeypatch.setattr("gateway.courier._TURN_S", 0.0)
    other = Receiver()
    text = site.config.read_text()
    site.config.write_text(f"{text}    other: {{url: 'http://127.0.0.1:{other.port}/', secret_env: PAGER}}\n")
    one = courier(site)
    one.look()
    outbox = Outbox(open_database("", site.state))
    now = dt.datetime.now(dt.UTC)
    for name, count in (("pager", 5), ("other", 1)):
        outbox.put([Subscriber(name, ("*",))], [hook_message(f"{name}{at}", now) for at in range(count)], time.time())
    outbox.close()
    one.look()
    one.close()
    other.close()
    assert [got.id for got in other.got] == ["test-other0"]
    assert [got.id for got in receiver.got] == ["test-pager0"]


def test_several_gateways_tell_once(tmp_path, monkeypatch, capsys, receiver, store_url):
    monkeypatch.setenv("PAGER", WHSEC)
    site = Site(tmp_path, monkeypatch, capsys, store_url, section(receiver))
    site.to_review()
    both = [courier(site) for _ in range(3)]
    threads = [threading.Thread(target=one.look) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in both:
        one.look()
        one.close()
    assert sorted(receiver.types) == ["registry.registered", "registry.submitted"]


def test_steps_of_the_policy_are_told_from_the_beginning_on(site, receiver):
    text = site.config.read_text()
    site.config.write_text(text.replace("policy: {file: policy.csv}", "policy: {file: policy.csv, approvals: 1}"))
    policy = site.folder / "policy.csv"
    more = "p, role:developer, *, policy, edit, allow\np, role:validator, *, policy, approve, allow\n"
    policy.write_text(policy.read_text() + more)

    def run(name: str, *words: str, by: str) -> str:
        site._monkeypatch.setenv("TIDEGATE_API_KEY", KEYS[by])
        site._capsys.readouterr()
        assert cli.main(["policy", name, "--config", str(site.config), "--format", "json", *words]) == 0
        return json.loads(site._capsys.readouterr().out)["hash"]

    first = run("adopt", by="ann")
    policy.write_text(policy.read_text() + "p, user:eve, public, model:*, read, allow\n")
    second = run("propose", "--reason", "Eve reads", by="ann")
    one = courier(site)
    one.look()
    run("approve", second, by="bob")
    one.look()
    assert receiver.types == ["policy.adopted", "policy.proposed", "policy.approved"]
    assert [got.data["hash"] for got in receiver.got] == [first, second, second]
    assert [got.data["in_force"] for got in receiver.got] == [first, first, second]
    assert receiver.got[1].data["reason"] == "Eve reads"
    assert len({got.id for got in receiver.got}) == 3
    # A crash between the outbox and the mark, or a mark that was lost: made again, and known by its id.
    (site.state / "policy" / "announced").write_text("1")
    another = courier(site)
    another.look()
    (site.state / "policy" / "announced").write_text("?")
    third = courier(site)
    third.look()
    assert len(receiver.got) == 3
    assert (site.state / "policy" / "announced").read_text() == "3"
    for each in (one, another, third):
        each.close()


def test_edits_that_nobody_approves_are_told_once_each(site, receiver):
    """From the second policy on; over kills, torn lines, several workers and a mark that was lost."""
    settings, _ = load(site.config)
    folder = site.state / "policy"
    one = courier(site)
    for hashed in ("a", "a", "b", "b", "a"):
        for _worker in range(2):
            took_force(settings, hashed * 64)
        one.look()
    assert receiver.types == ["policy.edited"] * 2
    assert [(got.data["before"][0], got.data["hash"][0]) for got in receiver.got] == [("a", "b"), ("b", "a")]
    assert all(got.data["in_force"] == got.data["hash"] and got.data["by"] is None for got in receiver.got)
    assert len({got.id for got in receiver.got}) == 2
    with (folder / "edits.jsonl").open("ab") as file:
        file.write(b'{"number":3,"ti')  # killed over the line
    one.look()
    took_force(settings, "c" * 64)
    (folder / "edits.announced").unlink()
    another = courier(site)
    another.look()
    assert [got.data["hash"][0] for got in receiver.got] == ["b", "a", "c"]
    assert (folder / "edits.announced").read_text() == "4"
    for each in (one, another):
        each.close()


def test_an_edit_is_kept_only_where_somebody_is_told_and_nobody_approves(site, receiver):
    text = site.config.read_text()
    for changed in (
        text.replace(section(receiver), ""),
        text.replace("policy: {file: policy.csv}", "policy: {file: policy.csv, approvals: 1}"),
        text.replace("policy: {file: policy.csv}\n", ""),
    ):
        assert changed != text
        site.config.write_text(changed)
        settings, findings = load(site.config)
        assert settings is not None, findings
        took_force(settings, "a" * 64)
    assert not (site.state / "policy" / "edits.jsonl").exists()


def test_a_damaged_file_of_edits_is_said_by_both(site, caplog):
    settings, _ = load(site.config)
    took_force(settings, "a" * 64)
    (site.state / "policy" / "edits.jsonl").write_text("nonsense\n")
    one = courier(site)
    with caplog.at_level(logging.ERROR):
        took_force(settings, "b" * 64)
        one.look()
    assert caplog.text.count("edits.jsonl:1: damaged: restore it") == 2
    one.close()


def test_steps_before_there_were_webhooks_are_not_told(site, receiver):
    text = site.config.read_text()
    site.config.write_text(text.replace(section(receiver), ""))
    site.to_review()
    site.config.write_text(text)
    site.run("approve", by="bob")
    one = courier(site)
    one.look()
    assert receiver.types == ["registry.approved"]
    one.close()


def test_an_approval_that_ended_and_a_review_that_is_due_are_told(site, receiver, monkeypatch):
    site.to_live()
    one = courier(site)
    one.look()
    assert not set(TIMED) & set(receiver.types)
    settings, _ = load(site.config)
    steps = Steps(open_database("", settings.state_dir)).of("income", "2")
    standings = [(("income", "2"), Standing(steps))]
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=181)
    (review,) = due(standings, later)
    assert (review.type, json.loads(review.body)["data"]["serves"]) == ("registry.review_due", True)
    both = due(standings, later + dt.timedelta(days=200))
    assert [message.type for message in both] == ["registry.expired", "registry.review_due"]
    assert both[1].id == review.id
    assert json.loads(both[0].body)["data"]["serves"] is False
    # A later step changes neither time, and so nothing is told again.
    assert site.run("deprecate", "--reason", "3 is better", by="dee")[0] == 0
    standings = [(("income", "2"), Standing(Steps(open_database("", settings.state_dir)).of("income", "2")))]
    assert [message.id for message in due(standings, later + dt.timedelta(days=200))] == [one.id for one in both]

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz=None) -> dt.datetime:
            return later

    monkeypatch.setattr("gateway.courier.dt.datetime", Later)
    another = courier(site)
    for _ in range(2):
        another.look()
        another._timed_at = 0.0
    assert receiver.types.count("registry.review_due") == 1
    one.close()
    another.close()


def test_settings_are_followed_and_a_broken_edit_changes_nothing(site, receiver):
    site.register()
    one = courier(site)
    one.look()
    text = site.config.read_text()
    site.config.write_text(text + "nonsense: true\n")
    site.config.with_name("aside").write_text(text)
    one.look()
    site.config.with_name("aside").rename(site.config)
    site.run("submit", by="ann")
    site.config.write_text(text.replace(f"{receiver.port}/", f"{receiver.port}/moved"))
    one.look()
    assert [got.path for got in receiver.got] == ["/", "/moved"]
    site.config.write_text(text.replace(section(receiver), ""))
    one.look()
    one.close()


@pytest.mark.parametrize(
    ("secret", "says"),
    [("", "holds no secret"), ("whsec_YQ==", "is none"), (WHSEC + "x!", "is not base64")],
)
def test_a_secret_that_is_none_is_said_and_nothing_goes_out(site, receiver, monkeypatch, secret, says):
    monkeypatch.setenv("PAGER", secret)
    site.register()
    one = courier(site)
    one.look()
    one.close()
    assert receiver.got == []
    (row,) = webhooks(site, "list")[1]["deliveries"]
    assert says in row["status"]
    assert row["state"] == "waiting"
    status, _, err = webhooks(site, "test", "pager")
    assert (status, says in err) == (2, True)


def test_a_secret_that_others_may_read_is_refused(site, receiver):
    path = site.folder / "pager.whsec"
    assert cli.main(["webhooks", "secret", "--output", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in site._capsys.readouterr().out
    assert cli.main(["webhooks", "secret", "--output", str(path)]) == 2
    assert cli.main(["webhooks", "secret", "--output", str(site.folder / "no" / "such")]) == 2
    site.config.write_text(site.config.read_text().replace("secret_env: PAGER", "secret_file: pager.whsec"))
    assert webhooks(site, "test", "pager")[1]["ok"]
    assert receiver.got[0].signed(path.read_text().strip())
    assert receiver.types == ["webhook.test"]
    path.chmod(0o644)
    status, _, err = webhooks(site, "test", "pager")
    assert status == 2
    assert "others may read it" in err
    assert len(receiver.got) == 1


def test_a_key_pair_needs_no_secret_at_the_receiver(site, receiver):
    path = site.folder / "pager.whsk"
    site._capsys.readouterr()
    assert cli.main(["webhooks", "secret", "--ed25519", "--output", str(path), "--format", "json"]) == 0
    public = json.loads(site._capsys.readouterr().out)["public"]
    site.config.write_text(site.config.read_text().replace("secret_env: PAGER", "secret_file: pager.whsk"))
    assert webhooks(site, "test", "pager")[0] == 0
    assert receiver.got[0].signed(public)


def test_an_endpoint_is_tried_from_the_command_line(site, receiver):
    receiver.reply = lambda _got: 503
    assert webhooks(site, "test", "pager")[:2][1]["status"] == "answered 503"
    assert webhooks(site, "test", "pager")[0] == 1
    status, _, err = webhooks(site, "test", "nobody")
    assert (status, "has no endpoint `nobody`" in err) == (2, True)
    assert webhooks(site, "list")[1] == {"deliveries": []}
    assert not site.state.exists()  # to look makes nothing


def test_a_store_that_is_away_is_said_once(site, receiver, caplog):
    site.register()
    (site.state / "store" / "tidegate.db").write_bytes(b"no database, " * 500)
    one = courier(site)
    with caplog.at_level(logging.ERROR, "tidegate.webhooks"):
        one.look()
        one.look()
    assert [record.getMessage().count("webhooks wait") for record in caplog.records] == [1]
    one.close()


_DELIVER = """\
import sys
from pathlib import Path
from gateway.courier import Courier
from gateway.settings.file import load
Courier(Path(sys.argv[1]), load(Path(sys.argv[1]))[0]).look()
"""


@pytest.mark.parametrize("answered", [False, True])
def test_killed_over_an_attempt_it_is_told_again(site, receiver, answered):
    """Before the answer, and after it but before the store knows: at least once, and with the same id."""
    site.register()
    process: list[subprocess.Popen] = []

    def dies(_got):
        if len(receiver.got) == 1:
            process[0].send_signal(signal.SIGSTOP if answered else signal.SIGKILL)
        return 204

    receiver.reply = dies
    process.append(subprocess.Popen([sys.executable, "-c", _DELIVER, str(site.config)]))
    until = time.monotonic() + 60
    while not receiver.got and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2 if answered else 0)
    process[0].kill()
    process[0].wait()
    outbox = Outbox(open_database("", site.state))
    (row,) = outbox.log(endpoint=None, state=None, message=None, most=9)
    assert (row.state, row.attempts) == ("waiting", 1)
    assert 0 < row.due - row.tried <= LEASE_S
    assert outbox.retry(time.time(), endpoint="pager") == 1
    outbox.close()
    one = courier(site)
    one.look()
    one.close()
    assert len(receiver.got) == 2
    assert len({got.id for got in receiver.got}) == 1


def test_a_gateway_tells_and_one_that_was_killed_tells_later(tmp_path, monkeypatch, capsys, receiver):
    monkeypatch.setenv("PAGER", WHSEC)
    site = Site(tmp_path / "site", monkeypatch, capsys, extra=section(receiver))
    text = site.config.read_text() + f"state_dir: {site.state}\n"
    files = {
        path.name: path.read_bytes()
        for path in site.folder.iterdir()
        if path.is_file() and path.name != "tidegate.yaml"
    }
    running = start_gateway(tmp_path / "gateway", text, files=files, wait="live")
    try:
        site.register()
        until = time.monotonic() + 60
        while not receiver.got and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        site.run("submit", by="ann")
        time.sleep(0.5)
        assert receiver.types == ["registry.registered"]
        running = start_gateway(tmp_path / "gateway", text, files=files, wait="live")
        while len(receiver.got) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert receiver.types == ["registry.registered", "registry.submitted"]
        policy = tmp_path / "gateway" / "policy.csv"
        policy.write_text(policy.read_text() + "p, user:eve, public, model:*, read, allow\n")
        while len(receiver.got) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert receiver.types[2:] == ["policy.edited"]
    finally:
        running.stop()
    said = (tmp_path / "gateway" / "gateway.log").read_text()
    assert "Traceback" not in said
    assert SECRET not in said
