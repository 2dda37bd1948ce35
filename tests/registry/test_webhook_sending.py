"""Where webhooks may be sent, and what comes of it: addresses, redirects, certificates, receivers that are slow."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
from hook_receiver import Receiver
from tls_fixture import Authority

from governance.errors import WebhookError
from governance.webhooks import sending
from governance.webhooks.sending import Answer, Post, not_allowed, public


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.close()


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("239.1.1.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:a00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("64:ff9b:1::a00:1", False),
        ("64:ff9b:1::808:808", False),
        ("::ffff:0:a00:1", False),
        ("::a00:1", False),
        ("fec0::1", False),
        ("5f00::1", False),
        ("192.0.0.8", False),
        ("192.0.0.170", False),
    ],
)
def test_addresses_that_are_public(address, allowed):
    assert public(address) == allowed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://hooks.example/x?y=1", ""),
        ("http://inside:8080/x", ""),
        ("http://hooks.example/x", "needs https://"),
        ("http://inside.example/x", "needs https://"),
        ("ftp://hooks.example/x", "needs https://"),
        ("file:///etc/passwd", "needs https://"),
        ("https:///x", "and a host"),
        ("hooks.example", "needs https://"),
        ("https://user:s3cret@hooks.example/", "user"),
        ("https://hooks.example/#x", "fragment"),
        ("https://hooks.example:0/", "and a host"),
        ("https://hooks.example:99999/", "is no URL"),
        ("https://hooks.example:x/", "is no URL"),
        ("https://[::1/", "is no URL"),
        ("https://hooks.example/a b", "percent-encoded"),
        ("https://hooks.example/\r\nx: y", "percent-encoded"),
        ("https://hööks.example/", "percent-encoded"),
    ],
)
def test_urls_that_may_be_told(url, says):
    found = not_allowed(url, ["inside"])
    assert bool(found) == bool(says)
    assert says in found
    assert "s3cret" not in found


def test_a_name_that_is_not_listed_and_at_home_is_not_asked(receiver):
    for name in ("127.0.0.1", "localhost"):
        with pytest.raises(WebhookError, match="not public"):
            Post(f"http://{name}:{receiver.port}/", ["another"]).send(b"{}", {})
    assert receiver.got == []
    assert Post(f"http://localhost:{receiver.port}/a?b=c", ["localhost"]).send(b"{}", {"x": "y"}) == Answer(204)
    assert (receiver.got[0].path, receiver.got[0].body, receiver.got[0].headers["x"]) == ("/a?b=c", b"{}", "y")
    assert receiver.got[0].headers["content-type"] == "application/json"


def test_redirects_are_answers(receiver):
    receiver.reply = lambda _got: (307, {"location": f"http://127.0.0.1:{receiver.port}/b", "retry-after": "7"})
    answer = Post(f"http://127.0.0.1:{receiver.port}/a", ["127.0.0.1"]).send(b"{}", {})
    assert answer == Answer(307, 7)
    assert [one.path for one in receiver.got] == ["/a"]


def test_a_proxy_of_the_environment_is_not_asked(receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Post(f"http://127.0.0.1:{receiver.port}/", ["127.0.0.1"]).send(b"{}", {}).status == 204


def test_certificates_are_checked(tmp_path):
    authority, other = Authority(), Authority("another CA")
    cert, key = authority.issue(dns=("localhost",)).write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "other.pem").write_bytes(other.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    receiver = Receiver(context)
    try:
        url = f"https://localhost:{receiver.port}/"
        assert Post(url, ["localhost"], tmp_path / "ca.pem").send(b"{}", {}).status == 204
        with pytest.raises(WebhookError, match="certificate is not accepted"):
            Post(url, ["localhost"], tmp_path / "other.pem").send(b"{}", {})
        with pytest.raises(WebhookError, match="certificate is not accepted"):
            Post(url.replace("localhost", "127.0.0.1"), ["127.0.0.1"], tmp_path / "ca.pem").send(b"{}", {})
        with pytest.raises(WebhookError, match="cannot be reached"):
            Post(url, ["localhost"], tmp_path / "none.pem").send(b"{}", {})
    finally:
        receiver.close()


def test_an_answer_that_drips_is_cut(monkeypatch):
    """Each byte comes in time, and all of them never would."""
    monkeypatch.setattr(sending, "LONGEST_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            made, _ = listening.accept()
            with made:
                while not over.wait(0.1):
                    try:
                        made.send(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(WebhookError, match="cannot be reached"):
            Post(f"http://127.0.0.1:{listening.getsockname()[1]}/", ["127.0.0.1"]).send(b"{}", {})
        over.set()
        thread.join()


def test_a_handshake_that_does_not_come_is_cut(monkeypatch):
    """By whoever closes the gateway, long before anything is too late."""
    monkeypatch.setattr(sending, "LONGEST_S", 120.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        post = Post(f"https://127.0.0.1:{listening.getsockname()[1]}/", ["127.0.0.1"])
        said: list[str] = []

        def send() -> None:
            try:
                post.send(b"{}", {})
            except WebhookError as error:
                said.append(str(error))

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        made, _ = listening.accept()
        with made:
            assert made.recv(65536)[:1] == b"\x16"  # the hello of TLS: the handshake has begun
            post.cut()
            thread.join(30)
            assert said == ["cannot be reached (no answer in time)"]


@pytest.mark.parametrize("said", [b"", b"\x00\xff\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n", b"HTTP/1.1 200"])
def test_what_is_no_answer(said):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            made, _ = listening.accept()
            with made:
                made.recv(65536)
                made.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        if said == b"HTTP/1.1 200":
            assert Post(url, ["127.0.0.1"]).send(b"{}", {}).status == 200
        else:
            with pytest.raises(WebhookError, match="cannot be reached"):
                Post(url, ["127.0.0.1"]).send(b"{}", {})
        thread.join()
