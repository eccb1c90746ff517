"""Runs each file of the corpus through its target: seeds, and everything that fuzzing has found so far."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.targets import LONGEST, TARGETS

CORPUS = Path(__file__).parent / "corpus"


class CorpusTests(SynchronousTestCase):
    def replay(self, target: str) -> None:
        files = sorted((CORPUS / target).iterdir())
        self.assertGreater(len(files), 4)
        for file in files:
            data = file.read_bytes()
            self.assertLessEqual(len(data), LONGEST, file)
            try:
                TARGETS[target](data)
            except Exception as problem:
                raise AssertionError(f"{target}: {file.name}: {problem!r}") from problem

    def test_every_target_has_files(self) -> None:
        self.assertEqual({directory.name for directory in CORPUS.iterdir()}, set(TARGETS))

    def test_amf0(self) -> None:
        self.replay("amf0")

    def test_amf3(self) -> None:
        self.replay("amf3")

    def test_chunks(self) -> None:
        self.replay("chunks")

    def test_client_handshake(self) -> None:
        self.replay("client_handshake")

    def test_coordinator(self) -> None:
        self.replay("coordinator")

    def test_fmp4(self) -> None:
        self.replay("fmp4")

    def test_handshake(self) -> None:
        self.replay("handshake")

    def test_hls(self) -> None:
        self.replay("hls")

    def test_keyframes(self) -> None:
        self.replay("keyframes")

    def test_media(self) -> None:
        self.replay("media")

    def test_proxy(self) -> None:
        self.replay("proxy")

    def test_redis(self) -> None:
        self.replay("redis")

    def test_relay(self) -> None:
        self.replay("relay")

    def test_server(self) -> None:
        self.replay("server")

    def test_session(self) -> None:
        self.replay("session")

    def test_web(self) -> None:
        self.replay("web")
