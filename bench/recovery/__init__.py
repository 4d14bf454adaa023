"""Client libraries with their own recovery, before a broker that goes away: how soon each is working again, straight to
the broker and through the sidecar.

client    a small program in the library's language (``clients/``): publishes with confirms every 100 ms, consumes
way       how it reaches the broker: ``direct``, ``port`` (an AMQP port) or ``spool`` (one with a spool)
scenario  one thing that goes wrong, for all clients on all ways at once

What a client prints: ``ok STAMP`` and ``got STAMP`` for a publish that was confirmed and a message that came, with the
time (seconds of the epoch) at which it was published; ``fails TEXT`` for a try to connect, or a connection, that
failed; ``unsent TEXT`` for a publish that did; ``gone TEXT`` when it gives up.
"""
