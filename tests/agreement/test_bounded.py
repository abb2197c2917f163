"""A store whose server goes silent is an error in time, and never a hang."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from domino_compile.agreement import bounded
from domino_compile.agreement.bounded import BoundedStore
from domino_compile.errors import RankMismatchError


class Relay:
    """Passes bytes between one client and a server, until it is told to lose them."""

    def __init__(self, port: int) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.silent = False
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._serve, args=(port,), daemon=True).start()

    def _serve(self, port: int) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                server = socket.create_connection(("127.0.0.1", port))
                self.ends += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                if not self.silent:
                    target.sendall(data)

    def close(self) -> None:
        for end in (self.listening, *self.ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def relay() -> Iterator[tuple[Relay, BoundedStore]]:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    relay = Relay(server.port)
    client = dist.TCPStore("127.0.0.1", relay.port, is_master=False, timeout=timedelta(seconds=60))
    yield relay, BoundedStore(dist.PrefixStore("a", dist.PrefixStore("b", client)), "tp")
    relay.close()


def test_a_store_that_answers_is_the_store(relay: tuple[Relay, BoundedStore]) -> None:
    _, store = relay
    store.set("key", "value")
    assert store.get("key") == b"value"
    assert store.check(["key"]) and not store.check(["key", "other"])
    assert store.compare_set("new", "", "mine") == b"mine"
    assert store.compare_set("new", "", "yours") == b"mine"
    store.wait(["key"], timedelta(seconds=5))


def test_a_key_that_never_comes_is_the_stores_own_error(
    relay: tuple[Relay, BoundedStore],
) -> None:
    with pytest.raises(RuntimeError) as caught:
        relay[1].wait(["missing"], timedelta(seconds=0.2))
    assert not isinstance(caught.value, RankMismatchError)


@pytest.mark.parametrize("call", ["check", "get", "compare_set", "wait"])
def test_a_silent_store_is_an_error(
    relay: tuple[Relay, BoundedStore], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    wire, store = relay
    store.set("key", "value")
    monkeypatch.setattr(bounded, "ANSWER_S", 0.2)
    monkeypatch.setattr(bounded, "GRACE_S", 0.1)
    calls = {
        "check": lambda: store.check(["key"]),
        "get": lambda: store.get("key"),
        "compare_set": lambda: store.compare_set("key", "", "other"),
        "wait": lambda: store.wait(["key"], timedelta(seconds=0.1)),
    }
    wire.silent = True
    began = time.monotonic()
    with pytest.raises(RankMismatchError, match=r"store of group tp has been silent for 0\.2 s"):
        calls[call]()
    assert time.monotonic() - began < 30


def test_a_lost_connection_is_named(relay: tuple[Relay, BoundedStore]) -> None:
    wire, store = relay
    store.set("key", "value")
    wire.close()
    with pytest.raises(RankMismatchError, match="group tp is lost"):
        store.get("key")


def test_a_store_on_files_is_asked_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BoundedStore(dist.FileStore(str(tmp_path / "store"), 1), "tp")
    monkeypatch.setattr(threading, "Thread", None)
    store.set("key", "value")
    assert store.get("key") == b"value"
