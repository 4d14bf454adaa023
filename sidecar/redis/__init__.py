"""Redis, as far as limits that sidecars share need it: its protocol, a client, and what is asked.

    limits ── run(script, key) ──▶ client ── MOVED? NOSCRIPT? ──▶ node ── reconnects ──▶ connection ──▶ resp
                                      └── which one is the master? ──▶ sentinel

A client of our own, because a general one costs ten times as much per question, and is another dependency.
"""
