"""A RabbitMQ broker of the tests' own: Debian's server as a node by itself, with an epmd, a cookie, folders and
loopback ports of its own, so that one which the system runs is neither touched nor in the way."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from support.patience import PATIENCE
from support.processes import free_port, missing, wait_for

# The scripts themselves: those on PATH change to the user "rabbitmq" as root, and refuse to run as anyone else.
SCRIPTS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin"))


#: Runs in the broker's virtual machine: evaluates what it is sent, one connection after the other. A ``rabbitmqctl``
#: starts a virtual machine of its own for that, which keeps two cores busy for a second.
_EVALUATOR = """
spawn(fun() ->
    {ok, Listening} = gen_tcp:listen(%d, [binary, {ip, {127,0,0,1}}, {packet, 4}, {active, false}, {reuseaddr, true}]),
    Evaluate = fun(Text) ->
        {ok, Tokens, _} = erl_scan:string(binary_to_list(Text)),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, []),
        Value
    end,
    Serve = fun Again() ->
        {ok, Socket} = gen_tcp:accept(Listening),
        {ok, Text} = gen_tcp:recv(Socket, 0),
        Answer = try io_lib:format("1~tp", [Evaluate(Text)])
            catch Class:Reason -> io_lib:format("0~tp: ~tp", [Class, Reason])
        end,
        gen_tcp:send(Socket, unicode:characters_to_binary(Answer)),
        gen_tcp:close(Socket),
        Again()
    end,
    Serve()
end).
"""

#: Before anything else starts. The broker loads each module of each application that there is, to look at its
#: attributes; of those of Erlang itself it has no need, and to say that they have none saves a fifth of the start. What
#: is called is loaded then.
_BEFORE = """
lists:foreach(fun(Name) ->
    case file:consult(code:where_is_file(atom_to_list(Name) ++ ".app")) of
        {ok, [{application, Name, Keys}]} ->
            application:load({application, Name, lists:keyreplace(modules, 1, Keys, {modules, []})});
        _ -> none
    end
end, [ssl, inets, compiler, xmerl, tools, syntax_tools, public_key, asn1, os_mon, crypto, runtime_tools]).
"""

#: As Erlang terms: a ``rabbitmq.conf`` is translated into them at each start, by a compiler that is loaded for it.
_CONFIG = """
[{rabbit, [
    %s
    {tcp_listeners, [{"127.0.0.1", %d}]},
    {log, [{console, [{enabled, true}, {level, info}]}, {file, [{file, false}]}]},
    {disk_free_limit, 1000000},
    {vm_memory_high_watermark, 0.8}
]}].
"""


class RabbitMQ:
    """One broker that keeps its data in ``folder`` and its ports for as long as the object lives. Its user is ``guest``
    with the password ``guest``; the virtual host ``/`` is there.

    ``schedulers``: threads that run Erlang code; a few start faster and leave the machine to the tests.
    ``settings``: more terms of ``rabbit``'s section, each with a comma behind it. ``beside``: one whose epmd and cookie
    this one has, too, so that it can join it.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        schedulers: int = 2,
        settings: str = "",
        beside: RabbitMQ | None = None,
    ) -> None:
        self._scripts = _scripts()
        self._epmd_binary = shutil.which("epmd") or missing("there is no epmd: install the package erlang-base")
        self.folder = folder
        self.port = port or free_port()
        self.node = f"sidecar-{self.port}@localhost"
        self.log = folder / "rabbitmq.log"
        self._popen: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._beside = beside
        self._epmd_port: int = free_port() if beside is None else beside._epmd_port
        self._evaluator_port = free_port()
        self._write(settings)
        self._env = self._environment(schedulers)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _write(self, settings: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "advanced.config").write_text(_CONFIG % (settings, self.port))
        self._plugins().write_text("[].\n")
        (self.folder / "environment").write_text("")
        (self.folder / "before").write_text(_BEFORE)
        (self.folder / "evaluator").write_text(_EVALUATOR % self._evaluator_port)
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16) if self._beside is None else self._beside.cookie)
            cookie.chmod(0o400)

    def _environment(self, schedulers: int) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            **kept,
            "HOME": str(self.folder),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the broker, so that its pid is the broker's
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "environment"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._plugins()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                # Schedulers without work do not spin: others have some.
                f"{loopback} +S {schedulers}:{schedulers} +A 8 +sbwt none +sbwtdcpu none +sbwtdio none "
                f'-eval file:eval("{self.folder}/evaluator").'
            ),
        }

    # -- its life

    def start(self) -> None:
        """Start it (again); what was durable is still there. Does not wait: see :meth:`ready`."""
        assert self._popen is None or self._popen.poll() is not None, "it runs"
        with self.log.open("ab") as log:
            if self._beside is None and (self._epmd is None or self._epmd.poll() is not None):
                self._epmd = self._spawn([self._epmd_binary, "-port", str(self._epmd_port)], log)
                wait_for(lambda: _listens(self._epmd_port), "epmd is there")
            # Flags that come first, so that it is done first; an atom is a name of a file that needs no quotes.
            first = {"ERL_AFLAGS": "-eval file:eval(before)."}
            self._popen = self._spawn([str(self._scripts / "rabbitmq-server")], log, **first)

    def _spawn(self, command: list[str], log: Any, **more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder,
            env={**self._env, **more},
        )  # fmt: skip

    def ready(self, seconds: float = 2 * PATIENCE) -> Self:
        """Wait until one can log in; it takes 6 s of CPU, and nothing else in the tests as long."""

        def listens() -> bool:
            assert self.popen.poll() is None, f"the broker has ended:\n{self.output()[-4000:]}"
            return _listens(self.port)

        wait_for(listens, lambda: f"the broker listens:\n{self.output()[-4000:]}", seconds)
        self.connection().close()
        return self

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    @property
    def cookie(self) -> str:
        """What nodes of one cluster have in common."""
        return (self.folder / ".erlang.cookie").read_text()

    def join(self, other: RabbitMQ) -> Self:
        """Be a node of its cluster, with nothing of one's own."""
        self.eval(
            f"ok = rabbit:stop(), ok = rabbit_mnesia:reset(), ok = rabbit_mnesia:join_cluster('{other.node}', disc), "
            "ok = rabbit:start()."
        )
        return self.ready()

    def leader(self, queue: str) -> str:
        """The node on which the leader of a quorum queue is, as the member of this node knows; it may be ``none``."""
        return self.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)), '
            "{Name, _} = amqqueue:get_pid(Q), "
            "case ra:members({Name, node()}, 1000) of {ok, _, {_, Leader}} -> Leader; _ -> none end."
        ).strip("'")

    @property
    def pid(self) -> int:
        """Of the Erlang virtual machine."""
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, seconds: float = PATIENCE) -> None:
        """An orderly end, as at a restart for an upgrade: clients are told with ``connection.close`` 320."""
        self.thaw()
        if self.popen.poll() is None:
            self.popen.terminate()
            self.popen.wait(seconds)
        self.close()

    def kill(self) -> None:
        """The end of a process that crashes; its epmd, which others may have, too, goes on."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(PATIENCE)
        self._frozen = False

    def freeze(self) -> None:
        """It stands still from here on; its connections stay open and nothing answers."""
        self._frozen = True
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on after :meth:`freeze`."""
        if self._frozen and self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
        self._frozen = False

    def restart(self) -> Self:
        """Stopped, started on the same ports with the same data, and ready."""
        self.stop()
        self.start()
        return self.ready()

    def forget(self) -> None:
        """While it is stopped: it will start as a new one does, without a queue, a message, or a user of its own."""
        assert self.popen.poll() is not None, "it runs"
        shutil.rmtree(self.folder / "data")

    def restart_app(self, *, forget: bool = False) -> Self:
        """The broker stops and starts within its virtual machine, which is quicker; clients are told with 320."""
        self.stop_app()
        return self.start_app(forget=forget)

    def stop_app(self) -> None:
        """The first half of that: nobody listens any more."""
        self.eval("ok = rabbit:stop().")

    def crash_app(self) -> None:
        """What clients see of a crash: their connections end without a word, and nobody listens any more. The broker
        itself ends in order, so that it is there again sooner than after :meth:`kill`."""
        self.eval("[exit(Reader, kill) || Reader <- rabbit_networking:local_connections()], ok = rabbit:stop().")

    def start_app(self, *, forget: bool = False) -> Self:
        """It is there again."""
        reset = "ok = rabbit_mnesia:reset(), " if forget else ""
        self.eval(f"{reset}ok = rabbit:start().")
        return self.ready()

    def close(self) -> None:
        """End it and its epmd; the folder stays."""
        for process in (self._popen, self._epmd):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what one does to it from outside

    def eval(self, expression: str, seconds: float = PATIENCE) -> str:
        """What an Erlang expression is in the virtual machine of the broker, which need not run in it."""
        wait_for(lambda: _listens(self._evaluator_port), "it evaluates expressions")  # from when it has started
        with socket.create_connection(("127.0.0.1", self._evaluator_port), seconds) as sock:
            text = expression.encode()
            sock.sendall(len(text).to_bytes(4, "big") + text)
            with sock.makefile("rb") as file:
                answer = file.read()[4:].decode()
        assert answer.startswith("1"), f"{expression}: {answer[1:]}"
        return answer[1:]

    def close_all_connections(self) -> None:
        """All clients are told with 320."""
        self.eval('rabbit_networking:close_connections(rabbit_networking:connections(), "by the test").')

    def add_user(
        self, name: str, password: str, *, vhost: str = "/", permissions: tuple[str, str, str] = (".*", ".*", ".*")
    ) -> None:
        """A user who may configure, write and read what the three patterns match."""
        rights = ", ".join(f'<<"{pattern}">>' for pattern in permissions)
        self.eval(
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"{vhost}">>, {rights}, <<"tests">>).'
        )

    def add_vhost(self, *names: str) -> None:
        """Virtual hosts in which ``guest`` may do everything."""
        self.eval(
            ", ".join(
                f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
                f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
                '<<".*">>, <<".*">>, <<".*">>, <<"tests">>)'
                for name in names
            )
            + "."
        )

    def delete_vhost(self, *names: str) -> None:
        self.eval(", ".join(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>)' for name in names) + ".")

    @contextmanager
    def management(self) -> Iterator[int]:
        """The management plugin, until this ends, and its port. It is started in the virtual machine that runs: one
        that has it from the start takes twice as long."""
        port = free_port()
        self.eval(
            f'application:set_env(rabbitmq_management, tcp_config, [{{ip, "127.0.0.1"}}, {{port, {port}}}], '
            "[{persistent, true}]), application:set_env(rabbitmq_management, rates_mode, none, [{persistent, true}])."
        )
        self._enable("[rabbitmq_management].")
        try:
            yield port
        finally:
            self._enable("[].")

    def _plugins(self) -> Path:
        return self.folder / "plugins"

    def _enable(self, plugins: str) -> None:
        """Start and stop what it takes that these run, as ``rabbitmq-plugins set`` does."""
        self._plugins().write_text(plugins + "\n")
        self.eval(f'{{ok, _, _}} = rabbit_plugins:ensure("{self._plugins()}").')

    def alarm(self, on: bool) -> None:
        """The memory alarm: publishing connections are no longer read."""
        self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({'0' if on else '0.8'}).")

    # -- what one asks it, past everything that is tested

    def connection(self, vhost: str = "/", **parameters: Any) -> pika.BlockingConnection:
        """A connection straight to the broker."""
        return pika.BlockingConnection(parameters_to(self.port, vhost, **parameters))

    @contextmanager
    def channel(self, vhost: str = "/") -> Iterator[BlockingChannel]:
        """A channel of a connection of its own, straight to the broker."""
        connection = self.connection(vhost)
        try:
            yield connection.channel()
        finally:
            with suppress(AMQPError):
                connection.close()

    def declare(self, queue: str, vhost: str = "/", arguments: Mapping[str, Any] | None = None, **flags: bool) -> None:
        """``flags``: durable, exclusive, auto_delete."""
        with self.channel(vhost) as channel:
            channel.queue_declare(queue, arguments=arguments, **flags)

    def delete(self, queue: str, vhost: str = "/") -> None:
        with self.channel(vhost) as channel:
            channel.queue_delete(queue)

    def purge(self, queue: str, vhost: str = "/") -> int:
        """How many messages it had."""
        with self.channel(vhost) as channel:
            return int(channel.queue_purge(queue).method.message_count)

    def depth(self, queue: str, vhost: str = "/") -> int:
        """Messages that are ready in it; -1: there is no such queue."""
        with self.channel(vhost) as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).method.message_count)
            except ChannelClosedByBroker:
                return -1


def parameters_to(port: int, vhost: str = "/", **more: Any) -> pika.ConnectionParameters:
    """How pika reaches 127.0.0.1 as guest; ``more`` are pika's own parameters."""
    return pika.ConnectionParameters(
        "127.0.0.1",
        port,
        vhost,
        **{"credentials": pika.PlainCredentials("guest", "guest"), "socket_timeout": 10, **more},
    )


def behind_sidecar(*ports: int, **amqp: Any) -> dict[str, Any]:
    """A sidecar's configuration with the upstream ``rabbitmq`` in front of these brokers; ``amqp`` is its section."""
    upstream = {
        "bind": "127.0.0.1:0",
        "protocol": "amqp",
        "endpoints": [f"127.0.0.1:{port}" for port in ports],
        "circuit_breaker": {"reset_timeout": "500ms"},  # a broker that was away is soon tried again
    }
    return {
        "service": {"name": "web"},
        "drain": {"timeout": "1s"},
        "upstreams": {"rabbitmq": upstream | ({"amqp": amqp} if amqp else {})},
    }


#: The ``credentials`` of such a section.
GUEST = {"username": "guest", "password": "guest"}


@contextmanager
def broker(**options: Any) -> Iterator[RabbitMQ]:
    """A broker that is ready, in a folder that goes with it; ``options`` are :class:`RabbitMQ`'s."""
    with (
        tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True) as folder,
        RabbitMQ(Path(folder), **options) as server,
    ):
        yield server.ready()


def _scripts() -> Path:
    for folder in SCRIPTS:
        if (folder / "rabbitmq-server").exists():
            return folder
    missing("there is no RabbitMQ: install the package rabbitmq-server")
    raise AssertionError("not reached")


def _listens(port: int) -> bool:
    """Whether somebody listens there. Asked of the kernel: a connection that says nothing would be an error in the
    broker's log."""
    table = Path("/proc/net/tcp").read_text()  # long: it is searched as it is
    return any(f" {address}:{port:04X} 00000000:0000 0A " in table for address in ("0100007F", "00000000"))
