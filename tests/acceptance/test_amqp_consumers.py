"""Consumers behind a real sidecar: when they are given nothing, and how they end."""

from __future__ import annotations

import signal
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pamqp import commands

from support.amqp_clients.raw import Listener, RawClient
from support.patience import PATIENCE
from support.processes import App, Sidecar, ending, free_port, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar

#: Milliseconds that the broker waits for an acknowledgement, in the test of that.
CONSUMER_TIMEOUT = 5000


def post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data=b""), timeout=PATIENCE) as answer:
        assert answer.status == 200


def fill(rabbitmq: RabbitMQ, queue: str, count: int) -> None:
    rabbitmq.declare(queue)
    with rabbitmq.channel() as channel:
        for number in range(count):
            channel.basic_publish("", queue, b"%d" % number)
        channel.queue_declare(queue, passive=True)  # answered once they are there


def consumer(port: int, queue: str, prefetch: int, *, ack: bool) -> Listener:
    """One that has said ``basic.consume``; it reads from when it is entered."""
    client = RawClient(port, heartbeat=2).open_channel()
    client.call(1, commands.Basic.Qos(prefetch_count=prefetch), commands.Basic.QosOk)
    client.call(1, commands.Basic.Consume(queue=queue, consumer_tag="c"), commands.Basic.ConsumeOk)
    return Listener(client, ack=ack)


def deliveries(listener: Listener) -> list[Any]:
    return listener.methods(commands.Basic.Deliver)


def paused(sidecar: Sidecar) -> bool:
    found: bool = get(f"{sidecar.admin}/amqp")[1]["upstreams"][0]["paused"]
    return found


def still(listener: Listener, count: int, seconds: float = 0.5) -> None:
    """No more than these come."""
    time.sleep(seconds)
    assert len(deliveries(listener)) == count


def test_deliveries_wait_for_another_upstream(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """What a task needs is not there: the breaker of that upstream opens, and nothing new is handed out until it closes
    again."""
    fill(rabbitmq, "consumers.pause", 300)
    ollama = App(tmp_path, "ollama", free_port())
    with ending(ollama) as processes:
        config = behind_sidecar(rabbitmq.port, credentials=GUEST, pause_on=["ollama"])
        config["upstreams"]["ollama"] = {
            "bind": "127.0.0.1:0",
            "endpoints": [f"127.0.0.1:{ollama.ready().port}"],
            "retry": {"max_attempts": 1},
            "circuit_breaker": {"failure_threshold": 2, "reset_timeout": "3s"},
        }
        sidecar = Sidecar(tmp_path, config)
        processes.append(sidecar)
        sidecar.ready()
        asked = f"http://127.0.0.1:{sidecar.port('ollama')}/"
        with consumer(sidecar.port("rabbitmq"), "consumers.pause", 10, ack=False) as listener:
            wait_for(lambda: len(deliveries(listener)) == 10, "the first ten")
            ollama.kill()
            for _ in range(3):
                assert get(asked)[0] in (502, 503, 504)
            wait_for(lambda: paused(sidecar), "it is noticed")
            listener.send(commands.Basic.Ack(5, multiple=True))
            still(listener, 10)
            wait_for(lambda: rabbitmq.depth("consumers.pause") == 285, "the acks have got through")
            processes.append(App(tmp_path, "ollama", ollama.port).ready())
            wait_for(lambda: get(asked)[0] == 200, "the breaker lets one try")
            wait_for(lambda: len(deliveries(listener)) == 15, "what was kept back")
            assert [d.delivery_tag for d in deliveries(listener)] == list(range(1, 16))
            listener.send(commands.Basic.Ack(0, multiple=True))
            wait_for(lambda: len(deliveries(listener)) == 25, "and more")
            assert listener.error is None
    rabbitmq.delete("consumers.pause")


def test_deliveries_wait_for_the_app(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """While the app beside it is unhealthy, its consumers get no work."""
    fill(rabbitmq, "consumers.app", 100)
    app = App(tmp_path, "app")
    with ending(app) as processes:
        config = behind_sidecar(rabbitmq.port)
        config["service"] |= {
            "address": "127.0.0.1",
            "app": f"127.0.0.1:{app.ready().port}",
            "check": {"http": "/health", "interval": "200ms"},
        }
        config["inbound"] = {"bind": "127.0.0.1:0"}
        sidecar = Sidecar(tmp_path, config)
        processes.append(sidecar)
        sidecar.ready()

        with consumer(sidecar.port("rabbitmq"), "consumers.app", 5, ack=False) as listener:
            wait_for(lambda: len(deliveries(listener)) == 5, "the app is well")
            app.kill()
            wait_for(lambda: "unhealthy" in str(get(f"{sidecar.admin}/health")[1]), "it is not well")
            listener.send(commands.Basic.Ack(0, multiple=True))
            still(listener, 5)
            processes.append(App(tmp_path, "app", app.port).ready())
            wait_for(lambda: len(deliveries(listener)) == 10, "it is well again")
            assert listener.error is None
    rabbitmq.delete("consumers.app")


def test_draining(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Consumers get nothing new; each connection is closed when what was delivered has been acknowledged."""
    fill(rabbitmq, "consumers.drain", 50)
    config = behind_sidecar(rabbitmq.port)
    config["drain"] = {"timeout": "10s"}
    with ExitStack() as stack:
        (sidecar,) = stack.enter_context(ending(Sidecar(tmp_path, config)))
        assert isinstance(sidecar, Sidecar)
        port = sidecar.ready().port("rabbitmq")
        busy = stack.enter_context(consumer(port, "consumers.drain", 5, ack=False))
        publisher = stack.enter_context(Listener(RawClient(port, heartbeat=2).open_channel().confirms()))
        idle = stack.enter_context(Listener(RawClient(port, heartbeat=2)))
        wait_for(lambda: len(deliveries(busy)) == 5, "five under way")
        publisher.publish("consumers.drain", b"before")
        sidecar.popen.send_signal(signal.SIGTERM)
        closes = commands.Connection.Close
        wait_for(lambda: idle.methods(closes) and publisher.methods(closes), "who has nothing under way is closed")
        for listener in (idle, publisher):
            assert listener.methods(closes)[0].reply_code == 320
        assert publisher.confirmed() == 1
        for tag in range(1, 5):
            busy.send(commands.Basic.Ack(tag))
        still(busy, 5, 0.3)
        assert not busy.methods(closes)
        assert sidecar.popen.poll() is None
        busy.send(commands.Basic.Ack(5))
        close = wait_for(lambda: busy.methods(closes), "closed after its last ack")[0]
        assert close.reply_code == 320
        assert close.reply_text
        for listener in (busy, idle, publisher):
            listener.send_on(0, commands.Connection.CloseOk())
        assert sidecar.popen.wait(60) == 0
        wait_for(lambda: rabbitmq.depth("consumers.drain") == 46, "five were worked on, one came")
    rabbitmq.delete("consumers.drain")


def test_a_pause_outlasts_the_patience_of_the_broker(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """What the client has not seen does not cost it its channel; a consumer straight at the broker that acknowledges
    nothing says when that is due."""
    rabbitmq.eval(f"application:set_env(rabbit, consumer_timeout, {CONSUMER_TIMEOUT}).")
    rabbitmq.eval("application:set_env(rabbit, channel_tick_interval, 500).")
    queues = {"consumers.lasting": {"durable": True}, "consumers.own": {"auto_delete": True}}
    try:
        config = behind_sidecar(rabbitmq.port, pause_on=["ollama"], pause_keep="1s")
        config["upstreams"]["ollama"] = {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{free_port()}"]}
        with ExitStack() as stack:
            (sidecar,) = stack.enter_context(ending(Sidecar(tmp_path, config)))
            assert isinstance(sidecar, Sidecar)
            client = RawClient(sidecar.ready().port("rabbitmq")).open_channel()
            client.call(1, commands.Basic.Qos(prefetch_count=10), commands.Basic.QosOk)
            for queue, flags in queues.items():
                client.queue(1, queue, **flags)
                client.call(1, commands.Basic.Consume(queue=queue, consumer_tag=queue), commands.Basic.ConsumeOk)
            listener = stack.enter_context(Listener(client, ack=True))
            breaker = f"{sidecar.admin}/upstreams/ollama/breaker"
            post(f"{breaker}/open")
            wait_for(lambda: paused(sidecar), "it is noticed")
            fill(rabbitmq, "consumers.impatient", 1)
            with rabbitmq.channel() as channel:
                for queue in queues:
                    for number in range(5):
                        channel.basic_publish("", queue, b"%d" % number)
            impatient = stack.enter_context(consumer(rabbitmq.port, "consumers.impatient", 1, ack=False))
            wait_for(lambda: rabbitmq.depth("consumers.lasting") == 5, "they are ready for others")
            wait_for(lambda: impatient.methods(commands.Channel.Close), "the broker has lost its patience")
            time.sleep(CONSUMER_TIMEOUT / 1000)
            assert deliveries(listener) == []
            post(f"{breaker}/close")
            wait_for(lambda: len(deliveries(listener)) == 10, "all of them come after the pause")
            assert all(delivery.redelivered for delivery in deliveries(listener))
            assert listener.methods(commands.Channel.Close) == []
            assert listener.error is None
    finally:
        rabbitmq.eval("application:unset_env(rabbit, consumer_timeout).")
        rabbitmq.eval("application:set_env(rabbit, channel_tick_interval, 60000).")
        for queue in ("consumers.lasting", "consumers.impatient"):
            rabbitmq.delete(queue)
