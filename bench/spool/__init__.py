"""The benchmark's spool part: what an AMQP port takes while there is no broker, and how it gets rid of it again.

One *pass* of a contender: publishes at a rate and then at full speed without a broker; ``kill -9`` and a new start with
all of that on the disk; then there is a broker, a real RabbitMQ, until the spool is empty.
"""
