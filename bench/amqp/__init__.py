"""The benchmark's AMQP part: a real RabbitMQ, dialled directly, through HAProxy in TCP mode and through this sidecar.

case       one kind of load: how many connections, publishing or consuming, at full speed or at a rate
contender  one way to the broker; ``direct`` is none in between
turn       about a second of load on one contender; the turns of all of them are interleaved within a repeat
sample     what the turns of one contender in one case in one repeat add up to
"""
