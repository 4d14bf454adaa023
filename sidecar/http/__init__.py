"""HTTP ports: requests, their answers, and kept connections.

The words of this package, as in the docstring of ``sidecar``.

block                     a head as the bytes that it came as, and what was found in them
detour                    a request that is sent to another upstream, as its own cannot answer
subrequest                a request that the sidecar itself sends to one of its upstreams: a detour, a mirror's copy
"""
