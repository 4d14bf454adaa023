"""The benchmark: this sidecar, Envoy and HAProxy side by side in one run, with the same duties, on the same cores.

The proxy under test has one core to itself; its upstream (nginx) and the load generator (wrk) share the other, so the
figure that counts is the proxy's own CPU time per request, read from ``/proc``. Requests per second say less, for the
other side may be the limit. Repeats are interleaved (A B C, B C A, ...), so that drift of the machine hits everyone,
and medians are compared.

case      one kind of load: connections, target, HTTP or TCP
contender one proxy, or ``direct``, which is no proxy at all
sample    what one contender did in one case in one repeat
"""
