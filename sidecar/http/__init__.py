"""HTTP ports: requests, their answers, and kept connections.

The words of this package, as in the docstring of ``sidecar``.

detour                    a request that is sent to another upstream, as its own cannot answer
subrequest                a request that the sidecar itself sends to one of its upstreams: a detour, a mirror's copy
"""
