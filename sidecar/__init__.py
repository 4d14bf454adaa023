"""A service sidecar: a proxy attached to one workload, which carries its inbound and outbound traffic.

The words used in this code, a line each:

access log       one line per finished exchange
admin API        the HTTP port for operators: health, metrics, upstreams, reload, drain
agent            the object that is a running sidecar: it starts, reloads, drains and stops everything else
answer           what an upstream or the app sends back; a *reply* is what the sidecar says itself
app              the service's own process, which listens on localhost
attempt, try     one sending of a request to one endpoint; an exchange may have several
balancer         picks one endpoint out of those that are eligible
bulkhead         bounds what is under way at once, with a bounded queue in front
chain            the ordered hooks of the filters that an exchange runs through
circuit breaker  closed: calls pass; open: they are refused at once; half-open: a few pass to find out
cluster          the endpoints of one upstream, and which of them are eligible
control plane    everything that is not in the way of traffic: registry, health, admin, export
data plane       what moves bytes: listeners, exchanges, pools, relays
downstream       the client's side of an exchange; upstream is the other one
drain            finish what is under way, take in nothing new
ejection         taking a failing endpoint out of the rotation for a while
endpoint         one address of an upstream
exchange         one request with its answer, or one TCP connection, from its beginning to its one end
filter           applies one mechanism to traffic; it lets an exchange continue, or replies to it
head             a message's first line and header fields
inbound          traffic from others to the app
instance         one instance of a service, as a registry knows it
listener         one bound address and what belongs to it
mechanism        a pure object with injected time: token bucket, breaker, backoff, limiter
outbound         traffic from the app to others
pool             kept connections to the endpoints of an upstream
registry         where instances are made known and found: Consul, a directory, or none
route            a part of a listener's traffic with policies of its own
tunnel           an exchange that has left HTTP (an upgrade), or a TCP connection: bytes pass as they are
upstream         one thing that the app dials, under a name
wheel            the one clock for all deadlines of the data plane
"""

__version__ = "0.1.0"
