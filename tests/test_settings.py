"""Settings: what is accepted, what is not and what is said about it, and that the table is the documentation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from attrs import evolve
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtmp_twisted import misspelt
from rtmp_twisted.dotenv import Dotenv
from rtmp_twisted.relay_rules import Rule
from rtmp_twisted.settings import Settings, SettingsError, markdown_table, option_parameters
from rtmp_twisted.settings_types import EVERYONE, Networks, mask_url
from tests.support.fakes import within
from tests.support.programs import ROOT, Program

HERE = Path(__file__)
SECRET = "s3cret-hunter2"

# Shared with every implementation that reads these variables: the variable, and its default as a value.
DOCUMENTED = {
    "RTMP_PORT": 1935,
    "RTMP_HOST": "",
    "BIND_ADDRESS": "",
    "RTMP_CHUNK_SIZE": 4096,
    "GOP_CACHE_SIZE_MB": 256,
    "MSG_BUFFER_SIZE": 65536,
    "ID_MAX_LENGTH": 128,
    "ID_ALLOW_EMPTY": False,
    "ID_ALLOW_SPECIAL_CHARACTERS": False,
    "RTMP_PLAY_WHITELIST": EVERYONE,
    "PLAY_ALLOWED_FROM": Networks(),
    "MAX_IP_CONCURRENT_CONNECTIONS": 4,
    "CONCURRENT_LIMIT_WHITELIST": Networks(),
    "CALLBACK_URL": "",
    "JWT_SECRET": "",
    "CUSTOM_JWT_SUBJECT": "rtmp_event",
    "REDIS_USE": False,
    "REDIS_HOST": "127.0.0.1",
    "REDIS_PORT": 6379,
    "REDIS_USERNAME": "",
    "REDIS_PASSWORD": "",
    "REDIS_CHANNEL": "rtmp_commands",
    "REDIS_TLS": False,
    "REDIS_TLS_CA": "",
    "CONTROL_USE": False,
    "CONTROL_BASE_URL": "",
    "CONTROL_SECRET": "",
    "EXTERNAL_IP": "",
    "EXTERNAL_PORT": None,
    "EXTERNAL_SSL": False,
    "SSL_PORT": 443,
    "SSL_CERT": "",
    "SSL_KEY": "",
    "SSL_BIND_ADDRESS": "",
    "SSL_CHECK_RELOAD_SECONDS": 60,
    "LOG_ERROR": True,
    "LOG_WARNING": True,
    "LOG_INFO": True,
    "LOG_REQUESTS": True,
    "LOG_DEBUG": False,
    "LOG_TRACE": False,
    "GOP_CACHE_MODE": "gop",
    "WRITE_MERGE_MS": 350,
    "MAX_MEMORY_MB": 0,
    "PUBLISH_TAKEOVER_SECONDS": 3,
    "MAX_PUBLISH_KBPS": 0,
    "MAX_CONNECTIONS": 0,
    "PROXY_PROTOCOL_FROM": Networks(),
    "HTTP_PORT": 0,
    "HTTP_BIND_ADDRESS": "127.0.0.1",
    "HTTP_TOKEN": "",
    "WORKERS": 1,
    "CLUSTER_USE": False,
    "CLUSTER_ADDRESS": "",
    "CLUSTER_SECRET": "",
    "CLUSTER_PREFIX": "rtmp",
    "SHUTDOWN_GRACE_SECONDS": 3,
    "LISTEN": (),
    "PUBLISH_RETURN_SECONDS": 5,
    "PUSH": (),
    "PULL": (),
    "RELAY_TLS_CA": "",
    "WEB_PORT": 0,
    "WEB_BIND_ADDRESS": "",
    "WEB_SSL_PORT": 0,
    "WEB_PLAY": "key",
    "PLAY_SECRET": "",
    "WEB_MAX_PER_IP": 64,
    "HLS_SEGMENT_SECONDS": 2,
    "HLS_PART_SECONDS": 0.3,
}

# Variable, text, value.
GOOD: list[tuple[str, str, object]] = [
    ("RTMP_PORT", "1936", 1936),
    ("RTMP_PORT", " 1936 ", 1936),
    ("RTMP_PORT", "65535", 65535),
    ("RTMP_CHUNK_SIZE", "128", 128),
    ("RTMP_CHUNK_SIZE", "16777215", 16_777_215),
    ("GOP_CACHE_SIZE_MB", "0", 0),
    ("SSL_CHECK_RELOAD_SECONDS", "0", 0),
    ("REDIS_USE", "yes", True),
    ("REDIS_USE", "True", True),
    ("REDIS_USE", "1", True),
    ("REDIS_USE", "oN", True),
    ("LOG_INFO", "No", False),
    ("LOG_INFO", "FALSE", False),
    ("LOG_INFO", "0", False),
    ("LOG_INFO", "off", False),
    ("BIND_ADDRESS", "127.0.0.1", "127.0.0.1"),
    ("BIND_ADDRESS", "::", "::"),
    ("BIND_ADDRESS", "[::1]", "::1"),
    ("BIND_ADDRESS", "localhost", "127.0.0.1"),
    ("RTMP_PLAY_WHITELIST", "*", EVERYONE),
    ("PLAY_ALLOWED_FROM", "10.1.2.3/8, ::1", Networks.parse("10.0.0.0/8,::1")),
    ("PLAY_ALLOWED_FROM", ",10.0.0.0/8,, ::1, ", Networks.parse("10.0.0.0/8,::1")),
    ("CONCURRENT_LIMIT_WHITELIST", "*,", EVERYONE),
    ("CALLBACK_URL", "https://user:pw@example.net:8443/cb?x=1", "https://user:pw@example.net:8443/cb?x=1"),
    ("CALLBACK_URL", "http://[::1]:80", "http://[::1]:80"),
    ("CONTROL_BASE_URL", "wss://10.0.0.0:8080/", "wss://10.0.0.0:8080/"),
    ("EXTERNAL_PORT", "1935", 1935),
    ("GOP_CACHE_MODE", "Stream", "stream"),
    ("REDIS_PASSWORD", " blanks count ", " blanks count "),
    ("REDIS_TLS_CA", str(HERE), str(HERE.absolute())),
    ("LISTEN", "unix:/run/a  tcp:1936:interface=\\:\\:1", ("unix:/run/a", "tcp:1936:interface=\\:\\:1")),
    ("WRITE_MERGE_MS", "0", 0),
    ("WRITE_MERGE_MS", "1000", 1000),
    ("MAX_MEMORY_MB", "1024", 1024),
    ("SHUTDOWN_GRACE_SECONDS", "60", 60),
    ("PUBLISH_RETURN_SECONDS", "0", 0),
    ("CLUSTER_ADDRESS", "rtmp://10.0.0.1", "rtmp://10.0.0.1:1935"),
    ("CLUSTER_ADDRESS", "rtmps://node.example:1936/", "rtmps://node.example:1936"),
    ("CLUSTER_ADDRESS", "rtmp://[::1]:1936", "rtmp://[::1]:1936"),
    ("PUSH", "tv=rtmp://h/a/k", (Rule("tv", "", "rtmp://h/a/k"),)),
    ("PULL", "tv/*=rtmp://h/a/n", (Rule("tv", None, "rtmp://h/a/n"),)),
]

# Variable, text, part of what would be accepted.
BAD = [
    ("RTMP_PORT", "http", "from 1 to 65535"),
    ("RTMP_PORT", "0", "from 1 to 65535"),
    ("RTMP_PORT", "65536", "from 1 to 65535"),
    ("RTMP_PORT", "-1", "from 1 to 65535"),
    ("RTMP_PORT", "1_935", "from 1 to 65535"),
    ("RTMP_PORT", "19 35", "from 1 to 65535"),
    ("RTMP_PORT", "1935.0", "from 1 to 65535"),
    ("RTMP_PORT", "١٩٣٥", "from 1 to 65535"),
    ("RTMP_PORT", "9" * 5000, "from 1 to 65535"),
    ("RTMP_CHUNK_SIZE", "127", "from 128 to 16777215"),
    ("RTMP_CHUNK_SIZE", "16777216", "from 128 to 16777215"),
    ("MSG_BUFFER_SIZE", "0", "from 1 to"),
    ("ID_MAX_LENGTH", "0", "from 1 to 65535"),
    ("MAX_IP_CONCURRENT_CONNECTIONS", "0", "from 1 to"),
    ("SHUTDOWN_GRACE_SECONDS", "61", "from 0 to 60"),
    ("WRITE_MERGE_MS", "1001", "from 0 to 1000"),
    ("REDIS_USE", "maybe", "YES, TRUE, 1 or ON"),
    ("REDIS_USE", "y", "YES, TRUE, 1 or ON"),
    ("LOG_TRACE", "2", "YES, TRUE, 1 or ON"),
    ("BIND_ADDRESS", "eth0", "IPv4 or IPv6 address"),
    ("BIND_ADDRESS", "1.2.3.4:1935", "IPv4 or IPv6 address"),
    ("RTMP_PLAY_WHITELIST", "10.0.0.0/33", "addresses and networks"),
    ("RTMP_PLAY_WHITELIST", ",", "addresses and networks"),
    ("RTMP_PLAY_WHITELIST", " , ", "addresses and networks"),
    ("RTMP_PLAY_WHITELIST", "127.0.0.1 10.0.0.0/8", "addresses and networks"),
    ("CONCURRENT_LIMIT_WHITELIST", "office", "addresses and networks"),
    ("PROXY_PROTOCOL_FROM", "1.2.3", "addresses and networks"),
    ("CALLBACK_URL", "example.net/cb", "http:// or https:// URL"),
    ("CALLBACK_URL", "ftp://example.net/cb", "http:// or https:// URL"),
    ("CALLBACK_URL", "http://", "http:// or https:// URL"),
    ("CALLBACK_URL", "http://example.net:0x50/", "http:// or https:// URL"),
    ("CALLBACK_URL", "http://example.net/a b", "http:// or https:// URL"),
    ("CALLBACK_URL", "http://example.net/\r\nX: y", "http:// or https:// URL"),
    ("CALLBACK_URL", "http://[::1", "http:// or https:// URL"),
    ("CONTROL_BASE_URL", "https://example.net", "ws:// or wss:// URL"),
    ("CONTROL_BASE_URL", "coordinator", "ws:// or wss:// URL"),
    ("CONTROL_BASE_URL", "ws://example.net/?a=b", "without a query"),
    ("EXTERNAL_PORT", "auto", "from 1 to 65535"),
    ("EXTERNAL_IP", "10.0.0.1\r\nx-evil: 1", "without blanks"),
    ("CUSTOM_JWT_SUBJECT", "a\x00b", "without control characters"),
    ("GOP_CACHE_MODE", "all", "gop or stream"),
    ("SSL_CERT", "/nonexistent/fullchain.pem", "file that can be read"),
    ("REDIS_TLS_CA", "/", "file that can be read"),
    ("PUBLISH_RETURN_SECONDS", "3601", "from 0 to 3600"),
    (
        "PUSH",
        "tv=http://host/app/key",
        "begins with 'http', not with rtmp:// or rtmps://; it takes rules CHANNEL=rtmp://",
    ),
    ("PULL", "tv=rtmp://host/app/name", "begins with CHANNEL/KEY"),
    ("CLUSTER_ADDRESS", "10.0.0.1:1935", "it takes an address rtmp://HOST:PORT"),
    ("CLUSTER_ADDRESS", "rtmp://host/app", "more than a scheme, a host and a port"),
    ("CLUSTER_ADDRESS", "rtmp://host?x", "more than a scheme, a host and a port"),
    ("CLUSTER_ADDRESS", "http://host", "not with rtmp://"),
    ("CLUSTER_ADDRESS", "rtmp://", "no host"),
]


class LoadTests(SynchronousTestCase):
    def mistakes(self, environ: dict[str, str], options: dict[str, object] | None = None) -> list[str]:
        with self.assertRaises(SettingsError) as caught:
            Settings.load(environ, options)
        return list(caught.exception.lines)

    def test_defaults(self) -> None:
        loaded = Settings.load({})
        self.assertEqual({name: getattr(loaded, name.lower()) for name in DOCUMENTED}, DOCUMENTED)
        self.assertEqual(len(option_parameters()), len(DOCUMENTED))
        self.assertEqual(loaded, Settings())
        self.assertEqual(loaded.warnings(), [])
        self.assertEqual(loaded.non_default(), [])

    def test_good(self) -> None:
        for name, text, value in GOOD:
            loaded = Settings.load({name: text})
            self.assertEqual((name, text, getattr(loaded, name.lower())), (name, text, value))
            self.assertEqual(loaded.given, {name.lower()})

    def test_bad(self) -> None:
        for name, text, accepted in BAD:
            lines = [line for line in self.mistakes({name: text}) if line.startswith(f"{name}: ")]
            self.assertEqual(len(lines), 1, (name, text))
            self.assertIn(accepted, lines[0])
            self.assertTrue(lines[0].isprintable() and len(lines[0]) < 500, lines)

    def test_value_is_shown(self) -> None:
        wanted = "RTMP_PORT: 'http' cannot be used; it takes a whole number from 1 to 65535"
        self.assertEqual(self.mistakes({"RTMP_PORT": "http"}), [wanted])

    def test_all_mistakes_at_once(self) -> None:
        environ = {"RTMP_PORT": "x", "REDIS_USE": "perhaps", "CONTROL_USE": "YES"}
        lines = self.mistakes(environ, {"redis-port": "y"})
        self.assertEqual(
            sorted(line.partition(":")[0] for line in lines),
            ["CONTROL_USE", "REDIS_PORT (option --redis-port)", "REDIS_USE", "RTMP_PORT"],
        )

    def test_empty_is_unset(self) -> None:
        nothing = {name: "  " if name == "RTMP_PORT" else "" for name in DOCUMENTED}
        self.assertEqual(Settings.load(nothing, {"rtmp-port": ""}), Settings())

    def test_precedence(self) -> None:
        file = Path(self.mktemp())
        file.write_text("RTMP_PORT=1\nREDIS_PORT=2\nSSL_PORT=3\n")
        environ = {"RTMP_PORT": "11", "REDIS_PORT": "12", "SSL_PORT": ""}
        loaded = Settings.load(environ, {"rtmp-port": "21", "redis-port": None}, file)
        self.assertEqual((loaded.rtmp_port, loaded.redis_port, loaded.ssl_port), (21, 12, 3))

    def test_a_stronger_source_hides_a_weaker_mistake(self) -> None:
        self.assertEqual(Settings.load({"RTMP_PORT": "x"}, {"rtmp-port": "1936"}).rtmp_port, 1936)

    def test_dependent_defaults(self) -> None:
        self.assertTrue(Settings.load({"LOG_DEBUG": "YES"}).log_trace)
        self.assertFalse(Settings.load({"LOG_DEBUG": "YES", "LOG_TRACE": "NO"}).log_trace)
        self.assertEqual(Settings.load({"BIND_ADDRESS": "::1"}).ssl_bind_address, "::1")
        control = {"CONTROL_USE": "YES", "CONTROL_BASE_URL": "ws://127.0.0.1"}
        self.assertEqual(Settings.load(control).gop_cache_mode, "stream")
        self.assertEqual(Settings.load({**control, "GOP_CACHE_MODE": "gop"}).gop_cache_mode, "gop")

    def test_play_whitelist_and_its_other_name(self) -> None:
        self.assertIn("192.0.2.1", Settings.load({}).rtmp_play_whitelist)
        other = Settings.load({"PLAY_ALLOWED_FROM": "127.0.0.1"})
        self.assertIn("127.0.0.1", other.rtmp_play_whitelist)
        self.assertNotIn("192.0.2.1", other.rtmp_play_whitelist)
        both = Settings.load({"PLAY_ALLOWED_FROM": "127.0.0.1", "RTMP_PLAY_WHITELIST": "10.0.0.0/8"})
        self.assertNotIn("127.0.0.1", both.rtmp_play_whitelist)
        self.assertIn("10.9.8.7", both.rtmp_play_whitelist)
        self.assertIn("PLAY_ALLOWED_FROM", both.warnings()[0])

    def test_published_compose_file(self) -> None:
        """The environment of a compose file that is out there, as it stands."""
        lines = "PLAY_ALLOWED_FROM=* CONCURRENT_LIMIT_WHITELIST=* REDIS_USE=NO RTMP_CHUNK_SIZE=5000 LOG_REQUESTS=YES"
        environ = dict(line.split("=") for line in (lines + " LOG_DEBUG=NO GOP_CACHE_SIZE_MB=0").split())
        loaded = Settings.load(environ)
        self.assertEqual((loaded.rtmp_chunk_size, loaded.gop_cache_size_mb), (5000, 0))
        self.assertIn("203.0.113.9", loaded.rtmp_play_whitelist)
        self.assertIn("203.0.113.9", loaded.concurrent_limit_whitelist)
        self.assertEqual(loaded.warnings(), [])


class TogetherTests(SynchronousTestCase):
    """Settings that each are good, but not together."""

    def check(self, environ: dict[str, str], *starts: str) -> None:
        lines: list[str] = []
        try:
            Settings.load(environ)
        except SettingsError as error:
            lines = error.lines
        self.assertEqual([line.partition(":")[0] for line in lines], list(starts))

    def test_certificate_and_key(self) -> None:
        self.check({"SSL_CERT": str(HERE)}, "SSL_CERT")
        self.check({"SSL_KEY": str(HERE)}, "SSL_KEY")
        self.check({"SSL_CERT": str(HERE), "SSL_KEY": str(HERE)})
        self.assertTrue(Settings.load({"SSL_CERT": str(HERE), "SSL_KEY": str(HERE)}).rtmps)
        self.assertFalse(Settings.load({}).rtmps)

    def test_one_mistake_is_reported_once(self) -> None:
        self.check({"SSL_CERT": str(HERE), "SSL_KEY": "/nonexistent"}, "SSL_KEY")
        self.check({"CONTROL_USE": "YES", "CONTROL_BASE_URL": "http://127.0.0.1"}, "CONTROL_BASE_URL")

    def test_ports(self) -> None:
        both = {"SSL_CERT": str(HERE), "SSL_KEY": str(HERE)}
        self.check({**both, "SSL_PORT": "1935"}, "SSL_PORT")
        self.check({**both, "SSL_PORT": "1935", "SSL_BIND_ADDRESS": "127.0.0.1"})
        self.check({"SSL_PORT": "1935"})

    def test_web(self) -> None:
        both = {"SSL_CERT": str(HERE), "SSL_KEY": str(HERE)}
        self.check({"WEB_SSL_PORT": "8443"}, "WEB_SSL_PORT")
        self.check({"WEB_SSL_PORT": "8443", **both})
        self.check({"WEB_PORT": "8080", "WEB_SSL_PORT": "8080", **both}, "WEB_SSL_PORT")
        self.check({"WEB_PORT": "8080", "WEB_PLAY": "token"}, "WEB_PLAY")
        self.check({"WEB_PORT": "8080", "WEB_PLAY": "token", "PLAY_SECRET": "s" * 32})
        self.check({"PLAY_SECRET": "s" * 31}, "PLAY_SECRET")
        for name in "ID_ALLOW_SPECIAL_CHARACTERS", "ID_ALLOW_EMPTY":
            self.check({"WEB_PORT": "8080", "WEB_PLAY": "anyone", name: "YES"}, "WEB_PLAY")
            self.check({"WEB_PORT": "8080", "WEB_PLAY": "key", name: "YES"})
            self.check({"WEB_PLAY": "anyone", name: "YES"})
        self.assertEqual([Settings.load({"WEB_PORT": port}).web for port in ("0", "80")], [False, True])
        self.assertTrue(Settings.load({"WEB_SSL_PORT": "80", **both}).web)

    def test_cluster(self) -> None:
        address, secret = {"CLUSTER_ADDRESS": "rtmp://10.0.0.1"}, {"CLUSTER_SECRET": "s" * 32}
        both = {"CLUSTER_USE": "YES", **address, **secret}
        self.check({"CLUSTER_USE": "YES"}, "CLUSTER_USE", "CLUSTER_USE")
        self.check({"CLUSTER_USE": "YES", **address}, "CLUSTER_USE")
        self.check({"CLUSTER_USE": "YES", **secret}, "CLUSTER_USE")
        self.check(both)
        self.check({"CLUSTER_SECRET": "s" * 31}, "CLUSTER_SECRET")
        self.check({**both, "WORKERS": "2"})
        self.check({**both, "CLUSTER_ADDRESS": "rtmps://10.0.0.1"}, "CLUSTER_ADDRESS")
        certificate = {"SSL_CERT": str(HERE), "SSL_KEY": str(HERE)}
        self.check({**both, "CLUSTER_ADDRESS": "rtmps://10.0.0.1", **certificate})

    def test_coordinator(self) -> None:
        self.check({"CONTROL_USE": "YES"}, "CONTROL_USE")
        self.check({"CONTROL_USE": "NO"})
        self.check({"CONTROL_USE": "YES", "CONTROL_BASE_URL": "ws://127.0.0.1:8080"})

    def test_http_beyond_loopback(self) -> None:
        self.check({"HTTP_PORT": "8080", "HTTP_BIND_ADDRESS": "0.0.0.0"}, "HTTP_BIND_ADDRESS")
        self.check({"HTTP_PORT": "8080", "HTTP_BIND_ADDRESS": "::"}, "HTTP_BIND_ADDRESS")
        self.check({"HTTP_PORT": "8080", "HTTP_BIND_ADDRESS": "0.0.0.0", "HTTP_TOKEN": "t"})
        self.check({"HTTP_PORT": "8080", "HTTP_BIND_ADDRESS": "127.0.0.2"})
        self.check({"HTTP_PORT": "8080", "HTTP_BIND_ADDRESS": "::1"})
        self.check({"HTTP_BIND_ADDRESS": "0.0.0.0"})

    def test_warnings(self) -> None:
        callback = {"CALLBACK_URL": "http://127.0.0.1/"}
        control = {"CONTROL_USE": "YES", "CONTROL_BASE_URL": "ws://127.0.0.1/"}
        for environ, starts in (
            (callback, ["JWT_SECRET"]),
            ({**callback, "JWT_SECRET": "x"}, []),
            (control, ["CONTROL_SECRET"]),
            ({**control, **callback, "CONTROL_SECRET": "x"}, ["CALLBACK_URL"]),
            ({**control, "CONTROL_SECRET": "x", "GOP_CACHE_SIZE_MB": "0"}, ["GOP_CACHE_SIZE_MB"]),
            ({"WEB_PLAY": "anyone"}, ["WEB_PLAY"]),
            ({"WEB_PLAY": "anyone", "WEB_PORT": "8080"}, []),
            ({"WEB_PLAY": "key"}, []),
            ({"CLUSTER_SECRET": "s" * 32}, ["CLUSTER_ADDRESS"]),
        ):
            self.assertEqual([line.partition(" ")[0] for line in Settings.load(environ).warnings()], starts)


class SecretTests(SynchronousTestCase):
    NAMES = ("JWT_SECRET", "REDIS_PASSWORD", "CONTROL_SECRET", "HTTP_TOKEN", "PLAY_SECRET", "CLUSTER_SECRET")

    def test_never_shown(self) -> None:
        environ = {**dict.fromkeys(self.NAMES, SECRET), "PLAY_SECRET": SECRET * 3}
        environ["CLUSTER_SECRET"] = SECRET * 3
        environ["CALLBACK_URL"] = f"https://me:{SECRET}@example.net/cb?token={SECRET}"
        environ["CONTROL_BASE_URL"] = f"ws://me:{SECRET}@example.net/"
        loaded = Settings.load(environ)
        for shown in repr(loaded), repr(loaded.non_default()), repr(loaded.warnings()):
            self.assertNotIn(SECRET, shown)
        self.assertIn(("REDIS_PASSWORD", "***"), loaded.non_default())
        self.assertIn(("CALLBACK_URL", "https://***@example.net/cb?***"), loaded.non_default())

    def test_not_in_mistakes(self) -> None:
        for name in self.NAMES:
            error = self.assertRaises(SettingsError, Settings.load, {name: f"{SECRET}\n"})
            self.assertIn(name, str(error))
            self.assertNotIn(SECRET, str(error))
        for url in f"htp://me:{SECRET}@h/", f"http:/me:{SECRET}@h", f"http://h:x/?{SECRET}", f"me:{SECRET}@h/a\n":
            error = self.assertRaises(SettingsError, Settings.load, {"CALLBACK_URL": url})
            self.assertNotIn(SECRET, str(error))

    def test_mask_url(self) -> None:
        self.assertEqual(mask_url("https://example.net:1/a"), "https://example.net:1/a")


class ShownTests(SynchronousTestCase):
    def test_non_default(self) -> None:
        loaded = Settings.load({"RTMP_PORT": "1935", "LOG_DEBUG": "YES", "EXTERNAL_PORT": "1", "BIND_ADDRESS": "::1"})
        wanted = [("BIND_ADDRESS", "::1"), ("EXTERNAL_PORT", "1"), ("LOG_DEBUG", "YES")]
        self.assertEqual(loaded.non_default(), wanted)
        self.assertEqual(evolve(Settings(), write_merge_ms=0).non_default(), [("WRITE_MERGE_MS", "0")])

    def test_help_has_every_option_with_variable_and_default(self) -> None:
        class TestOptions(Options):
            optParameters = option_parameters()

        self.patch(os, "environ", {**os.environ, "COLUMNS": "80"})
        text = " ".join(str(TestOptions()).split())
        for name in DOCUMENTED:
            self.assertIn(f" --{name.lower().replace('_', '-')}= ", text)
            self.assertIn(f" [{name}, default: ", text)
        self.assertIn("[RTMP_PORT, default: 1935]", text)
        options = TestOptions()
        options.parseOptions(["--rtmp-port=1936", "--redis-use", "YES"])
        loaded = Settings.load({}, options)
        self.assertEqual((loaded.rtmp_port, loaded.redis_use), (1936, True))
        self.assertEqual(loaded.given, {"rtmp_port", "redis_use"})

    def test_pages_are_current(self) -> None:
        for page in "README.md", "docs/settings.md":
            text = (HERE.parent.parent / page).read_text()
            self.assertIn(markdown_table(), text, f"{page}: python -m rtmp_twisted.settings prints the table")


class NetworksTests(SynchronousTestCase):
    def test_contains(self) -> None:
        some = Networks.parse("127.0.0.1, 10.0.0.0/8,2001:db8::/32,::1,::ffff:192.0.2.0/120,fe80::/10")
        inside = ["127.0.0.1", "10.255.0.1", "::ffff:10.0.0.1", "2001:db8::5", "::1", "192.0.2.77", "fe80::1%eth0"]
        for address in inside:
            self.assertIn(address, some)
        for address in ["127.0.0.2", "11.0.0.1", "::ffff:11.0.0.1", "2001:db9::1", "192.0.3.1", "", "/run/x", "*"]:
            self.assertNotIn(address, some)

    def test_everyone_and_nobody(self) -> None:
        self.assertIn("/run/rtmp.sock", EVERYONE)
        self.assertIn("192.0.2.1", Networks.parse("10.0.0.0/8,*"))
        self.assertNotIn("127.0.0.1", Networks())
        self.assertFalse(Networks())
        self.assertTrue(EVERYONE)


class DotenvTests(SynchronousTestCase):
    def read(self, content: bytes, environ: dict[str, str] | None = None) -> Dotenv:
        self.file = Path(self.mktemp())
        self.file.write_bytes(content)
        return Dotenv.read(self.file, environ or {})

    def values(self, content: bytes, environ: dict[str, str] | None = None) -> dict[str, str]:
        found = self.read(content, environ)
        self.assertEqual(found.mistakes, [], content)
        return {name: value for name, (value, _) in found.values.items()}

    def mistakes(self, content: bytes) -> list[str]:
        found = self.read(content)
        self.assertEqual(found.values, {})
        return [mistake.removeprefix(str(self.file)) for mistake in found.mistakes]

    def test_good_lines(self) -> None:
        for line, value in (
            (b"A=b", "b"),
            (b"A=", ""),
            (b"A= # nothing", ""),
            (b"export A=b", "b"),
            (b"  A = b c  ", "b c"),
            (b"A=b#c", "b#c"),
            (b"A=b # c", "b"),
            (b"A=b=c", "b=c"),
            (b"A='b # $c \\n'", "b # $c \\n"),
            (b"A=''", ""),
            (b'A="b \\"c\\" \\\\ \\n" # d', 'b "c" \\ \n'),
            (b"A='b'# c", "b"),
            (b"A=b\r", "b"),
            (b"\xef\xbb\xbfA=\xc3\xa9", "é"),
            (b"# B=c\n\n   \nA=b", "b"),
            (b"A=a\nA=b", "b"),
        ):
            self.assertEqual(self.values(line + b"\n"), {"A": value}, line)

    def test_wrong_lines(self) -> None:
        for line in [b"secret", b"=secret", b"1A=secret", b"A B=secret", b"A: secret", b"export A"]:
            self.assertEqual(self.mistakes(b"#\n" + line), [", line 2: not of the form NAME=value"])
        for line in [b"A='secret", b'A="secret', b"A='secret' more", b'A="secret\\"']:
            self.assertEqual(self.mistakes(line), [", line 1: A: a quote is not closed, or text follows it"])

    def test_unreadable(self) -> None:
        self.assertEqual(self.mistakes(b"A=\xff"), [": cannot be read: it is not UTF-8 text"])
        self.assertEqual(Dotenv.read(Path(self.mktemp()), {}), Dotenv())
        self.assertEqual(len(Dotenv.read(Path("/"), {}).mistakes), 1)

    def test_mistakes_join_the_others(self) -> None:
        file = Path(self.mktemp())
        file.write_text("nonsense\nRTMP_PORT=http\n")
        error = self.assertRaises(SettingsError, Settings.load, {"REDIS_PORT": "x"}, None, file)
        self.assertEqual(
            [line.partition(": ")[0] for line in error.lines],
            [f"{file}, line 1", "RTMP_PORT (.env, line 2)", "REDIS_PORT"],
        )

    def test_variables(self) -> None:
        """In the manner of godotenv and dotenvy; A is set by an earlier line, B by the environment, C by both."""
        for text, value in (
            (b"$A", "a"),
            (b"${A}", "a"),
            (b"x${A}y$A-$B", "xaya-b"),
            (b"$A$A", "aa"),
            (b"$C", "c of the environment"),
            (b"$EMPTY.", "."),
            (b"$EMPTY_IN_ENVIRONMENT.", "."),
            (b"$EMPTY_THERE_BUT_SET_HERE", "here"),
            (b'"$A ${B} \\n"', "a b \n"),
            (b"'$A ${B}'", "$A ${B}"),
            (b"\\$A", "$A"),
            (b"\\${A} ${A}", "${A} a"),
            (b'"\\$A"', "$A"),
            (b'"\\\\$A"', "\\a"),
            (b"\\A", "\\A"),
            (b"$A # $B", "a"),
            (b"$HASH", "x # y"),
            (b"$DOLLAR", "$A"),
            (b"${DOTTED.NAME}", "d"),
            (b"a$", "a$"),
            (b"$-", "$-"),
            (b"$$A", "$a"),
        ):
            lines = (
                b"A=a\nC=c\nEMPTY=\nEMPTY_THERE_BUT_SET_HERE=here\nHASH='x # y'\nDOLLAR='$A'\nDOTTED.NAME=d\nX=" + text
            )
            environ = {
                "B": "b",
                "C": "c of the environment",
                "EMPTY_IN_ENVIRONMENT": "",
                "EMPTY_THERE_BUT_SET_HERE": "",
            }
            self.assertEqual((text, self.values(lines, environ)["X"]), (text, value))
            self.assertEqual(self.read(lines, environ).warnings, [])

    def test_what_is_not_set_is_kept_with_a_warning(self) -> None:
        for text in b"$SET_LATER", b"pa${secret", b"pa$secret", b'"pa${secret}"', b"pa$5", b"$X":
            found = self.read(b"#\nX=" + text + b"\nSET_LATER=1\n")
            self.assertEqual(found.values["X"], (text.decode().strip('"'), 2))
            [warning] = found.warnings
            self.assertTrue(warning.startswith("X (.env, line 2): the variable after a $ is not set"), warning)
            self.assertNotIn("secret", warning)

    def test_in_settings(self) -> None:
        file = Path(self.mktemp())
        file.write_text("NAME=live.example.net\nCALLBACK_URL=https://$NAME/cb\nJWT_SECRET=a$bc\n")
        loaded = Settings.load({}, None, file)
        self.assertEqual((loaded.callback_url, loaded.jwt_secret), ("https://live.example.net/cb", "a$bc"))
        [warning] = loaded.warnings()
        self.assertTrue(warning.startswith("JWT_SECRET (.env, line 3): the variable after a $ is not set"), warning)


SHELL = """
BASH_FUNC_which%% COLORTERM DBUS_SESSION_BUS_ADDRESS DEBIAN_FRONTEND DISPLAY EDITOR GPG_AGENT_INFO GPG_KEY HISTCONTROL
HOME HOSTNAME HOSTTYPE HTTP_PROXY HTTPS_PROXY INVOCATION_ID JOURNAL_STREAM LANG LANGUAGE LC_ALL LD_LIBRARY_PATH LESS
LESSCLOSE LESSOPEN LISTEN_FDNAMES LISTEN_FDS LISTEN_PID LISTEN_PIDFDID LOGNAME LOG_LEVEL LOGS_DIRECTORY LS_COLORS MAIL
MAILCHECK MEMORY_PRESSURE_WATCH MOTD_SHOWN NODE_EXTRA_CA_CERTS NOTIFY_SOCKET NO_PROXY OLDPWD OSTYPE PAGER PATH
PIP_CERT PORT PS1 PWD PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHON_VERSION REDIS_URL REQUESTS_CA_BUNDLE
RTMP_TWISTED_COMPILE RUNTIME_DIRECTORY SHELL SHLVL SMTP_HOST SMTP_PORT SSH_AGENT_PID SSH_AUTH_SOCK SSH_CLIENT
SSH_CONNECTION SSH_PORT SSH_TTY SSL_CERT_DIR SSL_CERT_FILE STATE_DIRECTORY SUDO_COMMAND SUDO_UID SYSTEMD_EXEC_PID TERM
TMPDIR TZ UID USER VIRTUAL_ENV WAYLAND_DISPLAY XAUTHORITY XDG_RUNTIME_DIR XDG_SESSION_ID _ http_proxy no_proxy
"""
"""What the environment of a shell, a systemd service or a container has, and what developers add to it."""

POD = """
KUBERNETES_PORT=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1
KUBERNETES_PORT_443_TCP_PORT=443
KUBERNETES_PORT_443_TCP_PROTO=tcp
KUBERNETES_SERVICE_HOST=10.96.0.1
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443
REDIS_MASTER_PORT=tcp://10.96.7.7:6379
REDIS_MASTER_PORT_6379_TCP=tcp://10.96.7.7:6379
REDIS_MASTER_PORT_6379_TCP_ADDR=10.96.7.7
REDIS_MASTER_PORT_6379_TCP_PORT=6379
REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
REDIS_MASTER_SERVICE_HOST=10.96.7.7
REDIS_MASTER_SERVICE_PORT=6379
REDIS_MASTER_SERVICE_PORT_TCP_REDIS=6379
REDIS_PORT=tcp://[fd00::7]:6379
REDIS_PORT_6379_TCP=tcp://[fd00::7]:6379
REDIS_PORT_6379_TCP_ADDR=fd00::7
REDIS_PORT_6379_TCP_PORT=6379
REDIS_PORT_6379_TCP_PROTO=tcp
REDIS_SERVICE_HOST=fd00::7
REDIS_SERVICE_PORT=6379
RTMP_PORT=tcp://10.96.3.3:1935
RTMP_PORT_1935_TCP=tcp://10.96.3.3:1935
RTMP_SERVICE_HOST=10.96.3.3
RTMP_SERVICE_PORT=1935
HOSTNAME=rtmp-5d4f8
PATH=/usr/bin
"""
"""What Kubernetes puts into each pod when there are services called redis, redis-master and rtmp."""

LINKED = """
REDIS_PORT=tcp://172.17.0.2:6379
REDIS_PORT_6379_TCP=tcp://172.17.0.2:6379
REDIS_PORT_6379_TCP_ADDR=172.17.0.2
REDIS_NAME=/rtmp/redis
REDIS_ENV_REDIS_DOWNLOAD_SHA=5c76d990a1b1c5f949bcd1eed90d0c8a4f70369bdbdcb40288c561ddf88967a4
"""
"""What ``docker run --link redis`` sets."""


class MisspeltTests(SynchronousTestCase):
    def warnings(self, environ: dict[str, str] | None = None, dotenv: str = "") -> list[str]:
        file = Path(self.mktemp())
        file.write_text(dotenv)
        return Settings.load(environ or {}, None, file).warnings()

    def test_near_a_setting(self) -> None:
        for name, setting in (
            ("CALBACK_URL", "CALLBACK_URL"),
            ("CALLBAK_URI", "CALLBACK_URL"),
            ("CALLBACK-URL", None),  # not possible in a shell, and not looked at
            ("RTMP_PROT", "RTMP_PORT"),
            ("REDISHOST", "REDIS_HOST"),
            ("redis_host", "REDIS_HOST"),
            ("MAX_IP_CONCURENT_CONECTIONS", "MAX_IP_CONCURRENT_CONNECTIONS"),
            ("MAX_CONNECTION", "MAX_CONNECTIONS"),
            ("ID_MAX_LENGHT", "ID_MAX_LENGTH"),
            ("LISTENS", "LISTEN"),
            ("LOG_DEBUGG", "LOG_DEBUG"),
        ):
            wanted = [f"{name}: did you mean {setting}?"] if setting else []
            self.assertEqual(self.warnings({name: SECRET}), wanted)

    def test_prefix_of_settings(self) -> None:
        for name in "RTMP_TIMEOUT", "SSL_CERTIFICATE", "REDIS_PASS", "CONTROL_TIMEOUT", "HTTP_TIMEOUT", "LOG_COLOUR":
            self.assertEqual(self.warnings({name: SECRET}), [f"{name}: there is no such setting"])
        for name in "MAX_RETRIES", "ID_LIKE", "EXTERNAL_DNS", "LOGS_DIR", "RTMPS", "CALLBACK", "MY_REDIS_HOST":
            self.assertEqual(self.warnings({name: SECRET}), [])

    def test_dotenv(self) -> None:
        text = f"CALBACK_URL={SECRET}\nANYTHING=1\nexport REDIS_HOST=localhost\nHTTP_PROXY=http://10.0.0.1\n"
        self.assertEqual(
            self.warnings(dotenv=text),
            [
                "CALBACK_URL (.env, line 1): did you mean CALLBACK_URL?",
                "ANYTHING (.env, line 2): there is no such setting",
            ],
        )

    def test_a_variable_that_is_used_has_a_meaning(self) -> None:
        self.assertEqual(self.warnings(dotenv="DOMAIN=example.net\nRTMP_HOST=live.$DOMAIN\n"), [])

    def test_usual_environments(self) -> None:
        self.assertEqual(self.warnings(dict.fromkeys(SHELL.split(), "x")), [])
        for text in POD, LINKED:
            environ = dict(line.split("=", 1) for line in text.split())
            self.assertEqual(self.warnings(environ), [])
            self.assertEqual(Settings.load(environ).given, frozenset())

    def test_only_an_injected_port_is_ignored(self) -> None:
        for name in "REDIS_PORT", "RTMP_PORT":
            error = self.assertRaises(SettingsError, Settings.load, {name: "tcp://10.0.0.1:6379"})
            self.assertIn(name, str(error))

    def test_an_injected_port_does_not_hide_one_of_the_file(self) -> None:
        file = Path(self.mktemp())
        file.write_text("REDIS_PORT=6380\n")
        environ = dict(line.split("=", 1) for line in POD.split())
        self.assertEqual(Settings.load(environ, None, file).redis_port, 6380)

    def test_lists(self) -> None:
        """No setting is exempt by mistake, and no common word is left over from a setting that is gone."""
        self.assertEqual(misspelt.WELL_KNOWN & set(DOCUMENTED), set())
        words = {name.partition("_")[0] for name in DOCUMENTED}
        self.assertEqual(misspelt.COMMON_WORDS - words, set())


class MisspeltInAProcessTests(TestCase):
    timeout = 60

    async def test_check(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / ".env").write_text(f"REDIS_PASS={SECRET}\n")
        script = f"import os; os.chdir({str(folder)!r}); from twisted.scripts.twistd import run; run()"
        command = (sys.executable, "-c", script, "-n", "--pidfile=", "rtmp", "--check")
        checked = Program(self, *command, PYTHONPATH=str(ROOT), CALBACK_URL=f"http://{SECRET}/")
        self.assertEqual(await within(checked.ended), 0, str(checked))
        self.assertEqual(
            [line for line in checked.lines if line.startswith("warning: ")],
            [
                "warning: REDIS_PASS (.env, line 1): there is no such setting",
                "warning: CALBACK_URL: did you mean CALLBACK_URL?",
            ],
        )
        self.assertNotIn(SECRET, "\n".join(checked.lines))
