"""Publishers and consumers behind a sidecar whose broker is ended again and again, and a ledger of what became of each
message."""
