"""The audit log of a gateway that runs: what is there before it is ready, who may read it, erasure, a full disk."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from driving import fp32, until
from test_audit import ALICE, BOB, POLICY, SETTINGS, audit, folder_of, records, started, verified
from test_audit_fields import raw

PATH = "/v2/models/identity_fp32/infer"


def allocated(folder: Path) -> int:
    """Bytes that the disk has given to the files of a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_what_is_there_when_it_is_ready_and_who_may_read_it(gateway):
    one = started(gateway, "strict", args=("--workers", "2"))
    log, private = folder_of(one), one.folder / "state" / "audit-private"
    origin, size, *_ = (log / "checkpoint").read_text().splitlines()
    assert int(size) <= 2, "settings and policy in force, at the most"
    assert (log / "log.vkey").read_text().startswith(origin + "+")
    assert not any(b"PRIVATE" in path.read_bytes() for path in log.rglob("*") if path.is_file())
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in private.rglob("*") if path.is_file()}
    assert {"log.key", "digest.key", "head"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert allocated(log) + allocated(private) <= 4 << 20


def test_a_person_is_erased_from_the_log_of_a_running_gateway(gateway):
    one = started(gateway, erasure=True, args=("--workers", "2"))
    length, binary = raw()
    kinds = [{"x-api-key": ALICE}, {"x-api-key": BOB}]

    def ask_all(rounds):
        for number in range(rounds):
            for headers in kinds:
                assert one.post(PATH, fp32(), headers).status in (200, 403)
                one.request("POST", PATH, binary, headers | {"inference-header-content-length": length})
                one.post(PATH, {"inputs": number}, headers)

    def subjects(first=0):
        return {each["subject"] for each in records(one)[first:] if each["kind"] == "inference"}

    ask_all(4)
    until(lambda: len([each for each in records(one) if each["kind"] == "inference"]) == 24, 60)
    before = subjects()
    assert len(before) == 2
    assert all(each.startswith("person:") for each in before)
    status, out, err = audit("erase", "--config", one.config, "--subject", "user:alice", "--format", "json")
    assert status == 0, err
    erased = json.loads(out)["subject"]
    assert erased in before
    size = len(records(one))
    ask_all(4)
    assert one.stop() == 0
    after = subjects(size)
    assert len(after) == 2
    assert len(after & before) == 1
    assert erased not in after
    assert verified(one) == len(records(one))
    files = [path for path in folder_of(one).rglob("*") if path.is_file()]
    # Not b"bob" alone: the base64 of the records' digests holds any three letters by chance, one run in five.
    names = (b"user:alice", b"user:bob", b'"alice', b'"bob', b"alice-key", b"bob-key")
    assert not any(name in path.read_bytes() for path in files for name in names)
    phases = [each["phase"] for each in records(one) if each["kind"] == "erasure"]
    assert phases == ["start", "end"]


def test_pseudonyms_and_a_retention_policy_that_comes_while_it_runs(gateway):
    text = SETTINGS.replace("MODE", "async").replace("erasure: ERASURE", "pseudonyms: true")
    one = gateway(text, files={"policy.csv": POLICY})
    for key in (ALICE, BOB, ALICE):
        assert one.post(PATH, fp32(), {"x-api-key": key}).status in (200, 403)

    def kinds(kind):
        return [each for each in records(one) if each["kind"] == kind]

    until(lambda: len(kinds("inference")) == 3, 60)
    first, second, third = (each["subject"] for each in kinds("inference"))
    assert first == third != second
    status, _, err = audit("prune", "--config", one.config, "--yes")
    assert (status, "audit.retention" in err) == (2, True)
    retention = "retention: {policy: schedule 7, days: 184}"
    one.config.write_text(one.config.read_text().replace("pseudonyms: true", f"pseudonyms: true, {retention}"))
    one.process.send_signal(signal.SIGHUP)
    until(lambda: len(kinds("settings")) == 2, 60)
    status, out, err = audit("prune", "--config", one.config, "--yes")
    assert (status, out.splitlines()[-1]) == (0, "nothing to prune"), err
    assert one.stop() == 0
    assert verified(one) == len(records(one))
    files = [path for path in (one.folder / "state").glob("audit*/**/*") if path.is_file()]
    # Not b"bob" alone: the base64 of the records' digests holds any three letters by chance, one run in five.
    names = (b"user:alice", b"user:bob", b'"alice', b'"bob', b"alice-key", b"bob-key")
    assert not any(name in path.read_bytes() for path in files for name in names)


_OWN_DISK = ("unshare", "--mount", "--map-root-user")


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    words = [*_OWN_DISK, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace for a small disk")
@pytest.mark.parametrize(("mode", "workers"), [pytest.param("async", "1", marks=pytest.mark.slow), ("strict", "2")])
def test_a_full_disk_and_room_again(gateway, tmp_path, mode, workers):
    """All of `state_dir` on a real one of 16 MiB; nobody restarts anything."""
    state = tmp_path / "gateway0" / "state"
    script = f'mkdir {state} && mount -t tmpfs -o size=16m tmpfs {state} && exec "$@"'
    one = started(gateway, mode, args=("--workers", workers), under=(*_OWN_DISK, "sh", "-c", script, "sh"))
    disk = Path(f"/proc/{one.process.pid}/root{state}")
    key = {"x-api-key": ALICE}
    answered = []

    def ask(rid):
        status = one.post(PATH, fp32(), key | {"x-request-id": rid}).status
        if status == 200:
            answered.append(rid)
        return status

    assert ask("before") == 200
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    numbers = iter(range(10_000))
    until(lambda: ask(f"full-{next(numbers)}") == 503, 60)
    (disk / "filler").unlink()
    until(lambda: ask(f"again-{next(numbers)}") == 200, 20)
    # Acknowledged is what lies on the disk; the sequencer follows within a second.
    until(lambda: set(answered) <= {each["id"] for each in records_in(disk / "audit")}, 60)
    copy = one.folder / "copy"
    shutil.copytree(disk / "audit", copy)
    ids = [each["id"] for each in records_in(copy) if each["kind"] == "inference"]
    assert len(ids) == len(set(ids))
    assert set(answered) <= set(ids)
    status, out, err = audit("verify", copy, "--key", copy / "log.vkey")
    assert status == 0, out + err
    assert one.stop() == 0


def records_in(folder: Path) -> list[dict]:
    status, out, err = audit("show", folder)
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]
