"""A service sidecar: a proxy attached to one workload, which carries its inbound and outbound traffic.

The words used in this code, a line each. Every name of a module or package is here, whole or word by word.

access, access log        one line per finished exchange
ack                       what a client says of a delivery that it has dealt with, and a broker of a publish; also nack
active check              an upstream's endpoint is asked whether it is well; what its tries come to is the passive way
adaptive                  of a concurrency limit: found by how much gets done, not given
address                   where something listens or is dialled: a host and a port, or a path
admin, admin API          the HTTP port for operators: health, metrics, upstreams, reload, drain
admission                 whether an AMQP port takes clients at all; when it does not, it stops listening
agent                     the object that is a running sidecar: it starts, reloads, drains and stops everything else
alarm                     the broker is short of memory or disk and takes no publishes
amplification             more tries than requests: each hop that tries again multiplies those of the hop above
AMQP                      the protocol of RabbitMQ, version 0-9-1
answer                    what an upstream or the app sends back; a *reply* is what the sidecar says itself
api                       the interface that all variants of something have in common
app                       the service's own process, which listens on localhost
argument                  what a command is given on the command line
asking                    a command asks a running sidecar
assembly                  putting listeners together: which filters stand in a chain, with which settings
attach                    to give a service of a compose file a sidecar: ``sidecar attach``
attached                  a session that has a broker; without one, for the time being, it is detached
attempt, try              one sending of a request to one endpoint; an exchange may have several
auth                      who may do what on the admin API
backoff                   how long to wait before the next attempt
balancer                  picks one endpoint out of those that are eligible
balancing                 picking endpoints: what the configuration says of it, and its trial by a validation
basic                     of balancers: that go by turns or chance alone
batch, write batch        small writes that leave as one: publishes and their answers while there is a backlog
binding                   the rule by which an exchange of a broker hands messages to a queue or to another exchange
body                      what follows a message's head
breaker, circuit breaker  closed: calls pass; open: they are refused at once; half-open: a few pass to find out
broker                    a server of AMQP, RabbitMQ that is; an endpoint of an AMQP upstream
broker catalog            what the broker has agreed to, so that it can be answered without it
broker stub               the sidecar in the broker's place, for a session that has no broker
budget                    how many tries may be repeated, as a share of the requests
buffered path             the way of publishes with a spool: each is kept until the broker or the spool has confirmed it
build                     what runs: the hot path compiled, or the source as it is
bulkhead                  bounds what is under way at once, with a bounded queue in front
callback                  a function that is given to something, to be called when it has an answer
caller                    a service that calls another one, through its sidecar
capacity                  how much an app can do at once
capture                   of a port: at which redirected connections arrive
catalog                   all that a registry knows, whether it is well or not
cause                     why a connection could not be made, in one word
chain                     the ordered hooks of the filters that an exchange runs through
changes                   of a running sidecar: told as events
channel                   one of several conversations on an AMQP connection; each counts its confirms and tags
check                     looks whether something is as it should be: a health check, the checks before a publish
checklist                 what a diagnosis looks at
child                     a process that another one has started
chosen                    of a configuration: given, and not as by default
claim                     one process takes a file for itself, and waits while another one has it
CLI                       the command line: ``sidecar run``, ``check``, ``status`` and the others
client                    who dials: the peer in front of a listener; also the dialling end of a protocol
client state              what an AMQP client has set up over one connection: declarations, consumers, confirm mode
clockwork                 time that passes only from one event to the next, in a rehearsal
cluster                   the endpoints of one upstream, and which of them are eligible
codec                     a record as bytes, and back
command                   one word of the command line, and what it does
companion                 the app that leaves together with its sidecar
compare                   tell what differs between two replays of the same requests
compiling                 making native code of the hot path with mypyc
completion                what a shell adds to a command that is being typed
compose file              where Docker Compose reads which containers there are
condition                 what a route wants of a header field: its name and a glob of its value
config                    the configuration file, read and checked; nothing of it is ignored
confirm                   the broker's answer to a publish that it has taken (ack) or not (nack)
connection                one TCP connection, with what belongs to it
connection limit          the most connections that a port accepts at once
connector                 makes connections, and makes them again
consistent hash           the same key leads to the same endpoint, whatever others come and go
constant                  a number of a specification, with a name
Consul                    the registry of HashiCorp; the sidecar talks to the agent on its own host
consumer                  who receives the messages of a queue
consumer pause            no new deliveries while the app, or something that it needs, is unwell
container                 a kind of configuration value that holds others: a list, a map, a section
content                   the header frame of a message: its size and its properties
context                   what all listeners of a sidecar share
control                   AMQP's methods that are neither publish, delivery nor acknowledgement
control plane             everything that is not in the way of traffic: registry, health, admin, export
convention                a name that others use for the same thing, too: OpenTelemetry's, for what spans say
core                      the words that all packages share; it imports none of them
credential cache          the logins that the broker has accepted before
cross schema              what keys of the configuration have to do with each other
cursor                    how far a stream of the spool has been read
dashboard                 the pages at the admin API's ``/``, as a browser makes them live
data plane                what moves bytes: listeners, exchanges, pools, relays
database                  one file of SQLite, which one process has for itself
dead letter               a spooled message that will not be sent any more, kept with the reason
decision                  what policies said of a request: admitted or refused, by which route, tried how often
declaration, declared     an AMQP client's request that an exchange or a queue be there; of settings: beside their user
deferred                  messages of a stream that the broker has not taken this time, and that others may overtake
delivery                  a message on its way to a consumer, or a stored request on its way to its upstream
demo                      a small mesh with failures, shown in a terminal
departure                 an AMQP client goes while publishes of it are held, and frees what it leaves at the broker
depth                     how many messages of a queue are ready to be delivered
diagnose                  say in words what is wrong with a message
diagnosis                 a checklist that a running sidecar works through, to say what is wrong and what to do next
dial                      to open a connection
diff                      what would change in a running sidecar: ``sidecar diff``
difference                what two configurations do not have in common, key by key
directory                 a shared folder as the registry; it needs no server
discovery                 finding the instances of a service in a registry
dispatcher                sends what is in the spool, each message when its turn has come
DNS                       the servers that host names are looked up at
document                  the configuration file as a tree of nodes that know their lines
download                  an answer's body on its way to the client
downstream                the client's side of an exchange; upstream is the other one
drain, draining           finish what is under way, take in nothing new
early                     of a connection: before it is known where it leads
ejection                  taking a failing endpoint out of the rotation for a while
ejection guard            what keeps ejection from taking out all endpoints
end                       of a connection: the client's or the upstream's; or where an exchange gives back what it took
endpoint                  one address of an upstream
environment               the variables that a configuration file may name
ephemeral                 a queue that ends with its last consumer
error                     what is wrong, in a shape that can be shown
event                     a change of a running sidecar: a line of its log, a count, and one of the last 200
exchange                  one request with its answer, or one TCP or AMQP connection, from its beginning to its one end;
                          and, about brokers, what publishes are sent to
exec                      a sidecar and its app as one: ``sidecar exec``
export                    what others than sidecars need to know of a mesh, written for them: ``sidecar export``
exposition                metrics as the text that scrapers read
extra                     what only some users need: libraries that pip brings when asked for by that name
failover                  a client stays connected while its broker goes and another one comes
fair scheduler            lets streams send in turn, so that none waits for a busy one
fallback                  what answers in place of an upstream that cannot: steps, of which the first that can does
fault                     an error of the disk, told by its meaning; also what is done to requests on purpose
feed                      what listeners of the admin API are told once a second
file                      what is on the disk under one name
filter                    applies one mechanism to traffic; it lets an exchange continue, or replies to it
finding                   what a check of a diagnosis has come to: good, bad or not applicable, with evidence
fleet                     very many endpoints of one upstream
flow                      when a publish may go on: policies, gates and the scheduler
folder                    where a registry without a server has its files
forward                   to pass frames on, from the client to the broker and back
forwarded                 who really asked, told to the app in ``x-forwarded-for`` and its kin
frame                     what an AMQP connection is cut into: a method, a header, a piece of a body, a heartbeat
framing                   where a message's body ends: by its length, in chunks, or with the connection
gate                      what a publish may have to wait for: a rate, a queue's depth, an alarm, confirms, room in the
                          spool
gather, merge             to ask all instances for something, and to put together what they tell
given up                  not tried again, here or by a hop above
guard                     keeps a failing filter of another package within its own exchange
h1                        HTTP/1.1 on the wire
half close                one side of a connection has finished sending, and still reads
handshake                 the beginning of an AMQP connection, from the protocol header to ``connection.open-ok``
haproxy, kong              gateways whose configuration can be exported
hash                      a number that depends on a text alone, so that it is the same everywhere
head                      a message's first line and header fields
health                    whether the app, an instance or an endpoint can do its work
heartbeat                 an empty AMQP frame that says that its sender is alive
hedge                     a second attempt beside a slow first one; the quicker one counts
herd                      many that do the same at the same time, as they were struck at the same time
hint                      what the author of a wrong configuration may have meant
history                   what has passed in the last quarter of an hour, in columns
hold                      to let a publish wait for its gates; *held* is what waits there
hook                      a method of a filter that is called at one point of an exchange
host                      a machine or its name; also the header field that names who is asked
HTTP                      the protocol of requests and answers, here HTTP/1.1
HTTP queue                requests that are stored on disk until their upstream takes them
id                        random characters that name one request, trace or message
inbound                   traffic from others to the app
infrastructure            what a mesh stands on: its sidecars and its registry
instance                  one instance of a service, as a registry knows it
intake                    puts publishes of an AMQP port into its spool, and answers for them
ip                        an address of the network
job                       what the event loop asks of the thread that owns a database
JSON                      the notation of answers, logs and small files
key                       a name in the configuration file, with its kind and its default; of a hash, what it is made of
kind                      what a value in the configuration may be
lab                       what a validation starts to try things out on: a sidecar and a sample service
lag                       how late the event loop is: a stall of it is one of all traffic
lane                      what must keep its order: publishes of one channel and exchange, stored requests of one route
lease                     tokens of a shared limit that one sidecar has for itself, for a second
least connections, weighted  of balancers: the fewest exchanges under way for its weight; by the weight alone
leftover                  stored requests that no queue of the configuration delivers any more
libraries                 packages of others that a configuration may need
lifecycle                 the states of something that lives for a while: it starts, works, drains and ends
lifetime                  how long a message may wait before its queues would have dropped it
limit                     the most of something that a peer may send, or the sidecar takes
limiter                   so many at once, so many waiting, first come, first served
line                      one line of a log
link                      whether the registry answers
listen                    to accept connections at an address
listener                  one bound address and what belongs to it
listening                 the servers beside the traffic: the admin API and the listener for machines
load                      how busy and how quick an endpoint is; also to read and check the configuration
log                       what the sidecar has to tell, as lines of JSON or text
login                     the user, password and virtual host with which a client opens an AMQP connection
login check               whether a broker lets the sidecar in
lookup                    a question for the addresses of a host name, and what comes back
loop                      an endpoint that leads back to the sidecar itself; elsewhere the event loop
LRU                       a bounded memory from which goes first what was not used for the longest
main                      where a program begins
man page                  the manual of the commands in roff, for packages
management API            RabbitMQ's HTTP port, asked for bindings
master                    the one Redis server of several that takes writes
match                     to find what a pattern is true of
measure                   to count and time what comes of requests
mechanism                 a pure object with injected time: token bucket, breaker, backoff, limiter
mesh                      services that reach each other through sidecars
message                   what a broker hands from publishers to consumers; in HTTP, a request or an answer
metastable                an overload that goes on after its cause has gone, because it makes work of its own
method                    a command of AMQP, such as ``basic.publish``, with its arguments
metric                    a number for Prometheus
mirror                    copies of requests for another upstream, whose answers are thrown away
model                     the configuration, typed, as the rest of the program reads it
monitor                   watches a broker's queues and alarms, over connections of the sidecar's own
name                      a host name, which becomes addresses before the data plane sees it
net                       sockets and names: dialling, listening, resolving, the timer wheel
nft                       the program that changes the kernel's rules, of nftables
node                      a Redis server that can be asked; a cluster has several
notify                    tell systemd how the sidecar is
observe                   to ask running sidecars how they are
offline                   a session or login without a broker at present
one hop                   only the hop next to a failure tries again; what it has given up is not repeated above
OpenAPI                   the admin API's description of itself
opening                   how an AMQP session begins, up to the broker's ``connection.open-ok``
operation                 what can be asked over the admin API: method, path, who answers, and its documentation
order                     the places of all filters in a chain, with the reasons
original                  of a destination: where a connection was going before it was redirected
orphan                    a sidecar whose network has gone; a process whose parent has
otel environment          the environment variables that OpenTelemetry has names for
OTLP                      OpenTelemetry's protocol, in which spans go to a collector
outage                    the time in which an upstream cannot answer
outage grace              endpoints stay in use while a registry that has lost its data is filled again
outbound                  traffic from the app to others
outcome                   what became of a stored request or a replayed message, or came of a try
outlier                   an endpoint that fails or dawdles while the others do not
pace                      how fast a background loop may turn, or an answer go on
page                      a text of the documentation, into which a simulation puts its figures
parser                    reads arguments, or text, into something with a shape
partition                 one of several routing keys that an exchange's messages are spread over
passive declare           asks a broker whether an exchange is there, without making one
peak EWMA                 an average that follows a longer time at once, and forgets it by and by
peer                      another sidecar, or the other end of a connection
pending frame             a client's frame that must not overtake a held publish
performance               how fast a mesh finds, picks and tells, as a validation measures it
phase                     how far an exchange has come: waiting, connecting, answering and the others
picture                   one moment of the demo, drawn
ping                      ask an HTTP server whether it answers
plan                      what another configuration would change, found out before anything is changed
plot                      lines over time, as SVG
policy                    which gates a publish must pass; in a configuration, a mechanism with its settings
pool                      kept connections to the endpoints of an upstream
port                      a number to listen at; an *AMQP port* is a listener that speaks AMQP
postgres, PostgreSQL      a database; of several servers one accepts writes, the primary
prefetch                  messages that are read ahead: of a consumer from its queue, of the replay from the spool
prequal                   a balancer that goes by what the endpoints' own sidecars report
priority limiter          a limiter in which what is critical goes first, and in an overload the newest
probe                     a connection or question whose only purpose is to find out whether somebody is there;
                          *probes* is the listener for machines, which ask whether the workload is well
probe channel             a channel on which a message that may close it is tried alone
process                   one running program: the sidecar's own, as the operating system sees it
prometheus                what scrapes metrics; a list of targets is exported for it
proof                     shows another sidecar that this one has the same admin token, which is not sent
property                  what a message says of itself beside its body: its type, its priority, its headers
protocol                  what is spoken on a connection; also what an object has to offer, without its class
publish                   one message that a client sends, whole: method, header, body
publisher                 a connection of the sidecar's own that publishes with confirms
publisher pool            the publishers of a replay, one for each user and virtual host
publisher slot            one place of that pool: its publisher, and what waits for it
publishing                how a channel's publishes get to the broker, and what waits behind them
pulse                     how the sidecar is, in a few numbers of the last seconds
quantile                  the value that a share of the latest ones does not exceed
queue                     what waits in line; a broker's queue holds messages for its consumers
race                      two things at once of which one wins: a kept connection that closes just as it is used
rate limit                so many per second on average, so many at once at most
reading                   what has come of a peer at once; a story as those who look for its cause see it
reason                    why a message became a dead letter
reconnect                 to find a new broker for a session that has lost its own
record                    one entry of a database or file
recorded                  kept of what really happened, for a rehearsal
recovery                  setting up again, over a new broker connection, what a client had set up over the last
redirect, redirection     the kernel leads connections to the sidecar that were going elsewhere
Redis                     a key-value store; sidecars keep the limits in it that they share
reference                 every key of the configuration, to read
refusal                   the answer to a request that never becomes an exchange, as it is malformed or too large
registration              one workload made known in a registry
registry                  where instances are made known and found: Consul, a directory, or none
registry flap             instances vanish from the registry, and are there again a moment later
rehearsal, rehearse       let what was recorded happen once more, with other settings, without sending anything
rehearsed                 of a rehearsal: an end of an exchange that nothing goes over
relay                     passes bytes or frames between a client and an upstream
reload                    carries a plan out: another configuration for a running sidecar
render                    what is known, as the text of a file or an answer
replay                    sending what is in the spool
reply                     an answer of the sidecar's own, with its code; an *answer* comes from the app or the upstream
report                    what the admin API says, as plain data; what a sidecar says of its load
request                   what an HTTP client sends; a ``request id`` names it in all logs
reserve                   room set aside: on a disk, so that something can still be written; of descriptors
resilience                the mechanisms against failures and overload
resolver                  looks host names up: in the hosts file, then in the DNS
RESP                      Redis' protocol
retirement                what is under way on an upstream that was taken out of service has time to finish
retry                     another attempt after one that failed, where that is safe
ring                      the newest entries of something, the oldest of which go for others
root                      the folder under which all others of a registry stand
rotation                  the endpoints that get traffic; others are ejected, or active checks have found them unwell
route                     a part of a listener's traffic with policies of its own; in AMQP, what one exchange and
                          routing key lead to
RPC                       a question on an AMQP channel and the method that is its answer
rule                      what has to fit together among keys of a configuration
run                       ``sidecar run``, or one run of the demo; in AMQP, messages side by side that pass as one
salvage                   takes what can be read out of a damaged database
sample                    a small service of the demo's or of a validation's
sampling                  which traces are recorded: a share of them, and what failed or was slow
scanner                   reads heads that are in their usual form, in C; all others are for the parser
scenario                  virtual servers, clients and failures that a simulation lets happen, and what it says of them
scheduler                 lets held publishes go, by priority and arrival, when their gates open
schema                    what a configuration or an answer may contain, as JSON Schema
secret                    a value that no log, view or error shows: a password, a token
send queue                the messages of one channel of a publisher: to be sent, sent, refused
Sentinel                  what watches a Redis master and its replicas, and says which one it is
server                    the accepting end of a protocol
service                   what a workload offers, under the name that others discover
session                   an AMQP connection of a client and the one to a broker that belongs to it; with a spool, one
                          broker connection after the other
session state             what all parts of the relay know of a session
setting          one value of the configuration, as what it is for takes it
share                     how much of the spool's room one stream may have
shared limit              a rate limit that sidecars have in common: each leases tokens from one bucket
shedding                  to give up, in an overload, what waits longest and matters least
shortage                  the host is out of descriptors, ports or memory for sockets
show                      a configuration in the shape of its file again, secrets aside
side, broker side         what is there in the broker's place for a session: the broker, or what stands in for it
signal                    what the system tells a process: SIGTERM, SIGHUP
silence                   how long neither side of an exchange says anything
simulate, simulation      to let the data plane run in virtual time, against virtual servers and clients
slow endpoint             one that answers later than the others do, and does not fail
slow start                an endpoint that is new, or back, gets less than its share for a while
snapshot                  how something running is at one moment, as plain data
socket                    the system's end of a connection
source                    where a command gets what it shows: a running sidecar, or files
span                      one step of a trace: when it began and ended, and how
splice                    what goes on of one read: slices as they came, and what replaces others
split                     how many requests go to which subset
spool                     what is on disk of an AMQP port: publishes that the broker has not confirmed, and dead letters
SQLite                    the database in a file that the standard library brings
stale                     of an answer: given again although it may be outdated, as there is no newer one
start page                the admin API's page at ``/``
stats                     counters of the data plane: plain integers
status                    ``sidecar status``; in HTTP, an answer's number
storage                   databases and small files on this host's disk
store                     a database as the event loop sees it
store and forward         the spool of an AMQP port with all that fills and empties it
story                     what is done to the demo's mesh, in which order; of an exchange: the steps that it noted
stream                    spooled messages that keep their order: those of one virtual host and exchange
subscription              a consumer as it was asked for, so that it can be begun again
subset                    endpoints of an upstream of one kind, as the instances of a version are
summary                   what is left to read after the demo; what a sidecar tells of itself for the map of the mesh
supervision               of a sidecar and its app: which starts, is told and is started again when
table                     a map of names to typed values in AMQP, or of names to classes; rows of a database
tap                       to watch exchanges as they end
TCP                       bytes in order, whatever they mean
telemetry                 what can be seen of a running sidecar: counters, metrics, logs, spans
text                      what people read; it may come from strangers, and is made safe to show
time                      seconds; the times of a chain are how long each phase of its exchanges may take
time left                 what a caller still waits; it travels with each try
timeout                   how long something may take
token bucket              tokens arrive at a rate and are taken by what passes; the mechanism of a rate limit
told                      what is said of a request, the parts of all hops as one
top                       ``sidecar top``: what is going on, live, in a terminal
topic                     an exchange whose bindings are patterns of words
topology                  exchanges, queues and bindings, and which queues a publish leads to
trace                     all spans of one request, through all services; its context travels in header fields
tracing                   carrying trace contexts on, and recording spans of those that are sampled
traffic                   requests and their answers; in the demo, its clients
trailer                   a field behind a chunked body
transaction               changes of a database that are all made and synced, or none
tree                      the commands with their arguments, as data
tunnel                    an exchange that has left HTTP (an upgrade), or a TCP connection: bytes pass as they are
unacked                   deliveries that their client has not settled
unconfirmed               publishes that the broker has not confirmed
upload                    a request's body on its way to the upstream
upstream                  one thing that the app dials, under a name
validate                  to take nothing from a registry that is not what it should be; to check a mesh
value                     what stands behind a key of the configuration
vhost                     a part of a broker, with exchanges and queues of its own
view                      what is shown of something, as data
wait                      until a sidecar is ready: ``sidecar wait``; of an exchange: until a filter lets it go on
waiting room              where exchanges wait for an upstream, and how they are let go when it is back
watch                     to follow one service in the registry
watchdog                  notices a broker that is connected and does nothing
watched                   of header fields: remembered as checksums, as a route or a limit goes by them
watcher                   samples the depth of queues, and hears of alarms
wheel                     the one clock for all deadlines of the data plane
why                       the question that `sidecar why` answers about one request
window                    how many publishes of a channel, or messages of a stream, the broker may have left unconfirmed
wire                      AMQP as bytes; no input or output
worker                    the one thread that owns a database
world                     the clock, the network and the places of a simulation
write                     of exports: into a file that changes only when its content does
writer                    the thread that owns the spool's database
"""

__version__ = "0.1.0"
