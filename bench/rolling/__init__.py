"""Workloads that are restarted one after the other, each with its sidecar, under a load of requests and messages: what
gets lost.

tasks    answers requests, and consumes a queue
web      calls tasks, and publishes messages
order    ``pod``: sidecar and app are two processes; the sidecar starts first and stops last. Before the app is told to
         end, ``sidecar drain``, as a hook of Compose, Kubernetes or systemd has it. ``exec``: ``sidecar exec``.
         ``unhooked``: as ``pod``, without that hook; it loses POSTs, to show what the hook is for

An app counts a request as done when its answer is a 200, a message when the broker has confirmed it, or when it has
acknowledged it. Asked to end, it begins nothing new, waits for what is under way, and says what it has counted.
"""
