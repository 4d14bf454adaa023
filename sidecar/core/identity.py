"""Header fields that say who asks."""

from __future__ import annotations

from typing import Final

#: Fields by which services usually know who asks; lower case.
IDENTITY: Final = frozenset(
    {
        "authorization", "proxy-authorization", "cookie", "api-key", "apikey", "x-api-key", "x-auth-token",
        "x-access-token", "x-session-token", "x-amz-security-token", "x-goog-api-key", "ocp-apim-subscription-key",
        "x-forwarded-user", "x-remote-user", "x-tenant-id", "x-client-cert", "x-forwarded-client-cert",
    }
)  # fmt: skip
