"""Celery: a worker, and a thread that sends tasks with ``apply_async`` as it comes, but with confirms."""

from __future__ import annotations

import logging
import sys
import threading
import time

from celery import Celery

PORT, QUEUE = int(sys.argv[1]), sys.argv[2]
app = Celery("recovery", broker=f"amqp://guest:guest@127.0.0.1:{PORT}//")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_redirect_stdouts=False,
)


def say(word: str, about: object) -> None:
    print(word, about, flush=True)


class Errors(logging.Handler):
    """What the worker says of its own tries."""

    def emit(self, record: logging.LogRecord) -> None:
        say("fails", " ".join(record.getMessage().split()))


logging.getLogger("celery.worker.consumer.consumer").addHandler(Errors(logging.WARNING))


@app.task(name="take")
def take(stamp: str) -> None:
    say("got", stamp)


def publish() -> None:
    while True:
        stamp = str(time.time())
        try:
            take.apply_async((stamp,))
            say("ok", stamp)
        except Exception as error:
            say("unsent", f"apply_async: {error!r}")
        time.sleep(0.1)


threading.Thread(target=publish, daemon=True).start()
app.worker_main(["worker", "--pool=solo", "--loglevel=WARNING", f"--hostname={QUEUE}@here"])
say("gone", "the worker has ended")
