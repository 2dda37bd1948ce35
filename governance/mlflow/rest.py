"""MLflow's REST API 2.0, as far as it is needed (https://mlflow.org/docs/latest/rest-api.html).

Contract: whatever goes wrong is a RegistryInputError of one line that names the server without credentials. Nothing
that a server answers is trusted: answers have a largest size and a form, redirects are not followed, and credentials
never travel over plain HTTP to another machine. They come from the variables of MLflow's own client:
`MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, and
`MLFLOW_TRACKING_SERVER_CERT_PATH` for the authorities of its certificate.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from governance.errors import RegistryInputError

_TIMEOUT_S = 60.0
_LARGEST = 64 << 20
"""Of one JSON answer."""
_CHUNK = 1 << 20
_PAGE = 200
_MOST_PAGES = 10_000
_API = "/api/2.0/mlflow/"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class NotThere(RegistryInputError):
    """MLflow has no such model, version or run."""


class Tracking:
    """One MLflow server.

    Args:
        uri: `http(s)://HOST[:PORT][/PREFIX]`.
        env: where credentials are looked up.

    Raises:
        RegistryInputError: no such URI, or one that credentials must not travel to.
    """

    def __init__(self, uri: str, env: Mapping[str, str]) -> None:
        try:
            parts = urlsplit(uri)
            port = parts.port
        except ValueError:
            raise RegistryInputError("--uri: is no URL: write http(s)://HOST:PORT") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RegistryInputError("--uri: write http(s)://HOST:PORT of an MLflow server")
        if parts.username is not None or not uri.isprintable() or not uri.isascii() or " " in uri:
            raise RegistryInputError(
                "--uri: no user and no blanks in it; credentials come from MLFLOW_TRACKING_* variables"
            )
        self._host, self._port, self._tls = parts.hostname, port, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self.uri = f"{parts.scheme}://{parts.netloc}{self._prefix}"
        """Without a slash at its end."""
        self._headers = {"Accept": "application/json", "User-Agent": "tidegate", **_credentials(env)}
        if "Authorization" in self._headers and not self._tls and not _loopback(self._host):
            raise RegistryInputError(f"{self.uri}: credentials do not travel over plain http:// to another machine")
        self._ca = env.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None

    def models(self) -> Iterator[dict[str, Any]]:
        """Every registered model."""
        return self._pages("registered-models/search", "registered_models", {})

    def model(self, name: str) -> dict[str, Any]:
        """One of them, with `aliases`. Raises NotThere, RegistryInputError, as all that follow."""
        return _dict(self._get("registered-models/get", {"name": name}), "registered_model")

    def versions(self, model: str) -> Iterator[dict[str, Any]]:
        """Its versions."""
        quotation = "'" if "'" not in model else '"'
        if quotation in model:
            raise RegistryInputError(
                f"{self.uri}: a name with both quotation marks cannot be searched for: name --version"
            )
        return self._pages("model-versions/search", "model_versions", {"filter": f"name={quotation}{model}{quotation}"})

    def version(self, model: str, version: str) -> dict[str, Any]:
        """One version, with `aliases` and `tags`."""
        return _dict(self._get("model-versions/get", {"name": model, "version": version}), "model_version")

    def run(self, name: str) -> dict[str, Any]:
        """A run: `info`, `data`, `inputs`."""
        return _dict(self._get("runs/get", {"run_id": name}), "run")

    def logged_model(self, name: str) -> dict[str, Any]:
        """A logged model of MLflow 3: `info`, `data`."""
        return _dict(self._get(f"logged-models/{quote(name, safe='')}", {}), "model")

    def artifact_uri(self, model: str, version: str) -> str:
        """Where its files lie."""
        found = self._get("model-versions/get-download-uri", {"name": model, "version": version}).get("artifact_uri")
        return found if isinstance(found, str) else ""

    def set_tag(self, model: str, version: str, key: str, value: str) -> None:
        """Of a version."""
        self._send("POST", "model-versions/set-tag", {"name": model, "version": version, "key": key, "value": value})

    def delete_tag(self, model: str, version: str, key: str) -> None:
        """Of a version."""
        self._send("DELETE", "model-versions/delete-tag", {"name": model, "version": version, "key": key})

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Of a model."""
        self._send("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})

    def delete_alias(self, model: str, alias: str) -> None:
        """Of a model."""
        self._send("DELETE", "registered-models/alias", {"name": model, "alias": alias})

    def artifacts(self, folder: str) -> list[tuple[str, bool]]:
        """Names in a folder of the server's artifacts, and whether they are folders."""
        answer = self._json("GET", f"{_ARTIFACTS}?{urlencode({'path': folder})}")
        return [(str(one["path"]), bool(one.get("is_dir"))) for one in _list(answer, "files") if "path" in one]

    def download(self, path: str, into: BinaryIO) -> None:
        """One file of the server's artifacts."""
        with self._answer("GET", f"{_ARTIFACTS}/{quote(path)}") as answer:
            while chunk := answer.read(_CHUNK):
                _write(into, chunk)
            if answer.length:
                raise RegistryInputError(f"{self.uri}: broke off in the middle of a file: try again")

    def _pages(self, what: str, key: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        token = ""
        for _ in range(_MOST_PAGES):
            more = {"page_token": token} if token else {}
            answer = self._get(what, {**query, "max_results": str(_PAGE), **more})
            yield from _list(answer, key)
            token = answer.get("next_page_token") or ""
            if not isinstance(token, str) or not token:
                return
        raise RegistryInputError(f"{self.uri}: its list does not come to an end")

    def _get(self, what: str, query: Mapping[str, str]) -> dict[str, Any]:
        return self._json("GET", f"{_API}{what}" + (f"?{urlencode(query)}" if query else ""))

    def _send(self, method: str, what: str, document: Mapping[str, str]) -> None:
        self._json(method, f"{_API}{what}", msgspec.json.encode(document))

    def _json(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        with self._answer(method, path, body) as answer:
            data = answer.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise RegistryInputError(f"{self.uri}: answers with more than {_LARGEST >> 20} MiB")
        try:
            found = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        if not isinstance(found, dict):
            raise RegistryInputError(f"{self.uri}: answers what no MLflow does: check --uri")
        return found

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
        """An answer of status 200."""
        headers = {**self._headers, **({} if body is None else {"Content-Type": "application/json"})}
        try:
            with contextlib.closing(self._connection()) as made:
                made.request(method, self._prefix + path, body, headers)
                answer = made.getresponse()
                if answer.status != 200:
                    raise self._refused(answer)
                yield answer
        except ssl.SSLCertVerificationError as error:
            raise RegistryInputError(f"{self.uri}: its certificate is not accepted ({error.verify_message})") from None
        except (OSError, http.client.HTTPException) as error:
            raise RegistryInputError(f"{self.uri}: cannot be asked ({type(error).__name__}): check --uri") from None

    def _connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._ca)
        return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)

    def _refused(self, answer: http.client.HTTPResponse) -> RegistryInputError:
        if answer.status in (401, 403):
            return RegistryInputError(f"{self.uri}: does not let us in ({answer.status}): set MLFLOW_TRACKING_TOKEN")
        try:
            said = msgspec.json.decode(answer.read(65536))
            code, message = str(said["error_code"]), str(said["message"])
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            return RegistryInputError(f"{self.uri}: answers {answer.status}: check --uri")
        line = "".join(char if char.isprintable() else " " for char in message)[:200]
        kind = NotThere if code == "RESOURCE_DOES_NOT_EXIST" else RegistryInputError
        return kind(f"{self.uri}: {line}")


def _credentials(env: Mapping[str, str]) -> dict[str, str]:
    token, user = env.get("MLFLOW_TRACKING_TOKEN", ""), env.get("MLFLOW_TRACKING_USERNAME", "")
    text = f"Bearer {token}"
    if user:
        pair = f"{user}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}"
        text = f"Basic {base64.b64encode(pair.encode()).decode()}"
    elif not token:
        return {}
    if not text.isascii() or not text.isprintable():
        raise RegistryInputError("MLFLOW_TRACKING_TOKEN: holds what no header can")
    return {"Authorization": text}


def _write(into: BinaryIO, chunk: bytes) -> None:
    try:
        into.write(chunk)
    except OSError as error:  # a full disk is no trouble of the server's
        raise RegistryInputError(f"{into.name}: cannot be written ({error.strerror})") from None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _dict(answer: dict[str, Any], key: str) -> dict[str, Any]:
    found = answer.get(key)
    if not isinstance(found, dict):
        raise RegistryInputError(f"MLflow's answer has no `{key}`: is --uri an MLflow server?")
    return found


def _list(answer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = answer.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RegistryInputError(f"MLflow's answer has no list of `{key}`: is --uri an MLflow server?")
    return found
