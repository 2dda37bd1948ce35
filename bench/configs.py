"""Configuration of each proxy: one worker, kept-alive connections on both sides, no access log."""

import hashlib
import json
from pathlib import Path
from typing import Any

from bench.load import KEY, MODEL
from bench.upstream import Server

POLICY_RULES = 1000
_ENVOY_TYPES = "type.googleapis.com/envoy.extensions"
REQUESTS_ON_A_CONNECTION = 100_000_000
"""nginx closes a connection after 1,000 requests unless told otherwise."""


def nginx(directory: Path, upstream: Server, listen: str) -> str:
    """`nginx.conf`: HTTP proxying as its documentation says for kept-alive upstreams."""
    return f"""
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  keepalive_requests {REQUESTS_ON_A_CONNECTION};
  client_max_body_size 64m;
  upstream triton {{
    server {upstream.http};
    keepalive 64;
    keepalive_requests {REQUESTS_ON_A_CONNECTION};
  }}
  server {{
    listen {listen};
    location / {{
      proxy_pass http://triton;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


def envoy(upstream: Server, http: str, grpc: str) -> str:
    """Envoy's bootstrap as JSON: a listener and a cluster for each protocol, the router filter alone."""
    pairs = [("http", http, upstream.http), ("grpc", grpc, upstream.grpc)]
    return json.dumps(
        {
            "static_resources": {
                "listeners": [_envoy_listener(name, listen) for name, listen, _ in pairs],
                "clusters": [_envoy_cluster(name, address) for name, _, address in pairs],
            }
        }
    )


def _envoy_listener(name: str, listen: str) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "60s"}}
    manager = {
        "@type": f"{_ENVOY_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP2" if name == "grpc" else "HTTP1",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_ENVOY_TYPES}.filters.http.router.v3.Router"}}
        ],
    }
    return {
        "name": name,
        "address": _envoy_address(listen),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _envoy_cluster(name: str, address: str) -> dict[str, Any]:
    protocol = "http2_protocol_options" if name == "grpc" else "http_protocol_options"
    options = {
        "@type": f"{_ENVOY_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {protocol: {}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _envoy_address(address)}}]}],
        },
    }


def _envoy_address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def tidegate_plain(upstream: Server, http: str, grpc: str, directory: Path) -> str:
    """The smallest settings: every model passed through, everyone anonymous, metrics on as by default."""
    return json.dumps(_tidegate(upstream, http, grpc, directory))


def tidegate_governed(upstream: Server, http: str, grpc: str, directory: Path, otlp: str, engine: str = "") -> str:
    """API key, a policy of 1,000 rules, a 90/10 split, metrics, and traces of 1 % of the requests.

    `engine`: `listen.grpc_engine`; empty: what is the default.
    """
    settings = _tidegate(upstream, http, grpc, directory) | {
        "routes": {
            MODEL: {
                "variants": [
                    {"name": "champion", "model": MODEL, "version": "1", "weight": 90},
                    {"name": "challenger", "model": MODEL, "version": "1", "weight": 10},
                ]
            }
        },
        "identity": {
            "api_keys": [{"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "user": "bench", "tenant": "acme"}]
        },
        "policy": {"file": str(directory / "policy.csv")},
        "telemetry": {"traces": {"endpoint": otlp, "sample_ratio": 0.01}},
    }
    if engine:
        settings["listen"]["grpc_engine"] = engine
    return json.dumps(settings)


def policy(rules: int = POLICY_RULES) -> str:
    """So many rules, memberships included; the one that allows the load is the last."""
    half = rules // 2 - 1
    allowing = [f"p, role:r{i}, tenant{i % 50}, model:m{i}, infer, allow" for i in range(half)]
    members = [f"g, user:u{i}, role:r{i}, tenant{i % 50}" for i in range(half)]
    return "\n".join(
        [
            *allowing,
            *members,
            "g, user:bench, role:bench, acme",
            f"p, role:bench, acme, model:{MODEL}, infer, allow",
            "",
        ]
    )


def _tidegate(upstream: Server, http: str, grpc: str, directory: Path) -> dict[str, Any]:
    return {
        "listen": {"http": http, "grpc": grpc},
        "state_dir": str(directory / "state"),
        "workers": 1,
        "upstreams": {"triton": {"http": upstream.http, "grpc": upstream.grpc}},
        "log": {"level": "warning"},
    }
