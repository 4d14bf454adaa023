"""Databases on this host's disk, SQLite, for one process alone: what the AMQP spool and the queues of HTTP requests
have in common.

:class:`~sidecar.storage.database.DatabaseFile` opens, checks, watches and mends a file; what is in it is its user's.
"""
