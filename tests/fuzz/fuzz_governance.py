"""Files that governance reads from people and other machines: each is read, or refused in words that name the file."""

from __future__ import annotations

import atexit
import datetime as dt
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa
from pyarrow import parquet

from governance.audit.checkpoint import Checkpoint
from governance.audit.cosignature import Cosigner, parse_cosigner, parse_cosigner_key
from governance.audit.note import NoteError, Signer, parse_skey, sign_note
from governance.audit.proof import Proof, verify_proof
from governance.audit.record import decode as decode_record
from governance.audit.verify import Report, open_checkpoint, read_keys, read_witness_keys
from governance.cards import card as cards
from governance.compliance import pack as packs
from governance.errors import GovernanceError
from governance.mlflow import dvc
from governance.monitor import profile
from governance.policy.changes import ChangeError, Entry, Ledger
from governance.registry import requirements as asked
from governance.registry.events import Binding, Event, Sources
from governance.registry.events import decode as decode_step
from governance.registry.events import encode as encode_step
from governance.registry.lineage import LineageError, known, unchanged
from governance.tables import read as read_table
from governance.webhooks.signing import new_secret, signers
from kernels import merkle

_CARD = Path(__file__).parent.parent / "cards" / "complete_card.yaml"
_REQUIREMENTS = b"""\
schema_version: tidegate.requirements/1
classes:
  high:
    approvals: [{role: role:validator, count: 2}]
    valid_days: 365
    metrics: [{type: accuracy, dataset: Loans, min: 0.85}]
    fairness: [{measure: ratio, metric: demographic_parity, min: 0.8}]
    scan: {fails_on: warning}
    shadow: {min_compared: 10, max_differing: 0.01}
    lineage: {min_datasets: 2, unchanged: true}
"""
_SIGNER = Signer("example.com/audit", bytes(range(32)))
_SIGNED = Checkpoint(_SIGNER.name, 1, merkle.leaf_hash(b"entry"))


@functools.cache
def _folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="fuzz-governance-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


def _refusing(call: Callable[[], object], name: str) -> bool:
    """Whether it takes what lies there; else it says so in one line (or one for each fault), and names the file."""
    try:
        call()
    except GovernanceError as error:
        lines = str(error).splitlines()
        assert lines, error
        assert all(name in line for line in lines), error
        assert "Traceback" not in str(error)
        return False
    return True


def card(data: bytes) -> None:
    """A model card."""
    _refusing(lambda: cards.parse(data, "card.yaml", Path()), "card.yaml:")


def compliance_pack(data: bytes) -> None:
    """A compliance pack."""
    _refusing(lambda: packs.parse(data, Path("pack.yaml")), "pack.yaml:")


def requirements(data: bytes) -> None:
    """What risk classes ask for."""
    found, findings = asked.parse(data, "r.yaml")
    assert (found is None) == bool(findings)
    assert all(one.file == "r.yaml" and one.line >= 1 and one.column >= 1 and one.message for one in findings)


def data_of_dvc(data: bytes) -> None:
    """A `*.dvc` file, or `dvc.lock`; what it says is compared with itself."""
    if _refusing(lambda: dvc.datasets_of(data, "dvc.lock"), "dvc.lock"):
        found = dvc.datasets_of(data, "dvc.lock")
        assert unchanged(found, found)[0]


def lineage(data: bytes) -> None:
    """The evidence `lineage`, whatever JSON it is."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    try:
        holds, said = known(found, 1)
        assert said
        assert not holds or all(one["digest"] for one in found)
        unchanged(found, [])
    except LineageError as error:
        assert str(error)


def keys(data: bytes) -> None:
    """Verifier keys, of a log and of witnesses, and private ones, of which no error shows anything."""
    path = _file("log.vkey", data)
    for read in (read_keys, read_witness_keys):
        _refusing(functools.partial(read, path), "log.vkey:")
    text = data.decode("latin-1")
    for parse in (parse_skey, parse_cosigner, parse_cosigner_key):
        try:
            parse(text)
        except NoteError as error:
            assert len(text) < 24 or text not in str(error)


def remembered_checkpoint(data: bytes) -> None:
    """A signed checkpoint that somebody kept; nothing passes but what was signed."""
    report = Report()
    found = open_checkpoint(data, [_SIGNER.verifier], "checkpoint", report)
    assert report.findings or found == _SIGNED


def proof(data: bytes) -> None:
    """A proof of a record; nothing holds but of the log that was signed."""
    report, index = verify_proof(data, [_SIGNER.verifier], b"entry", "proof")
    assert not report.ok or (index, report.size, report.root) == (0, 1, _SIGNED.root)


def record(data: bytes) -> None:
    """An entry of a log."""
    try:
        assert isinstance(decode_record(data), dict)
    except ValueError as error:
        assert str(error)


def registry_step(data: bytes) -> None:
    """A step as the store holds it."""
    try:
        decode_step(data)
    except GovernanceError as error:
        assert "restore it from a backup" in str(error)


def policy_ledger(data: bytes) -> None:
    """The change control of a policy."""
    path = _folder() / "policy" / "changes.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        Ledger(path.parent).state()
    except ChangeError as error:
        assert "changes.jsonl:" in str(error)


def table(data: bytes) -> None:
    """A data set, in each of the forms."""
    for name in ("data.csv", "data.jsonl", "data.parquet"):
        path = _file(name, data)
        _refusing(functools.partial(read_table, path), name)


def drift_profile(data: bytes) -> None:
    """A profile of a reference."""
    _refusing(lambda: profile.decode(data, Path("p.profile")), "p.profile")


def webhook_secret(data: bytes) -> None:
    """A file of secrets, of which no error shows anything."""
    text = data.decode("latin-1")
    try:
        assert signers(text, "pager.whsec")
    except GovernanceError as error:
        assert "pager.whsec" in str(error)
        assert not any(len(word) > 16 and word in str(error) for word in text.split())


TARGETS = {
    one.__name__: one
    for one in (
        card, compliance_pack, requirements, data_of_dvc, lineage, keys, remembered_checkpoint, proof, record,
        registry_step, policy_ledger, table, drift_profile, webhook_secret,
    )
}  # fmt: skip


@functools.cache
def seeds() -> dict[str, list[bytes]]:
    """Sound files."""
    note = sign_note(_SIGNED.text, [_SIGNER])
    cosigner = Cosigner("example.com/witness", bytes(range(32)))
    sources = Sources("m/1", "card.yaml")
    step = Event(
        model="m", version="1", number=0, time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), kind="registered", by="user:a",
        binding=Binding("f", "c"), sources=sources,
    )  # fmt: skip
    adopted = Entry(0, step.time, "adopted", "a" * 64, "system", "0" * 64)
    csv = _file("sound.csv", b"age,sex,y\n31,F,1\n,M,0\n47,F,\n")
    columns = {"age": [31, None], "sex": ["F", "M"]}
    parquet.write_table(pa.table(columns), _folder() / "sound.parquet")
    return {
        "card": [_CARD.read_bytes(), b"schema_version: tidegate.card/1\n"],
        "compliance_pack": [packs.path_of("nyc-ll-144").read_bytes()],
        "requirements": [_REQUIREMENTS],
        "data_of_dvc": [
            b"outs:\n- {md5: aa, size: 3, path: data.csv}\n",
            b"schema: '2.0'\nstages:\n  t:\n    deps: [{path: a, md5: bb}]\n    outs: [{path: b, etag: cc}]\n",
        ],
        "lineage": [b'[{"name":"a","digest":"1","algorithm":"md5"},{"name":"a","digest":null}]', b"[]"],
        "keys": [
            f"{_SIGNER.verifier.vkey}\n".encode(), f"{cosigner.key.vkey}\n".encode(), _SIGNER.skey.encode(),
            cosigner.skey.encode(),
        ],
        "remembered_checkpoint": [note],
        "proof": [Proof(0, (), note).encode()],
        "record": [b'{"kind":"inference","id":"1","rule":null}'],
        "registry_step": [encode_step(step)],
        "policy_ledger": [msgspec.json.encode(adopted) + b"\n"],
        "table": [csv.read_bytes(), b'{"age":31,"sex":"F"}\n{"age":null}\n', (_folder() / "sound.parquet").read_bytes()],
        "drift_profile": [profile.encode(profile.build(read_table(csv)))],
        "webhook_secret": [f"{new_secret(ed25519=kind)[0]}\n".encode() for kind in (False, True)],
    }  # fmt: skip
