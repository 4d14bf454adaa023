"""The names that spans use, all in this one table: OpenTelemetry's semantic conventions, and what they lack.

Source: open-telemetry/semantic-conventions 1.44. HTTP, network, server, client, URL and error are stable. Messaging and
RabbitMQ are in development and change from release to release: whoever follows them changes this file alone.
"""

from __future__ import annotations

from typing import Final

# -- HTTP: stable ------------------------------------------------------------------------------------------------------

METHOD: Final = "http.request.method"
METHOD_ORIGINAL: Final = "http.request.method_original"
RESEND_COUNT: Final = "http.request.resend_count"
STATUS_CODE: Final = "http.response.status_code"
ROUTE: Final = "http.route"
URL_FULL: Final = "url.full"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
CLIENT_ADDRESS: Final = "client.address"
PEER_ADDRESS: Final = "network.peer.address"
PEER_PORT: Final = "network.peer.port"
PROTOCOL_VERSION: Final = "network.protocol.version"
ERROR_TYPE: Final = "error.type"

#: Values: a method that is not known, and what spans are called then; an error that has no better name.
OTHER: Final = "_OTHER"
OTHER_METHOD_NAME: Final = "HTTP"

# -- messaging: in development -----------------------------------------------------------------------------------------

MESSAGING_SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
ROUTING_KEY: Final = "rabbitmq.destination.routing_key"

RABBITMQ: Final = "rabbitmq"

# -- the sidecar's own -------------------------------------------------------------------------------------------------

UPSTREAM: Final = "sidecar.upstream"
ATTEMPTS: Final = "sidecar.attempts"
REQUEST_ID: Final = "sidecar.request_id"
#: A consumer's tag; the code of the broker's answer; whether a message came out of the spool.
CONSUMER: Final = "sidecar.consumer"
REPLY_CODE: Final = "sidecar.reply_code"
SPOOLED: Final = "sidecar.spooled"
#: The sidecar's own code, also where the conventions see no error.
ERROR: Final = "sidecar.error"
#: The code of a peer sidecar that answered in place of its app.
PEER_ERROR: Final = "sidecar.peer_error"
#: Why a connection failed, in one word.
CAUSE: Final = "sidecar.cause"
