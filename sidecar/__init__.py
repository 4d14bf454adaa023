"""A service sidecar: a proxy attached to one workload, which carries its inbound and outbound traffic.

The words used in this code, a line each:

access log       one line per finished exchange
admin API        the HTTP port for operators: health, metrics, upstreams, reload, drain
agent            the object that is a running sidecar: it starts, reloads, drains and stops everything else
alarm            the broker is short of memory or disk and takes no publishes
answer           what an upstream or the app sends back; a *reply* is what the sidecar says itself
app              the service's own process, which listens on localhost
attached         a session that has a broker; without one, for the time being, it is detached
attempt, try     one sending of a request to one endpoint; an exchange may have several
balancer         picks one endpoint out of those that are eligible
batch            small writes to a broker that leave as one
broker           a server of AMQP, RabbitMQ that is; an endpoint of an AMQP upstream
bulkhead         bounds what is under way at once, with a bounded queue in front
chain            the ordered hooks of the filters that an exchange runs through
channel          one of several conversations on an AMQP connection; confirms and delivery tags are counted on each
circuit breaker  closed: calls pass; open: they are refused at once; half-open: a few pass to find out
cluster          the endpoints of one upstream, and which of them are eligible
confirm          the broker's answer to a publish that it has taken (ack) or not (nack)
control plane    everything that is not in the way of traffic: registry, health, admin, export
data plane       what moves bytes: listeners, exchanges, pools, relays
dead letter      a spooled message that will not be sent any more, kept with the reason
depth            how many messages of a queue are ready to be delivered
downstream       the client's side of an exchange; upstream is the other one
drain            finish what is under way, take in nothing new
ejection         taking a failing endpoint out of the rotation for a while
endpoint         one address of an upstream
exchange         one request with its answer, or one TCP or AMQP connection, from its beginning to its one end; and,
                 about brokers, what publishes are sent to
filter           applies one mechanism to traffic; it lets an exchange continue, or replies to it
frame            what an AMQP connection is cut into: a method, a header, a piece of a body, a heartbeat
gate             what a publish may have to wait for: a rate, a queue's depth, an alarm, confirms, room in the spool
head             a message's first line and header fields
hold             what is held of an AMQP port: publishes that wait for a gate
inbound          traffic from others to the app
instance         one instance of a service, as a registry knows it
keeper           puts publishes of an AMQP port into its spool, and answers for them
key              what keeps its order in the spool: a virtual host and a lane, whoever published it
lane             publishes that must keep their order: those of one channel to one exchange
leg              one of the two connections of a session: the client's, the broker's
listener         one bound address and what belongs to it
mechanism        a pure object with injected time: token bucket, breaker, backoff, limiter
outbound         traffic from the app to others
partition        one of several routing keys that an exchange's messages are spread over
pool             kept connections to the endpoints of an upstream
publish          one message that a client sends, whole: method, header, body
reception        the sidecar in the broker's place in a handshake
registry         where instances are made known and found: Consul, a directory, or none
replay           sending what is in the spool
restoration      saying again, over a new broker connection, what a client had set up over the last
route            a part of a listener's traffic with policies of its own
session          an AMQP connection of a client and the one to a broker that belongs to it; with a spool, one broker
                 connection after the other
spool            what is on disk of an AMQP port: publishes that the broker has not confirmed, and dead letters
stand-in         the sidecar in the broker's place, for a detached session
tunnel           an exchange that has left HTTP (an upgrade), or a TCP connection: bytes pass as they are
upstream         one thing that the app dials, under a name
wheel            the one clock for all deadlines of the data plane
window           how many publishes of a channel, or messages of a key, the broker may have left unconfirmed
"""

__version__ = "0.1.0"
