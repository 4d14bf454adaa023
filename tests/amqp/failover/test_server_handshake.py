from __future__ import annotations

from struct import pack

import pytest

from sidecar.amqp.failover.credential_cache import Credential
from sidecar.amqp.failover.server_handshake import PROPERTIES, ServerHandshake, UnknownClient, renewed
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.wire.constants import (
    COMMAND_INVALID,
    CONNECTION_OPEN,
    CONNECTION_OPEN_OK,
    CONNECTION_START,
    CONNECTION_START_OK,
    CONNECTION_TUNE,
    CONNECTION_TUNE_OK,
    NOT_ALLOWED,
    AmqpError,
)
from sidecar.amqp.wire.handshake import Handshake
from sidecar.amqp.wire.methods import Arguments, method, short
from sidecar.amqp.wire.tables import decode_table, encode_table


def long(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def start_ok(response: bytes = b"\0anna\0secret") -> bytes:
    properties = encode_table({"product": "tests", "capabilities": {"connection.blocked": True}})
    return method(0, CONNECTION_START_OK, properties + short("PLAIN") + long(response) + short("en_US"))


def tune_ok(channel_max: int = 2047, frame_max: int = 131_072, heartbeat: int = 30) -> bytes:
    return method(0, CONNECTION_TUNE_OK, pack(">HIH", channel_max, frame_max, heartbeat))


def open_(vhost: str = "/") -> bytes:
    return method(0, CONNECTION_OPEN, short(vhost) + b"\0\0")


def anna(*vhosts: str) -> Credential:
    account = Credential("anna", b"", b"")
    account.vhosts = dict.fromkeys(vhosts, 1.0)
    return account


class Client:
    def __init__(self, catalog: BrokerCatalog) -> None:
        self.handshake = Handshake()
        self.reception = ServerHandshake(catalog)
        self.hears(self.reception.greeting())

    def hears(self, frame: bytes) -> None:
        self.heard = self.handshake.from_broker(frame, 0, len(frame)) if frame else b""

    def says(self, frame: bytes) -> None:
        self.hears(self.reception.takes(self.handshake.from_client(frame, 0, len(frame))))


def test_a_client_comes_in() -> None:
    client = Client(BrokerCatalog())
    arguments = Arguments(client.heard, 0, len(client.heard))
    assert client.heard[7:11] == CONNECTION_START.to_bytes(4, "big")
    assert (arguments.u8(), arguments.u8()) == (0, 9)
    table = long(arguments.long_bytes())
    assert decode_table(table, 0, len(table)) == PROPERTIES
    assert set(arguments.long_bytes().split()) == {b"PLAIN", b"AMQPLAIN"}
    assert arguments.long_bytes() == b"en_US"

    client.says(start_ok())
    assert client.heard == b""
    login = client.reception.login
    assert login is not None
    assert (login.mechanism, login.response) == ("PLAIN", b"\0anna\0secret")
    assert decode_table(login.properties, 0, len(login.properties))["product"] == "tests"

    client.hears(client.reception.admit(anna("/")))
    assert client.heard == method(0, CONNECTION_TUNE, pack(">HIH", 2047, 131_072, 60))
    client.says(tune_ok())
    assert client.heard == b""
    client.says(open_())
    assert client.heard == method(0, CONNECTION_OPEN_OK, b"\0")
    handshake = client.handshake
    assert handshake.done
    assert (handshake.user, handshake.vhost, handshake.heartbeat) == ("anna", "/", 30)


def test_it_introduces_itself_as_the_broker_that_was_there() -> None:
    catalog = BrokerCatalog()
    greeting = method(0, CONNECTION_START, b"\0\x09" + encode_table({"product": "RabbitMQ", "version": "9.9"}))
    catalog.hears(CONNECTION_START, greeting, 0, len(greeting))
    tune = method(0, CONNECTION_TUNE, pack(">HIH", 100, 65_536, 580))
    catalog.hears(CONNECTION_TUNE, tune, 0, len(tune))
    client = Client(catalog)
    assert client.heard == greeting
    client.says(start_ok())
    client.hears(client.reception.admit(anna("/")))
    assert client.heard == tune


@pytest.mark.parametrize(("offered", "channel_max", "good"), [
    (2047, 2047, True), (2047, 1, True), (2047, 0, False), (2047, 2048, False), (0, 0, True), (0, 65_535, True),
])  # fmt: skip
def test_no_more_channels_than_the_broker_allows(offered: int, channel_max: int, good: bool) -> None:
    catalog = BrokerCatalog()
    catalog.tune = (offered, 131_072, 60)
    client = Client(catalog)
    client.says(start_ok())
    client.hears(client.reception.admit(anna("/")))
    if good:
        client.says(tune_ok(channel_max))
    else:
        with pytest.raises(AmqpError, match="channel_max") as caught:
            client.says(tune_ok(channel_max))
        assert caught.value.code == NOT_ALLOWED


def test_nobody_goes_on_before_the_login_was_looked_up() -> None:
    client = Client(BrokerCatalog())
    client.says(start_ok())
    with pytest.raises(AmqpError) as caught:
        client.says(tune_ok())
    assert caught.value.code == COMMAND_INVALID
    with pytest.raises(AmqpError, match="being looked at"):
        client.reception.takes(tune_ok())


def test_strangers_are_to_come_again_when_there_is_a_broker() -> None:
    client = Client(BrokerCatalog())
    client.says(start_ok())
    client.hears(client.reception.admit(None))
    assert client.heard == method(0, CONNECTION_TUNE, pack(">HIH", 2047, 131_072, 60))
    client.says(tune_ok())
    with pytest.raises(UnknownClient, match="the login"):
        client.says(open_())


def test_so_is_who_was_never_let_into_the_vhost() -> None:
    client = Client(BrokerCatalog())
    client.says(start_ok())
    client.hears(client.reception.admit(anna("/")))
    client.says(tune_ok())
    with pytest.raises(UnknownClient, match="the vhost '/other' for 'anna'"):
        client.says(open_("/other"))


def test_a_new_secret_takes_the_place_of_the_old_one() -> None:
    assert renewed("PLAIN", b"\0anna\0old", b"new") == b"\0anna\0new"
    response = encode_table({"LOGIN": "anna", "PASSWORD": "old"})[4:]
    assert renewed("AMQPLAIN", response, b"new") == encode_table({"LOGIN": "anna", "PASSWORD": "new"})[4:]
    assert renewed("EXTERNAL", b"anna", b"new") == b"anna"
    assert renewed("PLAIN", b"what", b"new") == b"what"
