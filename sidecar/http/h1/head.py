"""Message heads, sans-I/O: strict parsing into what a proxy needs, and the bytes it sends on.

The head is never taken apart and put together again. One possessive regular expression accepts or refuses the whole
of it, a second one finds the few fields a proxy must know, and what is sent on is the received block itself, less the
lines that end at this hop and plus those that are added. So everything else keeps its order, case and bytes, and a head
costs about two microseconds.

Grammar: RFC 9112 §2 to §6 and RFC 9110 §5 and §7.6.1. What two implementations could read in two ways is refused, not
repaired. What has one reading and an odd form is refused in requests, and accepted in answers, where it goes on in the
usual form (docs/http.md).
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.exchange.load_report import ASK
from sidecar.exchange.time_left import FIELD as _DEADLINE
from sidecar.exchange.time_left import granted
from sidecar.http.h1.blocks import RequestBlock, ResponseBlock
from sidecar.http.h1.diagnose import diagnose, head_too_large
from sidecar.http.h1.framing import CHUNKED, UNTIL_CLOSE, framing, merge
from sidecar.http.h1.lines import END_TO_END, TOKEN, Fields, Pairs, without
from sidecar.http.h1.scanner import (
    ASKS_LOAD,
    EXPECTS_CONTINUE,
    HAS_DEADLINE,
    KEEPS_ALIVE,
    TRACE_SHIFT,
    TRACED,
    scan_request,
    scan_response,
)

#: A field line. The value holds no control byte but tab, so neither CR, LF nor NUL; a line that begins with a space
#: (obs-fold) or has one before its colon does not match.
_FIELDS: Final = rb"(?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+"

_REQUEST: Final = re.compile(rb"(" + TOKEN + rb"++) ([\x21-\x7e\x80-\xff]++) HTTP/1\.([01])\r\n" + _FIELDS + rb"\r\n")
_RESPONSE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n" + _FIELDS + rb"\r\n")
#: Besides those that are known by name: fields that only sidecars may send, which are found under an empty name. Apps
#: that make variables of names do not see the difference between a hyphen and an underscore.
_OURS_HERE: Final = rb"|x[-_]sidecar[-_]" + TOKEN + rb"*+"
#: The fields that a proxy acts upon. The look-ahead on the first letter spares most lines the alternation.
_KNOWN_IN_REQUEST: Final = re.compile(
    rb"\r\n(?=[bcefhkptuxBCEFHKPTUX])(?i:(host|connection|content-length|transfer-encoding|traceparent|tracestate"
    rb"|x-request-id|x-forwarded-for|x-forwarded-proto|forwarded|expect|upgrade|te|keep-alive|proxy-connection"
    rb"|b3|x-b3-[a-z]++|http2-settings|x-sidecar-deadline|" + ASK + rb")" + _OURS_HERE + rb"):([^\r]*+)"
)
_KNOWN_IN_RESPONSE: Final = re.compile(
    rb"\r\n(?=[ckprtuxCKPRTUX])(?i:(connection|content-length|transfer-encoding|keep-alive|proxy-connection|upgrade"
    rb"|retry-after|x-sidecar-error|x-sidecar-retried)" + _OURS_HERE + rb"):([^\r]*+)"
)
_OURS: Final = re.compile(rb"\r\n(?i:x[-_]sidecar[-_])[^\r]*+")
#: Those that are about one hop, so that a peer's go no further.
_OUR_OWN: Final = re.compile(rb"\r\n(?i:x[-_]sidecar[-_](?:error|retried)):[^\r]*+")
#: uri-host [":" port] of RFC 9110 §7.2; an IPv6 or future literal in brackets, perhaps with a zone (RFC 6874).
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]++|\[[0-9A-Fa-f:.vV]++(?:%25[A-Za-z0-9\-._~%]++)?\])(?::[0-9]{0,5})?"
)
#: It is empty where the target has no authority (RFC 9112 §3.2).
_HOST_VALUE: Final = re.compile(rb"[ \t]*+(?:" + _HOST.pattern + rb")?[ \t]*+")

#: Fields that only concern one connection (RFC 9110 §7.6.1). Transfer-Encoding stays: its framing is passed on as is.
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"}
)
#: Those, and what only sidecars may say.
_ENDS_HERE: Final = frozenset({*_HOP_BY_HOP, b"x-sidecar-error", b"x-sidecar-retried", ASK, b""})
#: Nobody asks for these of an answer: what they say is told by itself.
_TOLD: Final = (b"content-length", b"connection")
#: Each connection option costs a pass over the head, so there may only be so many.
_MAX_OPTIONS: Final = 32
#: How the names of protocols begin that would be requests again: HTTP (h2c among it), and TLS.
_HIDDEN_PROTOCOLS: Final = (b"h2", b"http", b"tls")
METHOD_NAMES: Final = {m.encode(): m for m in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")}


def begun_request(data: bytes, limits: Limits) -> RequestBlock | None:
    """The head that ``data`` begins with, if all of it is there in its usual form; ``None``: :func:`read_request` may
    still know it."""
    scan = scan_request
    found = scan(data, limits.bounds) if scan is not None else None
    if found is None:
        return None
    onward, method, target, fields, length, flags, request_id, size = found
    head = RequestBlock(onward, method, target, 1, fields)
    head.length = length
    head.size = size
    if request_id is not None:
        head.request_id = request_id
    if flags != KEEPS_ALIVE:
        head.keep_alive = flags & KEEPS_ALIVE != 0
        head.expects_continue = flags & EXPECTS_CONTINUE != 0
        head.asks_load = flags & ASKS_LOAD != 0
        if flags & TRACED:
            head.trace_flags = flags >> TRACE_SHIFT
        if flags & HAS_DEADLINE:
            head.granted = granted(fields[_DEADLINE])
    return head


def parse_request(raw: bytes, limits: Limits, default_host: bytes = b"localhost") -> RequestBlock:
    """Parse one whole head, final empty line included. An HTTP/1.0 request goes on as HTTP/1.1, where a Host is a must:
    without one it gets ``default_host``. Raises :class:`ProtocolError`."""
    head = begun_request(raw, limits)
    return head if head is not None and head.size == len(raw) else read_request(raw, limits, default_host)


def read_request(raw: bytes, limits: Limits, default_host: bytes = b"localhost") -> RequestBlock:
    """The same without the scanner: every form of a request, and every reason to refuse one."""
    if len(raw) > limits.head:
        raise head_too_large(limits.head)
    if raw.count(b"\r\n") > limits.headers + 2:
        raise ProtocolError(f"the request has more than {limits.headers} header fields", "headers_too_large")
    found = _REQUEST.fullmatch(raw)
    if found is None:
        raise ProtocolError(diagnose(raw))
    method, target, minor = found.groups()
    name = METHOD_NAMES.get(method)
    if name is None:
        name = _other_method(method)
    if len(target) > limits.target:
        raise ProtocolError(f"the request target is longer than {limits.target} bytes", "headers_too_large")
    pairs = _KNOWN_IN_REQUEST.findall(raw)
    fields: Fields = {}
    for field, value in pairs:
        fields[field.lower()] = value
    if len(fields) != len(pairs):
        fields = merge(pairs)
    version = 0 if minor == b"0" else 1
    head = RequestBlock(raw, name, target, version, fields)
    host = fields.get(b"host")
    if host is None:
        if version == 1:
            raise ProtocolError("the Host field is missing")
    elif not _HOST_VALUE.fullmatch(host):
        raise ProtocolError("the Host field is not a host and port")
    if b"content-length" in fields or b"transfer-encoding" in fields:
        head.length, head.raw = framing(raw, fields, version, False)
    if target[0] != 0x2F:  # "/"
        _other_forms(head)
    if version == 0:
        head.raw = head.raw.replace(b" HTTP/1.0\r\n", b" HTTP/1.1\r\n", 1)
        if host is None and b"host" not in fields:
            head.raw = b"%bhost: %b\r\n\r\n" % (head.raw[:-2], default_host)
    if not _ENDS_HERE.isdisjoint(fields):
        _hop_by_hop(head, fields, pairs)
    if _DEADLINE in fields:
        head.raw = without(head.raw, _DEADLINE)  # each try gets its own
        head.granted = granted(fields[_DEADLINE])
    if b"expect" in fields:
        if fields[b"expect"].strip(b" \t").lower() != b"100-continue":
            raise ProtocolError("the only expectation there is, is 100-continue")
        head.expects_continue = version == 1
        if version == 0:
            head.remove(b"expect")  # RFC 9110 §10.1.1: ignored in HTTP/1.0
    return head


def _other_method(method: bytes) -> str:
    """A method that we do not know goes on, but for those whose answer makes a tunnel of the connection (RFC 9110
    §9.3.6), or that begin another protocol (RFC 9113 §3.4)."""
    name = method.decode("ascii")
    if name.upper() == "CONNECT":
        raise ProtocolError("CONNECT is not offered here: this port leads to one upstream")
    if name.upper() == "PRI":
        raise ProtocolError("only HTTP/1.0 and HTTP/1.1 are spoken here")
    return name


def _other_forms(head: RequestBlock) -> None:
    """Targets that do not begin with a slash (RFC 9112 §3.2): absolute-form becomes origin-form, ``*`` stays."""
    target = head.target
    if target == b"*" and head.method == "OPTIONS":
        return
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise ProtocolError("the request target is neither a path nor a URL")
    cut = re.search(rb"[/?]", rest)
    # RFC 9112 §3.2.4: OPTIONS for a URL without a path asks about the server as a whole.
    nothing = b"*" if head.method == "OPTIONS" else b"/"
    authority, path = (rest[: cut.start()], rest[cut.start() :]) if cut else (rest, nothing)
    if not _HOST.fullmatch(authority):
        raise ProtocolError("the URL has no valid host and port")
    host = head.fields.get(b"host")
    if host is None:  # HTTP/1.0
        head.fields[b"host"] = authority
        head.raw = b"%bhost: %b\r\n\r\n" % (head.raw[:-2], authority)
    else:
        host = host.strip(b" \t").lower()
        if host != authority.lower():
            port = b":443" if len(scheme) == 5 else b":80"
            if _without_port(host, port) != _without_port(authority.lower(), port):
                raise ProtocolError("the URL's host and the Host field differ")
            # RFC 9112 §3.2.2: the URL's counts, and there is one that goes on.
            head.fields[b"host"] = authority
            head.raw = b"%bhost: %b\r\n\r\n" % (without(head.raw, b"host")[:-2], authority)
    if path[0] == 0x3F:  # "?"
        path = b"/" + path
    head.raw = head.raw.replace(b" " + target + b" ", b" " + path + b" ", 1)
    head.target = path


def _without_port(authority: bytes, default: bytes) -> bytes:
    """The same authority without a port that says nothing (RFC 9110 §4.2.3)."""
    return authority.removesuffix(b":").removesuffix(default)


def _hop_by_hop(head: RequestBlock, fields: Fields, pairs: Pairs) -> None:
    options = _options(fields)
    head.keep_alive = _kept_alive(options, head.version)
    upgrade = fields.get(b"upgrade", b"").strip(b" \t")
    if upgrade and b"upgrade" in options and head.version == 1 and not _hides_requests(upgrade):
        head.upgrade = upgrade
    trailers = b"te" in fields and b"trailers" in fields[b"te"].lower()
    raw = _onward(head.raw, pairs, options)
    if b"" in fields or ASK in fields:
        raw = _OURS.sub(b"", raw)  # nothing else that a client says of us is believed
        head.asks_load = ASK in fields
    for name in options:
        if name not in END_TO_END:
            fields.pop(name, None)
    if head.upgrade:
        raw = b"%bconnection: upgrade\r\nupgrade: %b\r\n\r\n" % (raw[:-2], head.upgrade)
    elif trailers:
        raw = raw[:-2] + b"te: trailers\r\nconnection: te\r\n\r\n"
    head.raw = raw


def _hides_requests(upgrade: bytes) -> bool:
    """Whether one of these protocols would be requests again, in a tunnel where nobody here sees them."""
    return any(protocol.startswith(_HIDDEN_PROTOCOLS) for protocol in _protocols(upgrade))


def begun_response(data: bytes, limits: Limits, method: str) -> ResponseBlock | None:
    """The same of the head of an answer to ``method``."""
    scan = scan_response
    scanned = scan(data, limits.bounds) if scan is not None else None
    if scanned is None:
        return None
    onward, status, fields, length, keep_alive, size = scanned
    head = ResponseBlock(onward, status, fields, 0 if method == "HEAD" else length, keep_alive)
    head.size = size
    return head


def parse_response(raw: bytes, limits: Limits, method: str, peer: bool = False) -> ResponseBlock:
    """Parse one whole head of an answer to ``method``. ``peer``: a sidecar has sent it, so that it may have
    ``x-sidecar-`` fields. Raises :class:`ProtocolError` with code ``bad_upstream``."""
    head = begun_response(raw, limits, method)
    return head if head is not None and head.size == len(raw) else read_response(raw, limits, method, peer)


def read_response(raw: bytes, limits: Limits, method: str, peer: bool = False) -> ResponseBlock:
    """The same without the scanner."""
    found = _RESPONSE.fullmatch(raw)
    if found is None:
        raise ProtocolError("the upstream's answer is not valid HTTP: " + diagnose(raw), "bad_upstream")
    if len(raw) > limits.head:
        raise ProtocolError(f"the head of the upstream's answer is larger than {limits.head} bytes", "bad_upstream")
    if raw.count(b"\r\n") > limits.headers + 2:
        raise ProtocolError(f"the upstream's answer has more than {limits.headers} header fields", "bad_upstream")
    status = int(found[1])
    version = raw[7] - 0x30  # HTTP/1.x
    pairs = _KNOWN_IN_RESPONSE.findall(raw)
    fields: Fields = {}
    for name, value in pairs:
        fields[name.lower()] = value
    options: tuple[bytes, ...] = ()
    keep_alive = version == 1
    try:
        if len(fields) != len(pairs):
            fields = merge(pairs, lengths=True)
        length = UNTIL_CLOSE
        if b"content-length" in fields or b"transfer-encoding" in fields:
            length, raw = framing(raw, fields, version, True)
        connection = fields.get(b"connection")
        if connection == b" keep-alive":
            keep_alive = True
        elif connection is not None:
            options = _options(fields)
            keep_alive = _kept_alive(options, version)
    except ProtocolError as error:
        raise ProtocolError(f"the upstream's answer is ambiguous: {error}", "bad_upstream") from None
    if status < 200 or status == 204:
        if length > 0 or length == CHUNKED:
            # There is no body, whatever the fields say (RFC 9112 §6.3), and they may not be there (RFC 9110 §8.6). Who
            # sends one all the same is not asked again over this connection.
            raw = without(without(raw, b"content-length"), b"transfer-encoding")
            keep_alive = False
        length = 0
    if method == "HEAD" or status == 304:
        if status == 304 and length == CHUNKED:
            keep_alive = False
        length = 0
    if not _ENDS_HERE.isdisjoint(fields):
        if b"" in fields or b"x-sidecar-error" in fields or b"x-sidecar-retried" in fields:
            raw = (_OUR_OWN if peer else _OURS).sub(b"", raw)
            if not peer:
                fields.pop(b"x-sidecar-error", None)
                fields.pop(b"x-sidecar-retried", None)
        if status != 101:
            raw = _onward(raw, pairs, options)
    if version == 0:
        raw = b"HTTP/1.1" + raw[8:]
    for name in _TOLD:
        fields.pop(name, None)
    return ResponseBlock(raw, status, fields, length, keep_alive)


def is_switch(head: ResponseBlock, upgrade: bytes) -> bool:
    """Whether a 101 leads to a protocol that was asked for (RFC 9110 §7.8); ``upgrade`` is what went on."""
    return bool(upgrade) and not _protocols(head.fields.get(b"upgrade", b"")) - _protocols(upgrade)


def _protocols(upgrade: bytes) -> set[bytes]:
    """The protocols that an Upgrade field names, lower case."""
    return {protocol for item in upgrade.lower().split(b",") if (protocol := item.strip(b" \t"))}


def _kept_alive(options: tuple[bytes, ...], version: int) -> bool:
    """Whether the connection is to be used again (RFC 9112 §9.3)."""
    return b"close" not in options and (version == 1 or b"keep-alive" in options)


def _onward(raw: bytes, pairs: Pairs, options: tuple[bytes, ...]) -> bytes:
    """The head without what ends at this hop: hop-by-hop fields, and those that Connection names."""
    for name, value in pairs:
        if name.lower() in _HOP_BY_HOP:
            raw = raw.replace(b"\r\n%b:%b\r\n" % (name, value), b"\r\n", 1)
    for name in options:
        if name not in END_TO_END:
            raw = without(raw, name)
    return raw


def _options(fields: Fields) -> tuple[bytes, ...]:
    """The connection options, lower case."""
    value = fields.get(b"connection")
    if value is None:
        return ()
    if value == b" keep-alive":
        return (b"keep-alive",)
    options = tuple([option for item in value.lower().split(b",") if (option := item.strip(b" \t"))])
    if len(options) > _MAX_OPTIONS:
        raise ProtocolError(f"more than {_MAX_OPTIONS} connection options")
    return options
