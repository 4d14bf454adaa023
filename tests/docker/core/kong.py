#!/usr/bin/python3
"""Stands in for Kong: ``kong docker-start`` serves the routes of its declarative file, whose targets it finds by SRV
records of ``KONG_DNS_RESOLVER``; ``kong health``. Of plugins, health checks and balancing it has nothing."""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import dns.resolver  # type: ignore[import-not-found]
import yaml

#: Of one connection, not of the message: they are not passed on.
HOP: Final = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection"}
_turn = itertools.count()


class Gateway:
    def __init__(self, file: str, resolver: str) -> None:
        with open(file) as text:
            document: dict[str, Any] = yaml.safe_load(text)
        self.routes = sorted(
            ((path, route["strip_path"], service["host"], service["read_timeout"] / 1000)
             for service in document["services"] for route in service["routes"] for path in route["paths"]),
            key=lambda it: -len(it[0]),
        )  # fmt: skip
        self.targets = {it["name"]: [target["target"] for target in it["targets"]] for it in document["upstreams"]}
        address, _, port = resolver.partition(":")
        self._dns = dns.resolver.Resolver(configure=False)
        self._dns.nameservers, self._dns.port, self._dns.lifetime = [address], int(port), 5

    def endpoint(self, host: str) -> tuple[str, int]:
        found = [it for target in self.targets[host] for it in self._dns.resolve(target, "SRV")]
        chosen = found[next(_turn) % len(found)]
        return str(self._dns.resolve(chosen.target, "A")[0]), chosen.port


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def do_GET(self) -> None:
        for prefix, strip, host, timeout in self.gateway.routes:
            if self.path.startswith(prefix):
                path = self.path.removeprefix(prefix) if strip else self.path
                self.pass_on(host, path if path.startswith("/") else f"/{path}", timeout)
                return
        self.answer(404, b"no route")

    do_POST = do_PUT = do_DELETE = do_GET

    def pass_on(self, host: str, path: str, timeout: float) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        try:
            connection = http.client.HTTPConnection(*self.gateway.endpoint(host), timeout=timeout)
            connection.request(self.command, path, body, headers)
            response = connection.getresponse()
            self.answer(response.status, response.read(), response.getheaders())
        except (OSError, http.client.HTTPException, dns.exception.DNSException) as error:
            self.answer(503, str(error).encode())

    def answer(self, status: int, body: bytes, headers: list[tuple[str, str]] = []) -> None:  # noqa: B006 - not changed
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP | {"content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


def listen(name: str) -> tuple[str, int]:
    host, _, port = os.environ[name].partition(":")
    return host, int(port)


if __name__ == "__main__":
    if sys.argv[1:] == ["health"]:
        socket.create_connection(("127.0.0.1", listen("KONG_PROXY_LISTEN")[1]), timeout=5).close()
    else:
        Handler.gateway = Gateway(os.environ["KONG_DECLARATIVE_CONFIG"], os.environ["KONG_DNS_RESOLVER"])
        Server(listen("KONG_PROXY_LISTEN"), Handler).serve_forever()
