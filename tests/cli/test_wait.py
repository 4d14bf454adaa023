from __future__ import annotations

import pytest

from sidecar.cli.main import main
from sidecar.cli.wait import wait
from support.fake_admin import fake_admin
from support.processes import free_port


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_until_it_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([(503, {"phase": "starting"})] * 30 + [(503, {"phase": "starting", "waiting_for": "a lock"})] * 20)
    with fake_admin({"ready": lambda: next(answers, (200, {"ready": True}))}) as url:
        time = Time()
        assert wait(url, 30.0, time, time.sleep) == 0
        assert time.now == pytest.approx(5.0)
    assert capsys.readouterr().err.splitlines() == [
        f"sidecar wait: {url}: starting; waiting for 28 s more",
        f"sidecar wait: {url}: a lock; waiting for 26 s more",
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [((404, b"nothing"), "it answers 404"), ((503, b"[]"), "it answers 503"), ((204, b""), "it answers 204")],
)
def test_what_is_no_sidecar(answer: tuple[int, bytes], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"ready": answer}) as url:
        time = Time()
        assert wait(url, 1.0, time, time.sleep) == 1
    assert capsys.readouterr().err == f"sidecar wait: {url} was not ready within 1 s: {said}\n"


def test_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", "--admin", f"127.0.0.1:{free_port()}", "--timeout", "0"]) == 1
    assert "Connection refused" in capsys.readouterr().err


def test_what_is_no_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", "--admin", "ftp://x"]) == 2
    assert "is not the URL of an admin API" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "ten", "-1s", "5 s", "1d"])
def test_times(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["wait", f"--timeout={text}"])
    assert ended.value.code == 2
    assert "is no time" in capsys.readouterr().err
